"""Ray for mixcore: the runs of a sweep as tasks of a Ray cluster, lost ones tried again."""

from __future__ import annotations

from mixcore_plugin_ray.launcher import Ray
from mixcore_plugin_ray.version import __version__

__all__ = ["Ray", "__version__"]
