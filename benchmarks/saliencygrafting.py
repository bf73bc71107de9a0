"""What Saliency Grafting costs beside its look at the network: the mix, and its labels.

    OMP_NUM_THREADS=1 python benchmarks/saliencygrafting.py

Milliseconds of processor time per batch, medians of alternating rounds in one process, one thread: the mixer beside
CutMix with a box per image, both with the map given, and the calibrated label weights of n x n masks and of masks in
pixels. `saliency = "uniform"` takes the place of the look.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from mixcore_plugin_saliencygrafting import calibrated_weights

import mixcore

SHAPES = ((100, 32, 4), (32, 224, 7))


def parts(count: int, size: int, blocks: int) -> dict[str, Callable[[int], object]]:
    """What is timed for a batch of `count` images of `size` pixels, by name; each takes the number of the round."""
    images, labels = torch.rand(count, 3, size, size), torch.randint(100, (count,))
    cutmix = mixcore.create_mixer("cutmix", num_classes=100, per_sample=True)
    grafting = mixcore.create_mixer("saliencygrafting", num_classes=100, saliency="uniform")
    saliency = torch.rand(count, 2, blocks, blocks)
    in_blocks = (torch.rand(count, 1, blocks, blocks) < 0.5).float()
    in_pixels = (torch.rand(count, 1, size, size) < 0.5).float()
    coarse, fine = (torch.cat((own, 1 - own), 1) for own in (in_blocks, in_pixels))
    return {
        "cutmix, a box per image": lambda number: cutmix(images, labels, iteration=number),
        "saliencygrafting": lambda number: grafting(images, labels, iteration=number),
        "labels of blocks": lambda _: calibrated_weights(saliency, coarse),
        "labels of pixels": lambda _: calibrated_weights(saliency, fine),
    }


def main() -> None:
    """Time the parts of both shapes in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for count, size, blocks in SHAPES:
        timed = parts(count, size, blocks)
        times: dict[str, list[float]] = {name: [] for name in timed}
        for number in range(rounds + 3):
            for name, part in timed.items():
                begun = time.process_time()
                part(number)
                times[name].append(1000 * (time.process_time() - begun))
        print(f"{count} images of {size} pixels, {blocks} x {blocks} blocks")
        for name, taken in times.items():
            print(f"  {name:26} {statistics.median(taken[3:]):7.2f} ms")


if __name__ == "__main__":
    main()
