"""The losses of published recipes, each against a plain restatement."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixcore.types import Mix
from mixcore_plugins_builtin.losses.bce import BinaryCrossEntropy
from mixcore_plugins_builtin.losses.soft_cross_entropy import SoftCrossEntropy

ROWS, CLASSES, LAM = 6, 5, 0.3
LOGITS = torch.randn(ROWS, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
OWN = torch.tensor([0, 1, 2, 3, 4, 0])
PARTNER = torch.tensor([3, 4, 2, 1, 0, 5])
OTHER = OWN[PARTNER]
MIXED = LAM * F.one_hot(OWN, CLASSES).double() + (1 - LAM) * F.one_hot(OTHER, CLASSES).double()


def found(loss: SoftCrossEntropy | BinaryCrossEntropy) -> float:
    mix = Mix.pair(torch.zeros(ROWS, 1), PARTNER, LAM)
    return float(loss.compute_loss(LOGITS, mix.targets(OWN)))


def plain(targets: Tensor) -> float:
    return float(-(targets * LOGITS.log_softmax(1)).sum(1).mean())


def test_the_hard_form_is_the_soft_one() -> None:
    hard = LAM * F.cross_entropy(LOGITS, OWN) + (1 - LAM) * F.cross_entropy(LOGITS, OTHER)
    assert found(SoftCrossEntropy()) == pytest.approx(float(hard), rel=1e-6)
    assert found(SoftCrossEntropy()) == pytest.approx(plain(MIXED), rel=1e-6)


def test_smoothing_before_and_after_mixing_is_the_same() -> None:
    def smooth(labels: Tensor) -> Tensor:
        return 0.9 * F.one_hot(labels, CLASSES).double() + 0.1 / CLASSES

    first = LAM * smooth(OWN) + (1 - LAM) * smooth(OTHER)
    assert found(SoftCrossEntropy(smoothing=0.1)) == pytest.approx(plain(first), rel=1e-6)
    assert found(SoftCrossEntropy(smoothing=0.1)) == pytest.approx(plain(0.9 * MIXED + 0.1 / CLASSES), rel=1e-6)


def test_binary_cross_entropy_is_summed_over_classes_on_request() -> None:
    each = -(MIXED * LOGITS.sigmoid().log() + (1 - MIXED) * (1 - LOGITS.sigmoid()).log())
    assert found(BinaryCrossEntropy(reduction="sum_classes")) == pytest.approx(float(each.sum(1).mean()), rel=1e-6)
    assert found(BinaryCrossEntropy()) == pytest.approx(float(each.mean()), rel=1e-6)
