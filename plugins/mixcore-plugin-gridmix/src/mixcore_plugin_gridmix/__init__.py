"""GridMix for mixcore: a lattice of holes that show another image."""

from __future__ import annotations

from mixcore_plugin_gridmix.gridmix import GridMix, gridmix
from mixcore_plugin_gridmix.lattice import hole_lines, lattice_lam, lattices, one_lattice, windows
from mixcore_plugin_gridmix.version import __version__

__all__ = ["GridMix", "__version__", "gridmix", "hole_lines", "lattice_lam", "lattices", "one_lattice", "windows"]
