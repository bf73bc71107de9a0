"""Slurm for mixcore: the runs of a sweep as one job array, through submitit.

Light: processes of the cluster import `task` alone. The launcher is `mixcore_plugin_slurm.launcher.Slurm`.
"""

from __future__ import annotations

from mixcore_plugin_slurm.version import __version__

__all__ = ["__version__"]
