"""AttentiveMix+ without its teacher (the attention map given) against a plain restatement of the peers' way.

Both sides run in turn in one process, on one batch, and medians are taken; a ratio below 1 says that mixcore is faster.
The peers fill one mask per sample in a Python loop, enlarge it, and multiply and add. Both end in dense targets.

    python benchmarks/masks_attentive.py [--device cpu|cuda] [--threads 1] [--pairs 300] [--shapes cifar imagenet]
"""

from __future__ import annotations

import argparse
import platform

import attrs
import torch
from mixup_cutmix import SHAPES, Side, compare
from torch import Tensor
from torch.nn import functional as F

import mixcore
from mixcore.api import hookimpl


@attrs.define(eq=False, kw_only=True)
class Given:
    """A saliency that is known beforehand."""

    role = "saliency"
    spec_version = (1, 2)

    attention: Tensor
    """[N,h,w]."""

    @hookimpl
    def map_saliency(self) -> Tensor:
        return self.attention


def ours(attention: Tensor, classes: int) -> Side:
    """mixcore's mixer, ending in dense targets."""
    mixer = mixcore.create_mixer("attentivemix", num_classes=classes, saliency=Given(attention=attention))
    return lambda images, labels: mixer(images, labels).targets(labels).dense(classes)


def theirs(attention: Tensor, classes: int) -> Side:
    """The peers' way: per sample a mask by top-k and nearest interpolation, a weighted sum, one lam for the batch."""
    count, height, width = attention.shape

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        lam = float(torch.distributions.Beta(2.0, 2.0).sample())
        partner = torch.randperm(count, device=images.device)
        kept = max(int(height * width * lam), 1)
        masks = []
        for one in attention:
            cells = torch.zeros(height * width, device=images.device)
            cells[one.flatten().topk(kept).indices] = 1
            masks.append(F.interpolate(cells.view(1, 1, height, width), size=images.shape[-2:], mode="nearest"))
        mask = torch.cat(masks)
        mixed = images * mask + images[partner] * (1 - mask)
        share = mask[0].mean().item()
        own, other = (F.one_hot(one, classes).float() for one in (labels, labels[partner]))
        return mixed, share * own + (1 - share) * other

    return mix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {arguments.threads} thread(s)"
    print(f"{where}; {platform.machine()}; torch {torch.__version__}; medians of {arguments.pairs} pairs")
    for shape in arguments.shapes:
        batch, side, classes = SHAPES[shape]
        images = torch.randn(batch, 3, side, side, device=device)
        labels = torch.randint(classes, (batch,), device=device)
        attention = torch.rand(batch, 7, 7, device=device)
        own, other = compare(ours(attention, classes), theirs(attention, classes), images, labels, arguments.pairs)
        print(f"{shape:9} attentivemix  mixcore {own:8.3f} ms   peers' way {other:8.3f} ms   ratio {own / other:5.2f}")


if __name__ == "__main__":
    main()
