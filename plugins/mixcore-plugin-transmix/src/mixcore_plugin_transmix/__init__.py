"""TransMix for mixcore: label weights by the attention that each image of a mix receives."""

from __future__ import annotations

from mixcore_plugin_transmix.transmix import TransMix, masks_on_grid
from mixcore_plugin_transmix.version import __version__

__all__ = ["TransMix", "__version__", "masks_on_grid"]
