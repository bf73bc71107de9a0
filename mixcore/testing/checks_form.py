"""Checks of form: any batch, any shape, any dtype, any labels."""

from __future__ import annotations

import torch

from mixcore.testing.expect import expect, expect_well_formed
from mixcore.testing.harness import Harness, NotApplicableError

__all__ = [
    "batch_sizes",
    "channels_last_is_kept",
    "heights_and_widths",
    "integer_and_soft_labels",
    "one_channel",
    "precisions",
]


def batch_sizes(harness: Harness) -> None:
    """Batches of 1, 2, 3 and 7 images are mixed."""
    for count in (1, 2, 3, 7):
        images, labels = harness.batch(count)
        for iteration in range(3):
            mix = harness.mix(images, labels, iteration=iteration)
            expect_well_formed(mix, images, harness.subject, f"a batch of {count}")


def heights_and_widths(harness: Harness) -> None:
    """Images higher than wide, and wider than high."""
    height, width = harness.subject.image_size
    for size in ((height, width), (width, height)):
        images, labels = harness.batch(image_size=size)
        mix = harness.mix(images, labels)
        expect_well_formed(mix, images, harness.subject, f"images of {size[0]}x{size[1]}")


def one_channel(harness: Harness) -> None:
    """Grey images."""
    images, labels = harness.batch(channels=1)
    expect_well_formed(harness.mix(images, labels), images, harness.subject, "images of one channel")


def precisions(harness: Harness) -> None:
    """float32, bfloat16 and float16 images keep their dtype; label weights are float32."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        images, labels = harness.batch(dtype=dtype)
        mix = harness.mix(images, labels)
        expect_well_formed(mix, images, harness.subject, f"images in {dtype}")


def channels_last_is_kept(harness: Harness) -> None:
    """Mixed images have the memory format of the batch, and the same values in either."""
    images, labels = harness.batch()
    for iteration in range(3):
        plain = harness.mix(images, labels, iteration=iteration).images
        last = harness.mix(images.to(memory_format=torch.channels_last), labels, iteration=iteration).images
        expect(plain.is_contiguous(), "images of a contiguous batch are no longer contiguous")
        expect(
            last.is_contiguous(memory_format=torch.channels_last),
            f"a channels_last batch gave images with strides {last.stride()}; keep the memory format",
        )
        expect(
            torch.allclose(plain, last, atol=1e-5), "the same batch gave other images in channels_last memory format"
        )


def integer_and_soft_labels(harness: Harness) -> None:
    """Classes as integers and as one-hot rows give the same targets."""
    accepts = getattr(harness.plugin, "accepts", ("class", "soft"))
    kinds = [kind for kind in ("class", "soft") if kind in accepts]
    classes = harness.subject.num_classes
    images, labels = harness.batch()
    dense = []
    for kind in kinds:
        told = labels if kind == "class" else torch.nn.functional.one_hot(labels, classes).float()
        mix, targets = harness.mix_and_targets(images, told)
        expect_well_formed(mix, images, harness.subject, f"{kind} labels")
        dense.append(targets.dense(classes))
    if len(dense) < 2:
        raise NotApplicableError(f"accepts {' and '.join(sorted(accepts))} labels only")
    expect(torch.allclose(dense[0], dense[1], atol=1e-6), "integer labels and the same labels as one-hot rows differ")
