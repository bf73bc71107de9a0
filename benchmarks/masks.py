"""Methods that mix by a mask, targets included, beside plain restatements of the way their peers go.

AttentiveMix+ runs without its teacher: both sides are given the same maps.

Both sides run in turn in one process, on one batch, who goes first alternating; a ratio is that of two neighbours, and
the median is told: below 1 mixcore is faster. The peers draw one mask for the batch, so one restatement stands against
the mode per batch (wanted: at most 1) and the mode per sample (wanted: at most 2). Both give new images. Ours is
`create_mixer(...)` called on the batch, then `mix.targets(labels).dense(K)`. One thread is timed by the CPU time that
it took.

    python benchmarks/masks.py [METHOD ...] [--device cpu|cuda] [--threads 1] [--pairs 300] [--shapes cifar imagenet]
"""

from __future__ import annotations

import argparse
import functools
import math
import platform
import statistics
from collections.abc import Callable, Iterator

import attrs
import numpy as np
import torch
from mixup_cutmix import SHAPES, Side, milliseconds, ours
from torch import Tensor
from torch.nn import functional as F

from mixcore.api import hookimpl

Peer = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


# --- maps in place of a teacher's ------------------------------------------------------------------------------------


@functools.cache
def random_maps(count: int, device: torch.device) -> Tensor:
    """[count,7,7], the same ones at every call."""
    return torch.rand(count, 7, 7, generator=torch.Generator().manual_seed(0)).to(device)


def given_maps(images: Tensor) -> Tensor:
    """What both sides of AttentiveMix+ read."""
    return random_maps(images.shape[0], images.device)


@attrs.define(eq=False, kw_only=True)
class Given:
    """A saliency that is known beforehand."""

    role = "saliency"
    spec_version = (1, 2)

    @hookimpl
    def map_saliency(self, images: Tensor) -> Tensor:
        return given_maps(images)


# --- what the peers share --------------------------------------------------------------------------------------------


def dense(labels: Tensor, order: Tensor, lam: float, classes: int) -> Tensor:
    """Two one-hot rows by their shares."""
    rows = F.one_hot(labels, classes).float()
    return lam * rows + (1 - lam) * rows[order]


def blended(images: Tensor, order: Tensor, mask: Tensor) -> Tensor:
    """One mask of the image's own pixels, two products and a sum of whole batches."""
    return mask * images + (1 - mask) * images[order]


def cutmix_box(lam: float, centre: tuple[int, int], size: int) -> tuple[slice, slice, float]:
    """Rows, columns, and the share of the image outside of them."""
    half = int(size * math.sqrt(1 - lam)) // 2
    rows, columns = (slice(max(middle - half, 0), min(middle + half, size)) for middle in centre)
    return rows, columns, 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / size**2


# --- the peers' ways -------------------------------------------------------------------------------------------------


def plain_fmix(images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Noise, transform and sort in numpy, each time for the whole plane; the mask is then sent to the device."""
    size, lam = images.shape[-1], float(np.random.beta(1.0, 1.0))
    order = torch.randperm(images.shape[0], device=images.device)
    across, down = np.fft.fftfreq(size)[: size // 2 + 1], np.fft.fftfreq(size)[:, None]
    frequencies = np.sqrt(across**2 + down**2)
    noise = np.random.randn(size, size // 2 + 1, 2) / np.maximum(frequencies, 1 / size)[..., None] ** 3.0
    field = np.fft.irfft2(noise[..., 0] + 1j * noise[..., 1], (size, size))
    field = (field - field.min()) / (field.max() - field.min())
    ranks, count = field.ravel().argsort()[::-1], round(lam * size**2)
    mask = np.zeros(size**2, np.float32)
    mask[ranks[:count]] = 1
    sent = torch.from_numpy(mask.reshape(1, 1, size, size)).to(images.device)
    return blended(images, order, sent), dense(labels, order, lam, classes)


def plain_gridmix(images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Hole by hole into a mask of ones, whose mean is read."""
    size, lam = images.shape[-1], float(np.random.beta(0.2, 0.2))
    order = torch.randperm(images.shape[0], device=images.device)
    holes, area, aspect = np.random.randint(2, 7), np.random.uniform(0.5, 1.0), np.random.uniform(0.5, 2.0)
    wide = min(int(math.sqrt(size**2 * area / aspect)), size)
    high = min(int(wide * aspect), size)
    top, left = int((size - high) * np.random.rand()), int((size - wide) * np.random.rand())
    pitch = max(2, math.ceil(wide / holes))
    hole = min(max(int(pitch * math.sqrt(1 - lam)), 1), pitch - 1)
    mask = torch.ones(1, 1, size, size, device=images.device)
    for down in range(math.ceil(high / pitch)):
        for right in range(math.ceil(wide / pitch)):
            y, x = top + down * pitch, left + right * pitch
            mask[:, :, y : min(y + hole, top + high), x : min(x + hole, left + wide)] = 0
    return blended(images, order, mask), dense(labels, order, float(mask.mean()), classes)


def plain_saliencymix(images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """One map, of the first partner, in numpy on bytes: window by window of cumulated sums; one box pasted in place."""
    size, lam = images.shape[-1], float(np.random.beta(1.0, 1.0))
    order = torch.randperm(images.shape[0], device=images.device)
    image = images[order[0]].cpu().numpy().transpose(1, 2, 0)
    level = (255 * (image - image.min()) / (image.max() - image.min())).astype(np.uint8).astype(np.float32).mean(2)
    sums = np.pad(level.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    index, found = np.arange(size), np.zeros((size, size), np.float32)
    for window in (12, 24, 48, 28, 56, 112):
        low, high = np.maximum(index - window + 1, 0), np.minimum(index + window + 1, size)
        lines = sums[high] - sums[low]
        others = np.maximum(np.outer(high - low, high - low) - 1, 1)
        found += np.abs(level - (lines[:, high] - lines[:, low] - level) / others)
    rows, columns, lam = cutmix_box(lam, divmod(int(found.argmax()), size), size)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[order][:, :, rows, columns]
    return mixed, dense(labels, order, lam, classes)


def plain_smoothmix(images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """One bump: coordinates of twice the image's size, rolled to its place, the middle cut out, then the exponent."""
    size = images.shape[-1]
    order = torch.randperm(images.shape[0], device=images.device)
    down, right = (int(np.random.randint(-size // 2, size // 2)) for _ in range(2))
    sigma = float((np.random.rand() / 4 + 0.25) * size)
    line = torch.arange(2 * size, dtype=torch.float32, device=images.device)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).roll((down, right), (0, 1))
    grid = grid[size // 2 : size // 2 + size, size // 2 : size // 2 + size]
    bump = torch.exp(-((grid - (2 * size - 1) / 2) ** 2).sum(-1) / (2 * sigma**2))
    mixed = images * (1 - bump) + images[order] * bump
    return mixed, dense(labels, order, 1 - float(bump.sum()) / size**2, classes)


def plain_resizemix(images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """One box clipped by the image, the whole batch resized to it and pasted into a copy."""
    height, width = images.shape[-2:]
    order = torch.randperm(images.shape[0], device=images.device)
    scale = float(np.random.uniform(0.1, 0.8))
    centre, half = (np.random.randint(height), np.random.randint(width)), (int(height * scale), int(width * scale))
    top, bottom = (int(np.clip(centre[0] + sign * (half[0] // 2), 0, height)) for sign in (-1, 1))
    left, right = (int(np.clip(centre[1] + sign * (half[1] // 2), 0, width)) for sign in (-1, 1))
    resized = F.interpolate(images, (bottom - top, right - left), mode="nearest")
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = resized[order]
    return mixed, dense(labels, order, 1 - (bottom - top) * (right - left) / (height * width), classes)


def plain_attentivemix(images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Per sample a mask by top-k of its map and nearest interpolation; a weighted sum; one lam for the batch."""
    attention, lam = given_maps(images), float(np.random.beta(2.0, 2.0))
    order = torch.randperm(images.shape[0], device=images.device)
    kept, masks = max(int(attention[0].numel() * lam), 1), []
    for one in attention:
        cells = torch.zeros(one.numel(), device=images.device)
        cells[one.flatten().topk(kept).indices] = 1
        masks.append(F.interpolate(cells.view(1, 1, *one.shape), size=images.shape[-2:], mode="nearest"))
    mask = torch.cat(masks)
    return blended(images, order, mask), dense(labels, order, float(mask[0].mean()), classes)


# --- the table -------------------------------------------------------------------------------------------------------


@attrs.frozen
class Method:
    """A method as it stands in the table: options of its modes, and the peers' way."""

    peer: Peer
    modes: dict[str, dict[str, object]]


SAMPLE = {"per batch": {}, "per sample": {"per_sample": True}}
METHODS = {
    "attentivemix": Method(plain_attentivemix, {"per sample": {"saliency": Given()}}),
    "fmix": Method(plain_fmix, SAMPLE),
    "gridmix": Method(plain_gridmix, SAMPLE),
    "resizemix": Method(
        plain_resizemix,
        {
            "per batch": {"box": "clip", "per_sample_pos": False},
            "own places": {},
            "per sample": {"per_sample": True},
        },
    ),
    "saliencymix": Method(plain_saliencymix, {"per batch": {"per_sample_box": False}, "per sample": {}}),
    "smoothmix": Method(plain_smoothmix, SAMPLE),
}


# --- the comparison --------------------------------------------------------------------------------------------------


def theirs(peer: Peer, classes: int) -> Side:
    return lambda images, labels: peer(images, labels, classes)


def compare(first: Side, second: Side, images: Tensor, labels: Tensor, pairs: int) -> tuple[float, float, float]:
    """Median milliseconds of each side, and the median of the ratios of neighbours."""
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs + 5):
        for side in (0, 1) if pair % 2 else (1, 0):
            found = milliseconds((first, second)[side], images, labels)
            if pair >= 5:  # the first pairs warm up
                times[side].append(found)
    ratios = [own / other for own, other in zip(*times, strict=True)]
    return statistics.median(times[0]), statistics.median(times[1]), statistics.median(ratios)


def lines(names: list[str], shape: str, device: torch.device, pairs: int) -> Iterator[str]:
    """A line per method and mode."""
    batch, side, classes = SHAPES[shape]
    images = torch.randn(batch, 3, side, side, device=device)
    labels = torch.randint(classes, (batch,), device=device)
    for name in names:
        for mode, options in METHODS[name].modes.items():
            own, other, ratio = compare(
                ours(name, classes, overwrite=False, **options),
                theirs(METHODS[name].peer, classes),
                images,
                labels,
                pairs,
            )
            yield f"{shape:9} {name:12} {mode:11} mixcore {own:8.3f} ms   peers {other:8.3f} ms   ratio {ratio:5.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(METHODS)}; by default all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    arguments = parser.parse_args()
    unknown = set(arguments.methods) - METHODS.keys()
    if unknown:
        parser.error(f"found {', '.join(sorted(unknown))}; the table has {', '.join(METHODS)}")
    torch.set_num_threads(arguments.threads)
    np.random.seed(0)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {arguments.threads} thread(s)"
    print(f"{where}; {platform.machine()}; torch {torch.__version__}; medians of {arguments.pairs} pairs")
    for shape in arguments.shapes:
        for line in lines(arguments.methods or list(METHODS), shape, device, arguments.pairs):
            print(line, flush=True)


if __name__ == "__main__":
    main()
