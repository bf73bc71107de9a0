"""A run's life: from a file to a checked configuration, its processes, its folder, its checkpoints, its end."""
