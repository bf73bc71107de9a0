"""Metrics of values by torchmetrics, beside those that every run counts."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error

from mixcore.api import ConfigError, Metric, hookimpl
from mixcore.discovery.capabilities import check_run
from mixcore.discovery.manager import build_method_plugins
from mixcore.evaluate.evaluate import evaluate
from mixcore.evaluate.metrics import default_metrics
from mixcore.types import Batch, Task

CPU = torch.device("cpu")


def task(names: tuple[str, ...] | None = ("age",), count: int = 1, kind: Any = "value") -> Task:
    return Task(
        num_classes=count,
        in_channels=1,
        image_size=(1, 4),
        mean=(0.0,),
        std=(1.0,),
        label_kind=kind,
        class_names=names,
    )


class Told(nn.Module):
    """Predicts the first pixels."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, : self.count]


class Given:
    """A loader of batches of (predictions, values)."""

    def __init__(self, *batches: tuple[Tensor, Tensor]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Any:
        for predictions, labels in self.batches:
            padded = nn.functional.pad(predictions, (0, 4 - predictions.shape[1]))
            yield Batch(images=padded[:, None, None], labels=labels)


def plugins(*extras: Any) -> Any:
    return build_method_plugins(mix="none", labels="weights", loss="l1", extra=list(extras))


def measured(given: Task, *batches: tuple[Tensor, Tensor]) -> dict[str, float]:
    metrics = default_metrics(given, CPU, plugins("value_metrics").extras)
    found = evaluate(
        {"model": (Told(given.num_classes), None)},
        Given(*batches),
        task=given,
        device=CPU,
        precision="fp32",
        metrics=metrics,
    )
    return found["model"]


def test_the_numbers_by_hand() -> None:
    """Errors 1, -1, 2, 0 at 2, 4, 8, 10; ranks agree but for a tie-free exchange of none."""
    values = torch.tensor([[2.0], [4.0], [8.0], [10.0]])
    predictions = torch.tensor([[3.0], [3.5], [10.5], [10.0]])
    found = measured(task(), (predictions[:1], values[:1]), (predictions[1:], values[1:]))
    assert found["mae"] == pytest.approx((1 + 0.5 + 2.5 + 0) / 4)
    assert found["rmse"] == pytest.approx(math.sqrt((1 + 0.25 + 6.25 + 0) / 4))
    assert found["mape"] == pytest.approx((1 / 2 + 0.5 / 4 + 2.5 / 8 + 0) / 4)
    centred = predictions[:, 0] - predictions.mean(), values[:, 0] - values.mean()
    assert found["pearson"] == pytest.approx(float(centred[0] @ centred[1] / (centred[0].norm() * centred[1].norm())))
    assert found["spearman"] == pytest.approx(0.8, abs=1e-5)  # 1 - 6·(1 + 1) / (4·15)
    assert found["count"] == 4


def test_mae_and_rmse_that_every_run_counts_are_those_of_torchmetrics() -> None:
    rng = torch.Generator().manual_seed(0)
    predictions, values = torch.randn(40, 3, generator=rng), torch.randn(40, 3, generator=rng)
    found = measured(task(None, 3), (predictions[:7], values[:7]), (predictions[7:], values[7:]))
    assert found["mae"] == pytest.approx(mean_absolute_error(predictions, values).item(), rel=1e-5)
    assert found["rmse"] == pytest.approx(mean_squared_error(predictions, values, squared=False).item(), rel=1e-5)


def test_several_values_have_a_correlation_each() -> None:
    values = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 4.0]])
    found = measured(task(("x", "y"), 2), (torch.stack((values[:, 0], -values[:, 1]), 1), values))
    assert found["pearson/x"] == pytest.approx(1)
    assert found["pearson/y"] == pytest.approx(-1)
    assert found["spearman/y"] == pytest.approx(-1, abs=1e-4)
    assert {"pearson/0", "pearson/1"} <= measured(task(None, 2), (values, values)).keys()


def test_a_constant_prediction_has_no_correlation_and_warns_of_nothing() -> None:
    values = torch.arange(4.0)[:, None]
    found = measured(task(), (torch.zeros(4, 1), values))
    assert math.isnan(found["pearson"])
    assert found["mae"] == pytest.approx(1.5)


def test_classes_are_refused() -> None:
    chosen = build_method_plugins(mix="none", labels="weights", loss="soft_cross_entropy", extra=["value_metrics"])
    with pytest.raises(
        ConfigError, match=r"value_metrics.* takes labels of kind value, and this task has class labels"
    ):
        check_run(chosen, task(None, 3, "class"), 10)


def test_a_missing_library_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchmetrics", None)
    with pytest.raises(ConfigError, match=r'needs torchmetrics.*pip install "mixcore\[metrics\]"'):
        check_run(plugins("value_metrics"), task(), 10)


@attrs.define(eq=False, kw_only=True)
class Second:
    """An extra that gives a metric under a name of its own choice."""

    called: str

    @hookimpl
    def build_metrics(self) -> dict[str, Metric]:
        return {self.called: default_metrics(task(), CPU)["counts"]}


@pytest.mark.parametrize(("name", "giver"), [("mae", "every run"), ("counts", "every run"), ("mape", "value_metrics")])
def test_a_name_that_is_taken_is_refused(name: str, giver: str) -> None:
    extras = plugins("value_metrics", Second(called=name)).extras
    with pytest.raises(ConfigError, match=f"Second.* gives the metric '{name}', which .*{giver}.* gives too"):
        default_metrics(task(), CPU, extras)


def test_what_is_no_metric_is_told_with_the_plugin() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Wrong:
        @hookimpl
        def build_metrics(self) -> Any:
            return {"x": 3.0}

    with pytest.raises(Exception, match=r"build_metrics of Wrong returned .*update and compute under 'x'"):
        default_metrics(task(), CPU, plugins(Wrong()).extras)
