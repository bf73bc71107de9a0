"""Telling images of another data set by how sure the network is of them: AUROC by torchmetrics, and FPR95."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs.validators import min_len
from torch import Tensor, nn

from mixcore.api import ConfigError, RunData, Task, Track, hookimpl
from mixcore_plugin_analyses.figures import panels, save
from mixcore_plugin_analyses.predictions import logits_over, predictions

__all__ = ["OutOfDistribution", "false_positive_rate", "separation"]

RECALL = 0.95


def false_positive_rate(inside: Tensor, outside: Tensor, recall: float = RECALL) -> float:
    """Percent of the outside scores at or above the threshold that `recall` of the inside ones reach."""
    threshold = inside.sort(descending=True).values[max(0, -(-len(inside) * round(recall * 100) // 100) - 1)]
    return 100 * float((outside >= threshold).double().mean())


def separation(inside: Tensor, outside: Tensor) -> dict[str, float]:
    """AUROC and FPR95 in percent, of scores [n] and [m] that are higher inside."""
    from torchmetrics.functional.classification import binary_auroc  # seconds, for who only lists what is installed

    scores = torch.cat((inside, outside)).double()
    truth = torch.cat((torch.ones(len(inside)), torch.zeros(len(outside)))).long()
    # ranks in place of scores: torchmetrics puts what is outside [0,1] through a sigmoid, which makes ties
    ranks = torch.unique(scores, return_inverse=True)[1].double()
    auroc = binary_auroc((ranks + 0.5) / (len(scores) + 1), truth)
    return {"auroc": 100 * float(auroc), "fpr95": false_positive_rate(inside, outside)}


@attrs.define(eq=False, kw_only=True)
class OutOfDistribution:
    """AUROC and FPR95 of maximum softmax probability and energy against another data set."""

    role = "analysis"
    spec_version = (1, 3)
    accepts = frozenset({"class"})

    data: str = attrs.field(default="fake", validator=min_len(1))
    """Name of a [data] plugin whose validation set is outside; "fake" is drawn patterns under noise."""
    options: dict[str, Any] = attrs.field(factory=dict)
    """Its options, as in TOML; those of "fake", if absent, are the run's own image size and channels."""

    @hookimpl
    def analyse(self, model: nn.Module, data: RunData, task: Task, folder: Path, progress: Track) -> Mapping[str, Any]:
        """Percent, per score."""
        inside = predictions(model, data, progress).logits.double()
        own_shape = {"size": task.image_size[0], "channels": task.in_channels} if self.data == "fake" else {}
        try:
            outside = logits_over(model, progress(data.other(self.data, self.options or own_shape))).logits.double()
        except ConfigError as error:
            error.add_note("the data outside are told by --set ood.data=NAME --set \"ood.options={root = 'data'}\"")
            raise
        scores = {"softmax": _softmax, "energy": _energy}
        by_score = {name: (score(inside), score(outside)) for name, score in scores.items()}
        figure, axes = panels(1, len(scores))
        for place, (name, (own, other)) in zip(axes[0], by_score.items(), strict=True):
            for label, values in (("inside", own), (f"outside: {self.data}", other)):
                place.hist(values.numpy(), bins=40, density=True, alpha=0.6, label=label)
            place.set(xlabel=name, ylabel="density")
            place.legend(fontsize="small")
        save(figure, folder)
        found = {name: separation(*pair) for name, pair in by_score.items()}
        flat = {f"{key}_{name}": value for name, pair in found.items() for key, value in pair.items()}
        return {**flat, "images_inside": len(inside), "images_outside": len(outside), "outside": self.data}


def _softmax(logits: Tensor) -> Tensor:
    """Maximum softmax probability [n] (Hendrycks and Gimpel, 2017)."""
    return logits.softmax(1).amax(1)


def _energy(logits: Tensor) -> Tensor:
    """Negative free energy [n] at temperature 1 (Liu et al., 2020)."""
    return logits.logsumexp(1)
