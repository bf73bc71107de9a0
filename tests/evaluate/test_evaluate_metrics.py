from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mixcore.errors import DataError
from mixcore.evaluate.metrics import Counts, headline, ranks
from mixcore.types import LabelKind, Task

CPU = torch.device("cpu")


def task(kind: LabelKind = "class", classes: int = 10) -> Task:
    return Task(num_classes=classes, in_channels=1, image_size=(4, 4), mean=(0.0,), std=(1.0,), label_kind=kind)


def measured(kind: LabelKind, *batches: tuple[Tensor, Tensor]) -> dict[str, float]:
    counts = Counts(task(kind, batches[0][0].shape[1]), CPU)
    for logits, labels in batches:
        counts.update(logits, labels)
    return counts.compute()


def test_hits_and_loss_by_hand() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0]]).repeat(4, 1)
    found = measured("class", (logits[:1], torch.tensor([0])), (logits[1:], torch.tensor([1, 4, 6])))
    assert found["top1"] == 25.0
    assert found["top5"] == 75.0
    assert found["count"] == 4
    normaliser = math.log(sum(math.exp(z) for z in (3, 2, 1, 0, -1, -2, -3)))
    assert found["loss"] == pytest.approx(sum(normaliser - z for z in (3, 2, -1, -3)) / 4, rel=1e-6)


def test_agrees_with_topk_where_nothing_ties() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(257, 20, generator=rng), torch.randint(20, (257,), generator=rng)
    top = logits.topk(5).indices == labels[:, None]
    found = measured("class", (logits[:100], labels[:100]), (logits[100:], labels[100:]))
    assert found["top1"] == pytest.approx(100 * top[:, 0].float().mean().item())
    assert found["top5"] == pytest.approx(100 * top.any(1).float().mean().item())


def test_a_constant_network_scores_as_chance() -> None:
    found = measured("class", (torch.zeros(100, 10), torch.arange(10).repeat(10)))
    assert (found["top1"], found["top5"]) == (10.0, 50.0)


def test_a_nan_anywhere_in_the_row_is_a_miss() -> None:
    logits = torch.eye(10)
    logits[0, 0] = math.nan  # at the label
    logits[1, 5] = math.nan  # elsewhere
    logits[2] = math.nan
    logits[3, 3] = math.inf  # a hit like any other
    found = measured("class", (logits, torch.arange(10)))
    assert (found["top1"], found["top5"]) == (70.0, 70.0)
    assert math.isnan(found["loss"])
    assert ranks(logits, torch.arange(10)).tolist() == [10, 10, 10, 0, 0, 0, 0, 0, 0, 0]


def test_top5_of_fewer_classes_is_all_that_are_no_nan() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [math.nan, 1.0, 0.0]])
    found = measured("class", (logits, torch.tensor([0, 2, 1])))
    assert found["top1"] == pytest.approx(100 / 3)
    assert found["top5"] == pytest.approx(200 / 3)


def test_soft_labels_count_their_largest_class_and_their_whole_row() -> None:
    logits = torch.tensor([[2.0, 0.0, -2.0], [2.0, 0.0, -2.0]])
    labels = torch.tensor([[0.6, 0.4, 0.0], [0.2, 0.3, 0.5]])
    found = measured("soft", (logits, labels))
    assert found["top1"] == 50.0
    expected = -(labels * logits.log_softmax(1)).sum(1).mean().item()
    assert found["loss"] == pytest.approx(expected, rel=1e-6)


def test_multi_label_hit_is_any_of_the_labels() -> None:
    logits = torch.tensor([[0.0, 9.0, 8.0, 7.0, 6.0, 5.0, -9.0]]).repeat(4, 1)
    labels = torch.zeros(4, 7)
    labels[0, [0, 1]] = 1  # the first prediction is one of them
    labels[1, [0, 5]] = 1  # one of them is fifth
    labels[2, 6] = 1
    # the last image has no label
    found = measured("multi_label", (logits, labels))
    assert (found["top1"], found["top5"]) == (25.0, 50.0)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).item()
    assert found["loss"] == pytest.approx(expected, rel=1e-6)


def test_values_give_errors_over_all_numbers() -> None:
    outputs, labels = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.zeros(3, 2)
    found = measured("value", (outputs[:1], labels[:1]), (outputs[1:], labels[1:]))
    assert found["mae"] == pytest.approx(3.5)
    assert found["rmse"] == pytest.approx(math.sqrt(91 / 6))
    assert found["loss"] == pytest.approx(91 / 6)
    assert set(found) == {"mae", "rmse", "loss", "count"}


def test_headline() -> None:
    assert headline(task("class")) == ("top1", True)
    assert headline(task("value")) == ("mae", False)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(DataError, match="set is empty"):
        Counts(task(), CPU).compute()


def test_a_predictor_of_other_classes_is_refused() -> None:
    with pytest.raises(DataError, match=r"outputs \[2, 7\] for a task of 10 classes"):
        Counts(task(), CPU).update(torch.zeros(2, 7), torch.zeros(2, dtype=torch.int64))


def test_numbers_follow_what_was_added_after_they_were_computed() -> None:
    counts = Counts(task(classes=2), CPU)
    logits = torch.tensor([[1.0, 0.0]])
    counts.update(logits, torch.tensor([0]))
    assert counts.compute()["top1"] == 100
    counts.update(logits, torch.tensor([1]))
    assert counts.compute()["top1"] == 50
