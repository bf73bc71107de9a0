"""Slurm for mixcore: the runs of a sweep as one job array, through submitit."""

from __future__ import annotations

from mixcore_plugin_slurm.launcher import Slurm
from mixcore_plugin_slurm.task import CarriedOut
from mixcore_plugin_slurm.version import __version__

__all__ = ["CarriedOut", "Slurm", "__version__"]
