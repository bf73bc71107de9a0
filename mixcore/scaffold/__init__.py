"""The template of a plugin distribution, and what renders it for `mixcore new`."""
