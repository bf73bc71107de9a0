"""Ray for mixcore: the runs of a sweep as tasks of a Ray cluster, lost ones tried again.

Light: processes of the cluster import `task` alone. The launcher is `mixcore_plugin_ray.launcher.Ray`.
"""

from __future__ import annotations

import os

from mixcore_plugin_ray.version import __version__

__all__ = ["__version__"]

# Started by `uv run`, Ray would copy the working directory to every machine, data and runs included, and start workers
# in the copy; it reads this when it is imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
