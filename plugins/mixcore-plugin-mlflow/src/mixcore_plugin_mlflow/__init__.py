"""MLflow for mixcore: configuration, metrics and files of every run on a tracking server."""

from __future__ import annotations

from mixcore_plugin_mlflow.tracker import MLflow
from mixcore_plugin_mlflow.version import __version__

__all__ = ["MLflow", "__version__"]
