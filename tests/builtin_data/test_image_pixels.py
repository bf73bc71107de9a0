"""What becomes of images that are not plain 8-bit RGB, in both ways of reading: one by one, and all at the start."""

from __future__ import annotations

import errno
import io
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from mixcore.api import DataError, UnreadableSampleError
from mixcore.errors import PreemptedError
from mixcore_plugins_builtin.data import decode, pixels
from mixcore_plugins_builtin.data.decode import decode_all, open_rgb

RAMP = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5957
"""0 to 65527, so a sixteenth of the range at most is lost at the top."""


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def one_by_one(data):
    return np.asarray(open_rgb(data, "x.png", "refuse"))


def all_at_once(data):
    images, kept = decode_all([("x.png", data)], "the set", "refuse")
    assert kept.tolist() == [0]
    return images[0].permute(1, 2, 0).numpy()


both = pytest.mark.parametrize("read", [one_by_one, all_at_once])


@both
@pytest.mark.parametrize(("kind", "dtype"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2"), ("PPM", "<u2")])
def test_16_bit_images_are_scaled_to_their_range(read, kind, dtype):
    image = Image.fromarray(RAMP.astype(dtype))
    found = read(encoded(image, kind))
    assert np.array_equal(found[..., 0], np.rint(RAMP / 257))
    assert np.array_equal(found[..., 0], found[..., 2])


def tiff(bits, photometric, content, width=4, height=3):
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1)]
    tags += [(278, height), (279, len(content))]
    body = b"".join(
        tag.to_bytes(2, "little") + (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
        for tag, value in tags
    )
    start = 8 + len(content)
    header = b"II*\0" + start.to_bytes(4, "little")
    return header + content + len(tags).to_bytes(2, "little") + body + bytes(4)


@both
def test_12_bit_and_white_is_zero_are_read_by_their_tags(read):
    values = [0, 4095, 2048, 16] * 3
    packed = b"".join(
        bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255)) for a, b in zip(values[::2], values[1::2], strict=True)
    )
    assert read(tiff(12, 1, packed))[0, :, 0].tolist() == [0, 255, 128, 1]
    inverted = read(tiff(16, 0, RAMP.astype("<u2").tobytes()))
    assert np.array_equal(inverted[..., 1], np.rint((65535.0 - RAMP) / 257))


@both
@pytest.mark.parametrize(("dtype", "words"), [(np.int32, "32-bit integers"), (np.float32, "floating-point numbers")])
def test_images_of_unknown_range_are_refused_by_name(read, dtype, words):
    data = encoded(Image.fromarray(RAMP.astype(dtype)), "TIFF")
    with pytest.raises(DataError, match=rf"x\.png cannot be decoded \(its pixels are {words}.*8 or 16 bits"):
        read(data)


UPRIGHT = np.zeros((4, 6, 3), dtype=np.uint8)
UPRIGHT[:2, :3] = 255
"""White in the upper left quarter, wider than high."""
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT, 1),
    7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}
"""By EXIF orientation, what a camera has written for that image."""


@both
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied_once(read, kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    found = read(encoded(stored, kind, exif=exif, **options))
    assert found.shape == UPRIGHT.shape
    assert np.abs(found.astype(int) - UPRIGHT).max() < 80  # JPEG rings at edges


@both
def test_exif_that_cannot_be_read_does_not_spoil_the_image(read):
    data = encoded(Image.fromarray(UPRIGHT), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f", quality=100)
    assert read(data).shape == UPRIGHT.shape


@both
def test_alpha_is_dropped_and_palettes_and_grey_become_rgb(read):
    colours = np.array([[[250, 10, 20], [30, 240, 50]]], dtype=np.uint8)
    alpha = np.array([[[0], [128]]], dtype=np.uint8)
    assert np.array_equal(read(encoded(Image.fromarray(np.concatenate((colours, alpha), 2)))), colours)
    palette = Image.fromarray(colours).quantize(2)
    assert np.array_equal(read(encoded(palette, transparency=bytes((0, 128)))), colours)
    grey = Image.fromarray(np.array([[[7, 0], [9, 200]]], dtype=np.uint8), "LA")
    assert read(encoded(grey))[0].tolist() == [[7] * 3, [9] * 3]
    assert read(encoded(Image.new("1", (2, 1), 1)))[0].tolist() == [[255] * 3] * 2


@both
def test_cmyk_becomes_rgb(read):
    found = read(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"))
    assert found[4, 4].tolist() == [255, 0, 0]


@both
def test_a_decompression_bomb_is_refused_by_name_without_a_warning(read, monkeypatch):
    small = encoded(Image.new("L", (40, 30)))
    monkeypatch.setattr(pixels, "MOST_PIXELS", 1199)
    with pytest.raises(DataError, match=r"x\.png cannot be decoded \(it has 40x30 pixels; at most 1,199 are read"):
        read(small)
    monkeypatch.setattr(pixels, "MOST_PIXELS", 1200)
    assert read(small).shape == (30, 40, 3)


@both
@pytest.mark.parametrize("side", [10_000, 20_000])
def test_pillows_own_limits_are_told_in_the_same_words(read, side):
    data = bytearray(encoded(Image.new("1", (8, 8))))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=r"x\.png cannot be decoded \(it has .*; at most 89,478,485 are read"):
            read(bytes(data))


@both
@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "is empty"), (b"no image", "no image that Pillow knows"), (b"%!PS-Adobe-3.0 EPSF", "no im")],
)
def test_what_is_no_image_is_told_without_objects_in_memory(read, data, words):
    with pytest.raises(DataError, match=words) as caught:
        read(data)
    assert "BytesIO" not in str(caught.value)


@pytest.mark.parametrize("on_corrupt", ["refuse", "skip"])
def test_unreadable_samples_say_whether_to_skip(on_corrupt):
    with pytest.raises(UnreadableSampleError) as caught:
        open_rgb(b"no image", "x.png", on_corrupt)
    assert caught.value.skip == (on_corrupt == "skip")


@pytest.mark.parametrize("stop", [PreemptedError("stopped"), KeyboardInterrupt()])
def test_what_pillow_takes_for_a_fault_of_the_image_is_not_taken_for_one_here(stop, monkeypatch):
    """Pillow turns any exception inside some of its readers into a SyntaxError."""

    def interrupted(_data):
        try:
            raise stop
        except BaseException as error:
            raise SyntaxError("malformed MP Index") from error

    monkeypatch.setattr(decode, "read_rgb", interrupted)
    with pytest.raises(type(stop)):
        open_rgb(b"", "x.png", "skip")
    try:
        raise PreemptedError("handled by the caller, long ago")
    except PreemptedError:
        monkeypatch.setattr(decode, "read_rgb", pixels.read_rgb)
        with pytest.raises(UnreadableSampleError):
            open_rgb(b"", "x.png", "skip")


@both
def test_no_room_in_memory_is_no_fault_of_the_image(read, monkeypatch):
    def full(_data):
        raise MemoryError

    monkeypatch.setattr(decode, "read_rgb", full)
    with pytest.raises(MemoryError):
        read(b"")


@pytest.mark.parametrize(
    "read",
    [
        lambda path: open_rgb(path, "x.png", "skip"),
        lambda path: decode_all([("x.png", path)], "the set", "skip"),
    ],
    ids=["one_by_one", "all_at_once"],
)
def test_a_system_at_its_limits_is_no_fault_of_the_file(read, tmp_path, monkeypatch):
    def full(_path, _flags):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(decode, "_at_once", full)
    with pytest.raises(UnreadableSampleError, match=r"x\.png cannot be read \(Too many open files\)") as caught:
        read(tmp_path / "x.png")
    assert not caught.value.skip
