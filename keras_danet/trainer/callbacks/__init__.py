"""What a training measures, shows and keeps while it runs.

A callback with a state has `get_state`, which gives what `json.dumps` takes,
and `set_state`: `Checkpoints` keeps it.
"""
