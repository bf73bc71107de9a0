"""Assertions with a message that says what was found and what was expected."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixcore.api import Mix
from mixcore.data.stand_ins import StandIns
from mixcore.testing.harness import Harness, NotApplicableError, Subject

__all__ = ["expect", "expect_kept", "expect_same_mix", "expect_well_formed", "require_no_dropout"]


def expect(condition: bool, message: str) -> None:
    """AssertionError with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def expect_kept(found: StandIns, before: StandIns) -> None:
    """Maps and further augmentations of a batch are equal bit for bit to those of before."""
    for name, values in before["maps"].items():
        expect(torch.equal(found["maps"][name], values), f"the map {name!r} of the batch was changed")
    for number, values in enumerate(before["augmented"]):
        expect(torch.equal(found["augmented"][number], values), f"augmentation {number} of the batch was changed")


def expect_well_formed(mix: Mix, images: Tensor, subject: Subject, what: str) -> None:
    """Shapes, dtypes, device and finiteness of a mix of `images`; `what` names the case in messages."""
    keeps_rows, graph = subject.keeps_rows, subject.graph
    count = images.shape[0]
    rows = mix.images.shape[0]
    expect(
        mix.images.shape[1:] == images.shape[1:],
        f"{what}: mixed images are {list(mix.images.shape)}, the batch was {list(images.shape)}",
    )
    expect(rows == count or not keeps_rows, f"{what}: {rows} mixed images of {count} images; set keeps_rows = False?")
    expect(mix.images.dtype == images.dtype, f"{what}: mixed images are {mix.images.dtype}, not {images.dtype}")
    expect(mix.weights.dtype == torch.float32, f"{what}: weights are {mix.weights.dtype}, not float32")
    expect(mix.sources.dtype == torch.int64, f"{what}: sources are {mix.sources.dtype}, not int64")
    expect(
        mix.sources.shape == mix.weights.shape and mix.sources.shape[0] == rows,
        f"{what}: sources {list(mix.sources.shape)} and weights {list(mix.weights.shape)} of {rows} mixed images",
    )
    expect(bool(((mix.sources >= 0) & (mix.sources < count)).all()), f"{what}: sources outside 0..{count - 1}")
    tensors = {"images": mix.images, "sources": mix.sources, "weights": mix.weights, "masks": mix.masks}
    for name, tensor in tensors.items():
        if tensor is not None:
            expect(tensor.device == images.device, f"{what}: {name} are on {tensor.device}, not {images.device}")
            expect(bool(tensor.isfinite().all()), f"{what}: {name} are not finite")
            expect(
                graph or not tensor.requires_grad,
                f"{what}: {name} carry a graph; detach what is returned as data, or declare contract = "
                '{"graph": True} where the network\'s loss is to train a part of yours',
            )


def expect_same_mix(found: Mix, expected: Mix, what: str) -> None:
    """Two mixes are equal bit for bit, views included."""
    for name in ("images", "sources", "weights"):
        expect(torch.equal(getattr(found, name), getattr(expected, name)), f"{what}: {name} differ")
    expect((found.masks is None) == (expected.masks is None), f"{what}: masks on one side only")
    if found.masks is not None and expected.masks is not None:
        expect(torch.equal(found.masks, expected.masks), f"{what}: masks differ")
    expect(found.stage == expected.stage, f"{what}: stages {found.stage!r} and {expected.stage!r}")
    expect(len(found.views) == len(expected.views), f"{what}: {len(found.views)} and {len(expected.views)} views")
    for one, other in zip(found.views, expected.views, strict=True):
        expect_same_mix(one, other, f"{what}, a view")


def require_no_dropout(harness: Harness) -> None:
    """Dropout draws from the global generators by right, which a run seeds for it: NotApplicableError."""
    for module in harness.step().modules():
        rate = getattr(module, "p", getattr(module, "drop_prob", 0.0))
        if (isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ == "DropPath") and rate:
            raise NotApplicableError("its network has dropout, which draws from the global generators")
