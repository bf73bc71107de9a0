"""AutoMix: "AutoMix: Unveiling the Power of Mixup for Stronger Classifiers", ECCV 2022, arXiv 2103.13027."""

from __future__ import annotations

import attrs

from mixcore_plugin_automix.block import AutoMixBlock, MixBlock
from mixcore_plugin_automix.learned import LearnedMix

__all__ = ["AutoMix"]


@attrs.define(eq=False, kw_only=True)
class AutoMix(LearnedMix):
    """AutoMix: a small block learns masks from the loss of a momentum copy of the network, in the same step."""

    lam_concat: bool = False
    """Tell the block lam, as one more channel of the map; without it the masks do not depend on lam."""

    def build_block(self, channels: int) -> MixBlock:
        """AutoMix's block."""
        return AutoMixBlock(channels, reduction=self.reduction, lam_concat=self.lam_concat, layer_norm=self.layer_norm)
