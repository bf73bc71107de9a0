"""PuzzleMix for mixcore: salient blocks of two images arranged so that little of either is lost."""

from __future__ import annotations

from mixcore_plugin_puzzlemix.energy import Boundaries, Energy, boundaries, prior_costs, puzzle_energy
from mixcore_plugin_puzzlemix.exact import solve_exactly
from mixcore_plugin_puzzlemix.plugin import PuzzleMix
from mixcore_plugin_puzzlemix.puzzle import assemble, puzzle_masks, solve
from mixcore_plugin_puzzlemix.relaxed import solve_relaxed
from mixcore_plugin_puzzlemix.version import __version__

__all__ = [
    "Boundaries",
    "Energy",
    "PuzzleMix",
    "__version__",
    "assemble",
    "boundaries",
    "prior_costs",
    "puzzle_energy",
    "puzzle_masks",
    "solve",
    "solve_exactly",
    "solve_relaxed",
]
