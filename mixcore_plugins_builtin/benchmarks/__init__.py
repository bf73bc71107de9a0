"""Published benchmarks as data: their configurations, and the numbers that were printed for them."""
