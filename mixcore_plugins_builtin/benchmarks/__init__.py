"""Configurations of the published mixup benchmarks, one folder each: a file per backbone, and `methods.toml`."""
