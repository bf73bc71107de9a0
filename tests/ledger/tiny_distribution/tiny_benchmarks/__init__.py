"""A benchmark small enough to be run by tests."""
