"""Analyses for mixcore: what a mixup paper reports beside accuracy, each a module and an entry point of its own."""

from mixcore_plugin_analyses.version import __version__

__all__ = ["__version__"]
