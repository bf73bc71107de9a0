"""What a mixer costs."""
