"""From raw files to batches: facts, files, the plan, the pipelines."""
