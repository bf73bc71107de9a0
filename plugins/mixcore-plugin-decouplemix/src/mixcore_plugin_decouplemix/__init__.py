"""DecoupleMix for mixcore: a loss in which the classes of a mixed image do not compete, and its binary form."""

from __future__ import annotations

from mixcore_plugin_decouplemix.binary import DecoupleMixBCE, two_hot_binary_cross_entropy
from mixcore_plugin_decouplemix.decouplemix import DecoupleMix, decoupled_cross_entropy
from mixcore_plugin_decouplemix.version import __version__

__all__ = ["DecoupleMix", "DecoupleMixBCE", "__version__", "decoupled_cross_entropy", "two_hot_binary_cross_entropy"]
