"""The hook setup: specifications, markers, versions, and the typed calls through which the core reaches plugins."""
