"""Ray for mixcore: the runs of a sweep as tasks of a Ray cluster, lost ones tried again.

Light: processes of the cluster import `task` alone. The launcher is `mixcore_plugin_ray.launcher.Ray`.
"""

from __future__ import annotations

from mixcore_plugin_ray.version import __version__

__all__ = ["__version__"]
