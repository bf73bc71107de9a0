"""From the bytes of an image file to upright 8-bit RGB."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

__all__ = ["DECODER_ERRORS", "MOST_PIXELS", "read_map", "read_rgb"]

DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for damaged files. Not Exception: whatever else arrives meanwhile, such as a signal to stop, is no
fault of the image. Nor MemoryError: a good image that found no room must not be left out as a bad one."""
MOST_PIXELS = 89_478_485
"""Pillow's own bound between large images and decompression bombs: a quarter of a gigabyte of RGB."""
COMMON_FORMATS = ("JPEG", "PNG", "WEBP")
"""Tried first: asking Pillow to try every format it knows makes a small image take 2.4 times as long."""
RUNS_A_PROGRAM = ("EPS",)
"""Formats that Pillow hands to Ghostscript: a data set must not start programs."""

_PILLOW_IS_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
"""A filter as the module `warnings` keeps them. What Pillow warns of names no file: bombs are refused here by name, and
EXIF data or a palette's transparency that it cannot use do not matter to the pixels."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation, what makes an image upright. Not ImageOps.exif_transpose: it also writes the EXIF data anew, and
refuses images over tags that nobody reads here."""
_GREY = ("1", "L", "LA", "La")
"""Modes of Pillow with one channel of at most 8 bits beside alpha."""
_UNKNOWN_RANGE = {"I": "32-bit integers", "F": "floating-point numbers"}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


def read_rgb(data: bytes) -> Image.Image:
    """The image in RGB, 8 bits a channel, turned as its EXIF orientation says; of several frames the first.

    16-bit grey is scaled to its range (v/257), the 16-bit colours of a PNG keep their upper byte; alpha is dropped and
    colour profiles are not applied. Raises one of DECODER_ERRORS for data that cannot be read, for pixels whose range
    is unknown (32-bit integers, floating point), and for more than MOST_PIXELS.
    """
    image, orientation = _load(data)
    return _upright(image.convert("RGB"), orientation)


def read_map(data: bytes) -> Image.Image:
    """The same of a map, but that grey stays grey (one channel); all else is RGB, a palette as its colours say."""
    image, orientation = _load(data)
    return _upright(image.convert("L" if image.mode in _GREY else "RGB"), orientation)


def _load(data: bytes) -> tuple[Image.Image, int]:
    """The image with 8 bits a channel, as it lies in the file, and its EXIF orientation."""
    if not data:
        raise ValueError("it is empty")
    # Put into the list once: to enter and leave catch_warnings for every image would make python forget which other
    # warnings it has already shown.
    if _PILLOW_IS_QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", category=Warning, module=r"PIL\.")
    image = _open(data)
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(_too_large(f"{image.width}x{image.height}"))
    image.load()
    orientation = _orientation(image)
    return _eight_bits(image), orientation


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _open(data: bytes) -> Image.Image:
    try:
        try:
            return Image.open(io.BytesIO(data), formats=COMMON_FORMATS)
        except UnidentifiedImageError:
            Image.init()
            return Image.open(io.BytesIO(data), formats=[name for name in Image.ID if name not in RUNS_A_PROGRAM])
    except UnidentifiedImageError:
        raise ValueError("it is no image that Pillow knows") from None
    except Image.DecompressionBombError:
        raise ValueError(_too_large("too many")) from None


def _too_large(found: str) -> str:
    return f"it has {found} pixels; at most {MOST_PIXELS:,} are read"


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1, upright, where EXIF data are missing, cannot be read or say something else."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except DECODER_ERRORS:
        return 1
    return found if isinstance(found, int) else 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image itself, or grey of 9 to 16 bits as 8. Raises ValueError where the range is unknown."""
    # Pillow keeps what PNG and PGM files with 16 bits hold in 32, before version 12 or still.
    wide = image.mode == "I" and image.format in ("PNG", "PPM")
    if not (wide or image.mode.startswith("I;16")):
        if image.mode in _UNKNOWN_RANGE:
            raise ValueError(
                f"its pixels are {_UNKNOWN_RANGE[image.mode]}, whose range is unknown; convert it to 8 or 16 bits"
            )
        return image
    tags = getattr(image, "tag_v2", {})
    top = 2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
    dtype = "=i4" if wide else ">u2" if image.mode == "I;16B" else "<u2"
    values = np.frombuffer(image.tobytes(), dtype).astype(np.uint32)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = top - values
    grey = (values * 255 + top // 2) // top
    return Image.frombytes("L", image.size, grey.astype(np.uint8).tobytes())
