"""Co-Mixup for mixcore: images of a group shown block by block, salient, connected and diverse."""

from __future__ import annotations

from mixcore_plugin_comixup.group import compatibility, duplicates, input_costs, peaks, penalty, share_blocks
from mixcore_plugin_comixup.images import assemble, groups_of, in_the_batch
from mixcore_plugin_comixup.labels import PairCosts, counts_of, labels_of, offer_halves
from mixcore_plugin_comixup.plugin import CoMixup
from mixcore_plugin_comixup.solver import solve, solve_by_chains, solve_two_by_two
from mixcore_plugin_comixup.version import __version__

__all__ = [
    "CoMixup",
    "PairCosts",
    "__version__",
    "assemble",
    "compatibility",
    "counts_of",
    "duplicates",
    "groups_of",
    "in_the_batch",
    "input_costs",
    "labels_of",
    "offer_halves",
    "peaks",
    "penalty",
    "share_blocks",
    "solve",
    "solve_by_chains",
    "solve_two_by_two",
]
