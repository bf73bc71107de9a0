"""Checks of a saliency: what its map is, and that asking for it changes nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from mixcore.step.step import TrainingStep
from mixcore.testing.expect import expect, expect_kept
from mixcore.testing.harness import Harness, companions

__all__ = [
    "saliency_is_a_map",
    "saliency_is_no_memory",
    "saliency_leaves_the_batch",
    "saliency_leaves_the_network",
    "saliency_of_any_batch",
    "saliency_of_groups",
]

GROUP = 3


def _map(harness: Harness, images: Tensor, labels: Tensor, step: TrainingStep | None = None) -> Tensor:
    """The map as the core takes it from the plugin."""
    return harness.mix(images, labels, step=step).notes["saliency"]


def saliency_is_a_map(harness: Harness) -> None:
    """The map is finite, at least 0, floating [N,h,w] on the images' device, without a graph."""
    images, labels = harness.batch()
    found = _map(harness, images, labels)
    height, width = images.shape[-2:]
    expect(found.ndim == 3 and found.shape[0] == len(images), f"the map is {list(found.shape)} of {len(images)} images")
    expect(
        found.shape[1] <= height and found.shape[2] <= width,
        f"the map is {list(found.shape)} of images of {height}x{width}; expected no finer grid than the pixels",
    )
    expect(found.device == images.device, f"the map is on {found.device}, the images are on {images.device}")
    expect(not found.requires_grad, "the map carries a graph; write map.detach()")
    expect(bool(found.isfinite().all()), "a value of the map is not finite")
    expect(found.min().item() >= 0, f"a value of the map is {found.min().item():.4g}; saliency is at least 0")


def saliency_of_any_batch(harness: Harness) -> None:
    """Batches of 1, 2 and 7 images, with classes and with soft labels where it accepts both, have a map each."""
    kinds = [kind for kind in harness.kinds if kind in ("class", "soft")] or harness.kinds[:1]
    for count in (1, 2, 7):
        for kind in kinds:
            images, labels = harness.batch(count, kind=kind)
            step = harness.step(kind=kind)
            found = _map(harness, images, labels, step)
            expect(found.shape[0] == count, f"{found.shape[0]} maps of {count} images with {kind} labels")
            expect(bool(found.isfinite().all()), f"a value of the map of {count} images is not finite")


def saliency_is_no_memory(harness: Harness) -> None:
    """The same batch at the same iteration has the same map bit for bit, in a new step and after other batches."""
    images, labels = harness.batch()
    first, step = _map(harness, images, labels), harness.step()
    _map(harness, *harness.batch(seed=1), step)
    again = _map(harness, images, labels, step)
    expect(torch.equal(first, again), "the same batch got another map; an instance keeps nothing between calls")


def saliency_of_groups(harness: Harness) -> None:
    """The map of a group is that of its rows alone, whatever the other rows of the batch are."""
    images, labels = harness.batch(2 * GROUP)
    together = _map(harness, images, labels, harness.step(group_size=GROUP))
    alone = _map(harness, images[:GROUP].clone(), labels[:GROUP].clone(), harness.step(group_size=GROUP))
    expect(torch.equal(together[:GROUP], alone), "a group of rows has another map beside other rows than alone")


def saliency_leaves_the_batch(harness: Harness) -> None:
    """Images, labels, maps and further augmentations are left as they were."""
    images, labels = harness.batch()
    before = images.clone(), labels.clone()
    step = harness.step()
    beside = companions(step, images)
    harness.mix(images, labels, step=step, beside=beside)
    expect(torch.equal(images, before[0]) and torch.equal(labels, before[1]), "the batch was written to")
    expect_kept(beside, companions(step, before[0]))


def saliency_leaves_the_network(harness: Harness) -> None:
    """Weights, gradients, buffers and modes of the network and of the plugin's parts are left, and global draws too."""
    images, labels = harness.batch()
    step = harness.step(options=harness.subject.looking)
    state = {name: value.clone() for name, value in step.state_dict().items() if isinstance(value, Tensor)}
    modes = {name: module.training for name, module in step.named_modules()}
    draws = torch.get_rng_state()
    _map(harness, images, labels, step)
    expect(torch.equal(torch.get_rng_state(), draws), "it drew from the global generator; draw from step.shared_rng")
    for name, value in step.state_dict().items():
        expect(not isinstance(value, Tensor) or torch.equal(value, state[name]), f"{name} changed")
    for name, module in step.named_modules():
        expect(module.training == modes[name], f"{name or 'the step'} was left in another mode")
    for name, parameter in step.named_parameters():
        expect(parameter.grad is None, f"{name} got a gradient; take it by torch.autograd.grad, or ask the probe")
