"""Checks of repetition: the same seed, groups, saved state and options; and two steps of training."""

from __future__ import annotations

import io
import pickle
from typing import Any

import attrs
import torch

from mixcore.step.groups import join_mixes
from mixcore.step.step import TrainingStep
from mixcore.testing.expect import expect, expect_same_mix
from mixcore.testing.harness import Harness, companions

__all__ = [
    "groups_give_the_same_mix",
    "history_does_not_matter",
    "options_round_trip",
    "same_seed_same_mix",
    "state_round_trip",
    "two_training_steps",
]


def same_seed_same_mix(harness: Harness) -> None:
    """Two instances with one seed mix alike, bit for bit."""
    images, labels = harness.batch()
    for iteration in range(4):
        first = harness.mix(images, labels, iteration=iteration)
        expect_same_mix(harness.mix(images, labels, iteration=iteration), first, "two instances with the same seed")


def history_does_not_matter(harness: Harness) -> None:
    """What an iteration draws does not depend on which iterations came before it."""
    images, labels = harness.batch()
    used = harness.step()
    for iteration in range(4):
        harness.mix(images, labels, iteration=iteration, step=used)
    again = harness.mix(images, labels, iteration=1, step=used)
    expect_same_mix(again, harness.mix(images, labels, iteration=1), "iteration 1, after others and alone")


def groups_give_the_same_mix(harness: Harness) -> None:
    """With group_size, each group is mixed as it would be on a process of its own."""
    images, labels = harness.batch(6)
    whole = harness.mix(images, labels, iteration=2, step=harness.step(group_size=3))
    alone = [
        harness.mix(images[rows], labels[rows], iteration=2, step=harness.step(group_size=3, rank=rank))
        for rank, rows in enumerate((slice(0, 3), slice(3, 6)))
    ]
    expect_same_mix(whole, join_mixes(alone, [0, 3], [3, 3]), "two groups on one process, against one group on each")
    inside = whole.sources // 3 == torch.arange(len(whole.sources), device=images.device)[:, None] // 3
    expect(bool(inside.all()) or not harness.subject.keeps_rows, "a source lies outside its group")


def options_round_trip(harness: Harness) -> None:
    """Options survive the way through a table and through pickle, and mix alike afterwards."""
    plugin = harness.plugin
    options = attrs.asdict(plugin, recurse=False, filter=lambda field, value: field.init and value is not None)
    copies: dict[str, Any] = {"a table of its own options": harness.rebuilt(options)}
    try:
        copies["pickle"] = pickle.loads(pickle.dumps(plugin))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise AssertionError(f"it cannot be pickled ({error}); define the class at the top of a module") from error
    for way, copy in copies.items():
        for field in attrs.fields(type(plugin)):
            found, expected = getattr(copy, field.name), getattr(plugin, field.name)
            expect(found == expected, f"option {field.name} is {found!r} after {way}, it was {expected!r}")
    if harness.role != "mix":
        return
    images, labels = harness.batch()
    rebuilt = harness.mix(images, labels, step=harness.step(options=options))
    expect_same_mix(rebuilt, harness.mix(images, labels), "rebuilt from its own options")


def _train(harness: Harness, step: TrainingStep, optimizer: torch.optim.Optimizer, iteration: int) -> float:
    """One optimizer step; the loss."""
    images, labels = harness.batch(seed=iteration)
    loss, _ = step(images, labels, epoch=0, iteration=iteration, **companions(step, images))
    value = float(loss.detach())
    expect(torch.isfinite(loss.detach()).item() is True, f"the loss is {value} at iteration {iteration}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    step.after_step()
    return value


def two_training_steps(harness: Harness) -> None:
    """Two optimizer steps: finite losses, and every trained module moves."""
    step = harness.step()
    optimizer = torch.optim.SGD(step.param_groups(lr=0.05, momentum=0.9))
    trained = {one.name: [p.detach().clone() for p in one.module.parameters()] for one in step.trained()}
    for iteration in range(2):
        _train(harness, step, optimizer, iteration)
    for one in step.trained():
        moved = [not torch.equal(p, old) for p, old in zip(one.module.parameters(), trained[one.name], strict=True)]
        finite = all(bool(p.isfinite().all()) for p in one.module.parameters())
        expect(finite, f"parameters of {one.name} are not finite after two steps")
        expect(any(moved), f"no parameter of {one.name} moved in two steps")


def state_round_trip(harness: Harness) -> None:
    """Saved, loaded into a new step and continued, a run ends with the numbers of the run that went on."""
    step = harness.step()
    optimizer = torch.optim.SGD(step.param_groups(lr=0.05, momentum=0.9))
    _train(harness, step, optimizer, 0)
    saved = io.BytesIO()
    torch.save({"step": step.saved_state(), "optimizer": optimizer.state_dict()}, saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True, map_location=harness.device)
    resumed = harness.step()
    resumed.load_saved_state(state["step"])
    resumed_optimizer = torch.optim.SGD(resumed.param_groups(lr=0.05, momentum=0.9))
    resumed_optimizer.load_state_dict(state["optimizer"])
    went_on = _train(harness, step, optimizer, 1)
    continued = _train(harness, resumed, resumed_optimizer, 1)
    expect(went_on == continued, f"the loss after loading is {continued}, without a pause it is {went_on}")
    after = resumed.saved_state()
    for name, value in step.saved_state().items():
        expect(torch.equal(value, after[name]), f"{name} differs after a pause")
