"""Configurations of the published mixup benchmarks, one folder each: a file per backbone, and `methods.toml`.

`claims.toml` has the numbers that were printed for them.
"""
