"""RandAugment over the 14 operations that "FixMatch" lists (NeurIPS 2020, arXiv 2001.07685).

Arguments, fill and order of the colours are those that the published CIFAR-100 tables of vision transformers were made
with. f is the level over 10, in [0,1].
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from PIL import ImageEnhance, ImageOps
from PIL.Image import Image, Resampling
from timm.data import auto_augment as timm_operations

__all__ = ["FIXMATCH_OPERATIONS", "FixMatchAugment"]

WORDS = re.compile(r"fixmatch-m(?P<level>\d+(\.\d+)?)(-mstd(?P<spread>\d+(\.\d+)?))?")
EXAMPLE = "fixmatch-m7-mstd0.5"
HIGHEST = 10
LAYERS, PROBABILITY = 2, 0.5
FILL = (114, 123, 125)
"""The mean of CIFAR from blue to red, in images that are RGB: as published."""

_BEYOND = {"fillcolor": FILL, "resample": Resampling.BICUBIC}
"""What stands where an image was moved away, and how its pixels come between pixels."""

Operation = Callable[[Image, float], Image]


def _signed(value: float) -> float:
    return -value if random.random() < 0.5 else value


def _moved(move: Any, most: float) -> Operation:
    """A geometric operation of timm by `most` times f, either way."""
    return lambda image, f: move(image, _signed(most * f), **_BEYOND)


def _enhanced(enhancer: Any) -> Operation:
    """A factor of 1 plus or minus (0.05 + 0.9 f)."""
    return lambda image, f: enhancer(image).enhance(1 + _signed(0.05 + 0.9 * f))


FIXMATCH_OPERATIONS: Mapping[str, Operation] = {
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Brightness": _enhanced(ImageEnhance.Brightness),
    "Color": _enhanced(ImageEnhance.Color),
    "Contrast": _enhanced(ImageEnhance.Contrast),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Identity": lambda image, _: image,
    "Posterize": lambda image, f: ImageOps.posterize(image, int(4 + 4 * f)),
    "Rotate": _moved(timm_operations.rotate, 30),
    "Sharpness": _enhanced(ImageEnhance.Sharpness),
    "ShearX": _moved(timm_operations.shear_x, 0.3),
    "ShearY": _moved(timm_operations.shear_y, 0.3),
    "Solarize": lambda image, f: ImageOps.solarize(image, math.ceil(256 * (1 - f))),
    "TranslateX": _moved(timm_operations.translate_x_rel, 0.3),
    "TranslateY": _moved(timm_operations.translate_y_rel, 0.3),
}
"""By name: (image, f) -> image. Bits kept: 4 + 4f; inverted from 256 (1 - f) on; moved by a share of the side."""


@attrs.frozen
class FixMatchAugment:
    """Two operations, drawn with replacement, each with probability 0.5, at a level of their own.

    The level is drawn from Normal(`level`, `spread`) and cut to [0,10]. Draws come from python's global generator, as
    those of timm do.
    """

    level: float
    spread: float

    @classmethod
    def of(cls, words: str) -> FixMatchAugment:
        """From words such as "fixmatch-m7-mstd0.5": level and, where given, spread. Raises ValueError for others."""
        match = WORDS.fullmatch(words)
        if match is None or float(match["level"]) > HIGHEST:
            raise ValueError(
                f'{words!r} is no RandAugment of FixMatch; expected "fixmatch-m" with a level up to 10 and, '
                f'if it is drawn, "-mstd" with its spread, such as "{EXAMPLE}"'
            )
        return cls(float(match["level"]), float(match["spread"] or 0))

    def __call__(self, image: Image) -> Image:
        """An RGB image of the same size."""
        for name in random.choices(tuple(FIXMATCH_OPERATIONS), k=LAYERS):
            if random.random() < PROBABILITY:
                level = min(max(random.gauss(self.level, self.spread), 0), HIGHEST)
                image = FIXMATCH_OPERATIONS[name](image, level / HIGHEST)
        return image
