"""AttentiveMix+ for mixcore: the most attended cells of each image, pasted onto its partner."""

from __future__ import annotations

from mixcore_plugin_attentivemix.attentivemix import AttentiveMix, attentive_cells, attentivemix, cell_count
from mixcore_plugin_attentivemix.version import __version__

__all__ = ["AttentiveMix", "__version__", "attentive_cells", "attentivemix", "cell_count"]
