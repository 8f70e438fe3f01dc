"""Where weights come from: presets, and files that nobody vouches for."""
