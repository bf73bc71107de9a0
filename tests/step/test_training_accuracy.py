"""Accuracies of mixed batches in the log, against the stated formulas image by image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixcore.step.accuracy import training_accuracies
from mixcore.types import Mix, Targets


def stated(logits: Tensor, own: Tensor, other: Tensor, lams: Tensor) -> tuple[float, float]:
    """acc and acc_mix of pairs, in percent."""
    acc, mixed = [], []
    for z, a, b, lam in zip(logits, own.tolist(), other.tolist(), lams.tolist(), strict=True):
        first, second = z.argsort(descending=True)[:2].tolist()
        larger = max(lam, 1 - lam)
        major, minor = (a, b) if lam > 0.5 else (b, a)
        acc.append(first == a)
        mixed.append(larger * (first == major) + (1 - larger) * (second == minor))
    return 100 * sum(acc) / len(acc), 100 * sum(mixed) / len(mixed)


def test_pairs_are_counted_as_stated() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 3, generator=generator)
    labels = torch.randint(0, 3, (400,), generator=generator)
    partner = torch.randperm(400, generator=generator)
    lams = torch.rand(400, generator=generator)
    lams[:100], lams[100:110], lams[110:120] = 0.5, 0.0, 1.0
    mix = Mix.pair(torch.zeros(400, 1), partner, lams)
    found = training_accuracies(logits.requires_grad_(), mix.targets(labels))
    assert (float(found["top1"]), float(found["top1_mixed"])) == pytest.approx(
        stated(logits.detach(), labels, labels[partner], lams), rel=1e-5
    )
    assert not any(value.requires_grad for value in found.values())


def test_clean_images_and_more_sources_than_classes() -> None:
    labels, logits = torch.tensor([0, 1, 1]), torch.tensor([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0]])
    clean = training_accuracies(logits, Mix.clean(torch.zeros(3, 1)).targets(labels))
    assert [float(value) for value in clean.values()] == pytest.approx([200 / 3, 200 / 3])
    sources = torch.tensor([[0, 1, 2]])
    weights = torch.tensor([[0.2, 1.0, 0.8]])  # half, and the second class for the next: 1.0, 0.8 of 2
    found = training_accuracies(logits[2:], Targets(labels=torch.tensor([0, 1, 0]), sources=sources, weights=weights))
    assert [float(value) for value in found.values()] == pytest.approx([0, 90])


def test_labels_that_are_no_classes_have_none() -> None:
    mix = Mix.clean(torch.zeros(2, 1))
    assert training_accuracies(torch.zeros(2, 3), mix.targets(torch.rand(2, 3))) == {}


def test_a_run_logs_them(toy_run: Callable[..., Path]) -> None:
    folder = toy_run("mix.name=none", "schedule.epochs=2")
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert 0 <= record["train/top1"] <= 100
        assert record["train/top1"] == pytest.approx(record["train/top1_mixed"])
