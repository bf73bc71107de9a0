"""Further metrics of values, by torchmetrics: relative error and correlations."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from torch import Tensor, nn

from mixcore.api import ConfigError, Metric, Task, hookimpl

if TYPE_CHECKING:
    from torchmetrics import Metric as TorchMetric

__all__ = ["PerValue", "ValueMetrics"]


class PerValue(nn.Module):
    """A metric of torchmetrics that computes a number per value, each under a name of its own.

    Of a single value the name is that of the metric, of several `<metric>/<value>`.
    """

    def __init__(self, name: str, metric: TorchMetric, values: tuple[str, ...]) -> None:
        super().__init__()
        self.names = (name,) if len(values) == 1 else tuple(f"{name}/{value}" for value in values)
        self.metric = metric

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add predictions and values, both [N,K]."""
        self.metric.update(logits, labels)

    def compute(self) -> dict[str, Tensor]:
        """The numbers by name; NaN where predictions or values are all the same."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a correlation without variance, which NaN says
            return dict(zip(self.names, self.metric.compute().reshape(-1), strict=True))


@attrs.define(eq=False, kw_only=True)
class ValueMetrics:
    """Metrics of values beside mae and rmse: mape (a fraction, not percent), pearson and spearman. Needs torchmetrics.

    Recorded after every epoch and shown by `mixcore eval`. `mape` is the mean of |z - y| / max(|y|, 1.17e-6) over all
    values; it says nothing where values are about 0. The correlations are of each value by itself. Spearman's keeps the
    predictions of the whole set on the device.
    """

    spec_version = (1, 4)
    accepts = frozenset({"value"})

    @hookimpl
    def check(self) -> None:
        """Refuses to start without torchmetrics."""
        _regression()

    @hookimpl
    def build_metrics(self, task: Task) -> Mapping[str, Metric]:
        """One of each, not given a batch yet."""
        metrics, values = _regression(), task.class_names or tuple(map(str, range(task.num_classes)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of Spearman's memory, which our help says
            return {
                "mape": metrics.MeanAbsolutePercentageError(),
                "pearson": PerValue("pearson", metrics.PearsonCorrCoef(len(values)), values),
                "spearman": PerValue("spearman", metrics.SpearmanCorrCoef(len(values)), values),
            }


def _regression() -> Any:
    try:
        from torchmetrics import regression
    except ModuleNotFoundError as error:
        raise ConfigError(
            'extra "value_metrics" needs torchmetrics, which is not installed; type: pip install "mixcore[metrics]"'
        ) from error
    return regression
