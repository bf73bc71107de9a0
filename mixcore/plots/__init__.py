"""Pictures of what runs gave: each a PNG, with the numbers that it shows beside it as CSV."""
