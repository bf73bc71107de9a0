"""Calibration, confusion, out-of-distribution and attacks, each against a restatement of its definition."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mixcore_plugin_analyses.adversarial import Fgsm, Pgd, attack
from mixcore_plugin_analyses.calibration import Calibration, binned
from mixcore_plugin_analyses.confusion import Confusion, confused_pairs
from mixcore_plugin_analyses.ood import false_positive_rate, separation
from mixcore_plugin_analyses.scan import scanned
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

from mixcore.api import Task
from mixcore.testing import ToyRun


def progress(items: Any, total: int | None = None) -> Iterator[Any]:
    return iter(items)


class Logits(nn.Module):
    """A network whose logits are its images."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def task(classes: int, channels: int = 3, size: int = 1, mean: float = 0.0, std: float = 1.0) -> Task:
    return Task(
        num_classes=classes,
        in_channels=channels,
        image_size=(size, size),
        mean=(mean,) * channels,
        std=(std,) * channels,
    )


def of_logits(logits: Tensor, labels: Tensor) -> ToyRun:
    return ToyRun(model=Logits(), images=logits[..., None, None], labels=labels)


def toy(confidence: float, right: int, of: int) -> tuple[Tensor, Tensor]:
    """Two classes, `of` images with that confidence in class 0, of which `right` are of class 0."""
    odds = torch.tensor([confidence, 1 - confidence]).log()
    return odds.expand(of, 2), torch.tensor([0] * right + [1] * (of - right))


def test_a_calibrated_network_has_no_error(tmp_path: Path) -> None:
    parts = [toy(0.6, 6, 10), toy(0.8, 8, 10), toy(0.9, 18, 20)]
    run = of_logits(torch.cat([logits for logits, _ in parts]), torch.cat([labels for _, labels in parts]))
    numbers = Calibration().analyse(run.model, run, tmp_path, progress)
    assert numbers["ece_10"] == pytest.approx(0, abs=1e-4)
    assert numbers["mce"] == pytest.approx(0, abs=1e-4)
    assert numbers["signed_gap"] == pytest.approx(0, abs=1e-4)
    assert numbers["accuracy"] == pytest.approx(80)
    assert numbers["brier"] == pytest.approx((10 * 0.48 + 10 * 0.32 + 20 * 0.18) / 40, abs=1e-6)
    assert (tmp_path / "picture.png").is_file()


def test_calibration_by_its_definition() -> None:
    rng = torch.Generator().manual_seed(3)
    logits, labels = (
        torch.randn(200, 5, generator=rng, dtype=torch.float64) * 2,
        torch.randint(5, (200,), generator=rng),
    )
    shares = logits.softmax(1)
    confidence, answer = shares.max(1)
    correct = answer == labels
    error = most = over = 0.0
    for number in range(10):
        inside = (confidence > number / 10) & (confidence <= (number + 1) / 10)
        if inside.any():
            gap = float(confidence[inside].mean() - correct[inside].double().mean())
            error += float(inside.double().mean()) * abs(gap)
            most, over = max(most, abs(gap)), over + float(inside.double().mean()) * max(gap, 0)
    bins = binned(confidence, correct, 10)
    assert bins.error() == pytest.approx(100 * error)
    assert bins.maximum() == pytest.approx(100 * most)
    assert bins.over() == pytest.approx(100 * over)
    theirs = multiclass_calibration_error(shares, labels, num_classes=5, n_bins=10)
    assert bins.error() == pytest.approx(100 * float(theirs), abs=1e-4)


def test_the_right_edge_belongs_to_a_bin() -> None:
    bins = binned(torch.tensor([1.0, 0.5, 0.51]), torch.tensor([True, False, True]), 2)
    assert bins.count.tolist() == [1, 2]


def test_legacy_sorts_accuracies_and_confidences_apart() -> None:
    confidence = torch.tensor([0.55] * 2 + [0.95] * 2)
    correct = torch.tensor([True, True, False, False])
    bins = binned(confidence, correct, 2)
    assert bins.error() == pytest.approx(100 * abs(0.75 - 0.5))
    bins = binned(confidence, correct, 10)
    assert bins.error() == pytest.approx(100 * (0.5 * 0.45 + 0.5 * 0.95))
    # sorted: accuracies 0 ... 0, 1; confidences 0 ... 0, 0.55, 0.95; sizes stay: [5] has 2 images, [9] has 2
    assert bins.error(legacy=True) == pytest.approx(100 * (0.5 * 0.0 + 0.5 * 0.05))


def test_confusion(tmp_path: Path) -> None:
    labels, answers = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 1, 2, 2])
    run = of_logits(torch.nn.functional.one_hot(answers, 3).float(), labels)
    numbers = Confusion().analyse(run.model, run, task(3), tmp_path, progress)
    assert numbers["precision"] == pytest.approx(100 * (1 + 1 / 3 + 1 / 2) / 3)
    assert numbers["recall"] == pytest.approx(100 * (1 / 3 + 1 / 2 + 1) / 3)
    assert numbers["f1"] == pytest.approx(100 * (0.5 + 0.4 + 2 / 3) / 3)
    assert numbers["top1"] == pytest.approx(50)
    assert numbers["top5"] == 100
    assert numbers["support"] == {"class 0": 3, "class 1": 2, "class 2": 1}
    first, second = numbers["most_confused"]
    assert (first["truth"], first["answer"], first["images"]) == ("class 0", "class 1", 2)
    assert first["percent_of_truth"] == pytest.approx(200 / 3)
    assert (second["truth"], second["answer"]) == ("class 1", "class 2")
    assert confused_pairs(torch.eye(3), ["a", "b", "c"], 5) == []


def test_scores_inside_and_outside() -> None:
    inside, outside = torch.tensor([3.0, 2.0, 1.0, 0.5]), torch.tensor([2.5, 0.0, 1.0])
    above = sum(float(a > b) + 0.5 * float(a == b) for a in inside for b in outside)
    assert separation(inside, outside)["auroc"] == pytest.approx(100 * above / 12)
    scores = torch.arange(100.0)
    assert false_positive_rate(scores, torch.tensor([4.0, 5.0, 6.0, 0.0])) == 50
    assert separation(scores + 1000, -scores) == {"auroc": 100.0, "fpr95": 0.0}


class Linear(nn.Module):
    """Two classes, whose logits differ by twice w·x + b."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1) @ self.weight + self.bias
        return torch.stack((score, -score), 1)


@pytest.mark.parametrize("kind", [Fgsm, Pgd])
def test_the_error_of_a_linear_network_is_known(kind: type[Fgsm | Pgd], tmp_path: Path) -> None:
    """In a ball of radius e the score of w·x + b moves by e·|w|₁ / std, and no further."""
    rng = torch.Generator().manual_seed(0)
    own = task(2, channels=1, size=4, mean=0.5, std=0.25)
    found = 0.3 + 0.4 * torch.rand(60, 1, 4, 4, generator=rng)  # no pixel reaches 0 or 1
    weight = torch.randn(16, generator=rng)
    images = (found - 0.5) / 0.25
    score = images.flatten(1) @ weight
    labels = (score < 0).long()
    model = Linear(weight, 0.0)
    run = ToyRun(model=model, images=images, labels=labels)
    numbers = kind(eps=(2.0, 8.0, 16.0)).analyse(model, run, own, tmp_path, progress)
    assert numbers["clean"] == 100
    for eps in (2, 8, 16):
        reach = eps / 255 * float(weight.abs().sum()) / 0.25
        expected = 100 * float((score.abs() > reach).double().mean())
        assert 0 < expected < 100 or eps != 8
        if kind is Pgd and eps > 8:
            continue  # ten steps of 2/255 may not reach that far from every start
        assert numbers[f"accuracy_{eps}"] == pytest.approx(expected), eps
        assert numbers[f"error_{eps}"] == pytest.approx(100 - expected)


def test_attacked_pixels_stay_in_the_ball_and_in_the_image() -> None:
    rng = torch.Generator().manual_seed(1)
    own = task(3, channels=3, size=4, mean=0.4, std=0.2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3))
    found = torch.rand(6, 3, 4, 4, generator=rng).round(decimals=1)  # with pixels of exactly 0 and 1
    eps, start = 8 / 255, torch.rand(6, 3, 4, 4, generator=rng) * 2 - 1
    moved = attack(model, found, torch.arange(6) % 3, own, eps=eps, step=2 / 255, steps=10, start=start * eps)
    assert (moved - found).abs().max() <= eps + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert (moved - found).abs().mean() > eps / 2
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_scan_goes_on_where_it_was_ended(tmp_path: Path) -> None:
    asked: list[int] = []

    def measure(point: int) -> float:
        asked.append(point)
        if point == 3 and asked.count(3) == 1:
            raise KeyboardInterrupt
        return point / 2

    points = {f"p{number}": number for number in range(5)}
    with pytest.raises(KeyboardInterrupt):
        scanned(tmp_path, points, measure, progress)
    assert scanned(tmp_path, points, measure, progress) == {f"p{number}": number / 2 for number in range(5)}
    assert asked == [0, 1, 2, 3, 3, 4]
    assert not list(tmp_path.iterdir())
