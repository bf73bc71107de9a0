"""Pictures of mixed images."""
