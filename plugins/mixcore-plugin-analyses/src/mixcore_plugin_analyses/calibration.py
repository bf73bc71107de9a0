"""Calibration: whether an image of which the network is 80 % sure is right in 80 % of the cases.

Bins are ((m-1)/M, m/M], so that a confidence of exactly 1 is in the last one. torchmetrics has bins [(m-1)/M, m/M) and
a further one for 1, which a saturated softmax gives often; elsewhere the two agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import deep_iterable, ge, min_len
from matplotlib.figure import Figure
from torch import Tensor, nn

from mixcore.api import RunData, Track, hookimpl
from mixcore_plugin_analyses.figures import panels, save
from mixcore_plugin_analyses.predictions import predictions

__all__ = ["Bins", "Calibration", "binned"]


@attrs.frozen(eq=False)
class Bins:
    """Images by confidence; each field float64 [M], 0 where a bin is empty."""

    accuracy: Tensor
    confidence: Tensor
    count: Tensor

    @property
    def share(self) -> Tensor:
        """Share of the images in each bin."""
        return self.count / self.count.sum()

    @property
    def gap(self) -> Tensor:
        """Confidence minus accuracy."""
        return self.confidence - self.accuracy

    def error(self, legacy: bool = False) -> float:
        """ECE in percent; `legacy` sorts accuracies and confidences apart, as a public benchmark's tool does."""
        gap = self.confidence.sort().values - self.accuracy.sort().values if legacy else self.gap
        return 100 * float((self.share * gap.abs()).sum())

    def maximum(self) -> float:
        """MCE in percent: the largest gap of a bin that is not empty."""
        return 100 * float(self.gap[self.count > 0].abs().max())

    def over(self) -> float:
        """Over-confidence in percent: gaps count where confidence is above accuracy."""
        return 100 * float((self.share * self.gap.clamp(min=0)).sum())


def binned(confidence: Tensor, correct: Tensor, bins: int) -> Bins:
    """Confidences in [0,1] and whether each was right, [n], in bins of equal width."""
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    confidence = confidence.double()
    place = torch.bucketize(confidence, edges[1:-1])  # the right edge belongs to the bin
    count = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, torch.ones_like(confidence))

    def mean(values: Tensor) -> Tensor:
        return torch.zeros(bins, dtype=torch.float64).index_add_(0, place, values) / count.clamp(min=1)

    return Bins(accuracy=mean(correct.double()), confidence=mean(confidence), count=count)


@attrs.define(eq=False, kw_only=True)
class Calibration:
    """Expected and maximum calibration error, over-confidence, log-likelihood, Brier score, reliability diagram."""

    role = "analysis"
    spec_version = (1, 3)
    accepts = frozenset({"class"})

    bins: tuple[int, ...] = attrs.field(default=(10, 15), validator=[min_len(1), deep_iterable(ge(1))])
    """Numbers of bins; the diagram and the other numbers have the first."""
    legacy: bool = False
    """Whether `ece` sorts accuracies and confidences of the bins apart, as published numbers of OpenMixup have it."""

    @hookimpl
    def analyse(self, model: nn.Module, data: RunData, folder: Path, progress: Track) -> Mapping[str, Any]:
        """Percent, but `nll` (nats) and `brier` (sum over classes, 0 to 2)."""
        found = predictions(model, data, progress)
        shares = found.logits.double().softmax(1)
        confidence, answer = shares.max(1)
        correct = answer == found.labels
        by_bins = {count: binned(confidence, correct, count) for count in self.bins}
        first = by_bins[self.bins[0]]
        truth = F.one_hot(found.labels, shares.shape[1])
        numbers = {
            **{f"ece_{count}": bins.error(self.legacy) for count, bins in by_bins.items()},
            "mce": first.maximum(),
            "signed_gap": 100 * float((confidence - correct.double()).mean()),
            "over_confidence": first.over(),
            "nll": float(F.cross_entropy(found.logits.double(), found.labels)),
            "brier": float((shares - truth).square().sum(1).mean()),
            "accuracy": 100 * float(correct.double().mean()),
            "confidence": 100 * float(confidence.mean()),
            "images": len(correct),
            "diagram": {name: getattr(first, name).tolist() for name in ("accuracy", "confidence", "count")},
        }
        save(self._figure({"": numbers}), folder)
        return numbers

    @hookimpl
    def compare_runs(self, results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
        """Diagrams side by side."""
        save(self._figure(results), folder)

    def _figure(self, results: Mapping[str, Mapping[str, Any]]) -> Figure:
        figure, axes = panels(2, len(results), width=4.5, height=3)
        for column, (name, numbers) in enumerate(results.items()):
            diagram = numbers["diagram"]
            count = len(diagram["count"])
            filled = [index for index in range(count) if diagram["count"][index]]
            upper, lower = axes[0][column], axes[1][column]
            upper.plot([0, 1], [0, 1], "--", color="0.6")
            label = f"ECE {numbers[f'ece_{count}']:.2f} %"
            points = [[diagram[key][index] for index in filled] for key in ("confidence", "accuracy")]
            upper.plot(*points, marker="o", label=label)
            upper.set(title=name, xlabel="mean confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
            upper.legend(loc="upper left", fontsize="small")
            middles = [(index + 0.5) / count for index in range(count)]
            lower.bar(middles, diagram["count"], width=0.9 / count, color="0.5")
            lower.set(xlabel="confidence", ylabel="images", xlim=(0, 1))
        return figure
