"""Several mixers in a run: how often each has its turn, what stays clean, and how mixing ends."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import mixcore
from mixcore.step.step import TrainingStep
from mixcore.testing import TinyConvNet
from mixcore.types import Batch

DRAWS = 600


def step_of(mix, **settings) -> TrainingStep:
    return mixcore.create_step(TinyConvNet(4), mix=mix, num_classes=4, iterations=DRAWS, image_size=(8, 8), **settings)


def turns(step: TrainingStep, iterations=range(DRAWS)) -> Counter[str | None]:
    images, labels = torch.rand(2, 3, 8, 8), torch.arange(2)
    counted: Counter[str | None] = Counter()
    with torch.no_grad():
        for iteration in iterations:
            _, report = step(images, labels, iteration=iteration)
            counted[report.mixer] += 1
            if report.mixer is None:
                assert report.mix.images is images
                assert report.lam == 1
    return counted


def test_three_mixers_by_their_probabilities_and_a_clean_rest():
    tables = [
        {"name": "mixup", "alpha": 0.1, "probability": 0.2},
        {"name": "cutmix", "probability": 0.4},
        {"name": "mixup_cutmix", "probability": 0.1},
    ]
    counted = turns(step_of(tables))
    expected = {"mixup": 0.2, "cutmix": 0.4, "mixup_cutmix": 0.1, None: 0.3}
    assert counted.keys() == expected.keys()
    for name, share in expected.items():
        # four standard deviations
        assert counted[name] == pytest.approx(share * DRAWS, abs=4 * (DRAWS * share * (1 - share)) ** 0.5), name


def test_two_tables_share_equally_and_leave_nothing_clean():
    counted = turns(step_of(["mixup", "cutmix"]), range(200))
    assert counted.keys() == {"mixup", "cutmix"}
    assert counted["mixup"] == pytest.approx(100, abs=30)


def test_the_turns_depend_on_seed_and_iteration_alone():
    first, again, other = (step_of(["mixup", "cutmix"], seed=seed) for seed in (3, 3, 4))
    images, labels = torch.rand(2, 3, 8, 8), torch.arange(2)

    def order(step: TrainingStep, iterations) -> list[str | None]:
        return [step(images, labels, iteration=iteration)[1].mixer for iteration in iterations]

    forwards, backwards = order(first, range(30)), order(again, reversed(range(30)))
    assert forwards == backwards[::-1]
    assert forwards != order(other, range(30))


def test_mix_off_ends_mixing_and_smoothing_goes_on():
    step = step_of(
        ["mixup", "cutmix"],
        loss={"name": "soft_cross_entropy", "smoothing": 0.1},
        extra=[{"name": "mix_off", "epoch": 3}],
        epochs=4,
    )
    assert None not in turns(step, range(0, 3 * DRAWS // 4, 45))
    assert turns(step, range(3 * DRAWS // 4, DRAWS, 15)).keys() == {None}
    images, labels = torch.rand(2, 3, 8, 8), torch.arange(2)
    loss, _ = step(images, labels, iteration=DRAWS - 1)
    rows = torch.eye(4)[labels] * 0.9 + 0.1 / 4
    wanted = torch.nn.functional.cross_entropy(step.model(images), rows)
    torch.testing.assert_close(loss, wanted)


def test_two_tables_are_the_switch_of_mixup_cutmix():
    """The page's identity: alternating tables with probabilities 1-q and q, and the switch with switch_prob = q."""
    tables = [{"name": "mixup", "alpha": 0.8, "probability": 0.75}, {"name": "cutmix", "probability": 0.25}]
    by_tables = turns(step_of(tables))["cutmix"] / DRAWS
    step = step_of({"name": "mixup_cutmix", "switch_prob": 0.25})
    images, labels = torch.rand(2, 3, 8, 8), torch.arange(2)
    boxes = sum(
        step.mix_batch(Batch(images=images, labels=labels), mixer=0, iteration=iteration)[0].mask.shape[-1] > 1
        for iteration in range(DRAWS)
    )
    assert boxes / DRAWS == pytest.approx(by_tables, abs=0.08)
