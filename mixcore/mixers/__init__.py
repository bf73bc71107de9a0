"""Any method in anybody's loop: `create_mixer` for a mixed batch, `create_step` for a whole iteration."""

from mixcore.mixers.mixer import Mixer, create_mixer
from mixcore.mixers.pairs import Pairs
from mixcore.mixers.step import create_step

__all__ = ["Mixer", "Pairs", "create_mixer", "create_step"]
