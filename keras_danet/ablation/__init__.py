"""What does each part bring? Grids of trainings, and their table."""
