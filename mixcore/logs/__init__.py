"""What a run leaves to read: metrics.jsonl, TensorBoard events, progress on the terminal."""
