"""FMix for mixcore: masks of any area and of organic shape, from low-frequency noise."""

from __future__ import annotations

from mixcore_plugin_fmix.fields import fields, noise_shape
from mixcore_plugin_fmix.fmix import FMix, fmix, pixel_counts, ramp_halves
from mixcore_plugin_fmix.ranks import largest, ramps
from mixcore_plugin_fmix.version import __version__

__all__ = [
    "FMix",
    "__version__",
    "fields",
    "fmix",
    "largest",
    "noise_shape",
    "pixel_counts",
    "ramp_halves",
    "ramps",
]
