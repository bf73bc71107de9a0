"""Precision, recall, F1 and support, top-k, and which classes are taken for which; by torchmetrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs.validators import deep_iterable, ge, min_len
from matplotlib.figure import Figure
from torch import Tensor, nn

from mixcore.api import RunData, Task, Track, hookimpl
from mixcore_plugin_analyses.figures import panels, save
from mixcore_plugin_analyses.predictions import predictions

__all__ = ["Confusion", "confused_pairs"]

MOST_NAMED = 30
"""Classes whose names still stand beside the matrix."""


def confused_pairs(matrix: Tensor, names: list[str], count: int) -> list[dict[str, Any]]:
    """The `count` largest numbers beside the diagonal of a matrix [truth, answer], each with its classes."""
    wrong = matrix.clone()
    wrong.fill_diagonal_(0)
    order = wrong.flatten().argsort(descending=True, stable=True)[:count].tolist()
    classes = len(names)
    return [
        {
            "truth": names[place // classes],
            "answer": names[place % classes],
            "images": int(wrong.flatten()[place]),
            "percent_of_truth": 100 * int(wrong.flatten()[place]) / int(matrix[place // classes].sum()),
        }
        for place in order
        if wrong.flatten()[place] > 0
    ]


@attrs.define(eq=False, kw_only=True)
class Confusion:
    """Macro precision, recall and F1, support, top-k accuracy, and the most confused pairs of classes."""

    role = "analysis"
    spec_version = (1, 3)
    accepts = frozenset({"class"})

    top_k: tuple[int, ...] = attrs.field(default=(1, 5), validator=[min_len(1), deep_iterable(ge(1))])
    """Accuracies among the first k answers; a k above the number of classes is 100 %."""
    pairs: int = attrs.field(default=10, validator=ge(0))
    """Most confused pairs that are listed."""

    @hookimpl
    def analyse(self, model: nn.Module, data: RunData, task: Task, folder: Path, progress: Track) -> Mapping[str, Any]:
        """Percent; means over the classes, a class without images or answers counting as torchmetrics has it (0)."""
        from torchmetrics.functional import classification as scores  # seconds, for who only lists what is installed

        found, classes = predictions(model, data, progress), task.num_classes
        given = (found.logits, found.labels)
        names = list(task.class_names or (f"class {index}" for index in range(classes)))
        matrix = scores.multiclass_confusion_matrix(*given, num_classes=classes)
        macro = {
            "precision": scores.multiclass_precision,
            "recall": scores.multiclass_recall,
            "f1": scores.multiclass_f1_score,
        }
        numbers = {
            **{name: 100 * float(score(*given, num_classes=classes, average="macro")) for name, score in macro.items()},
            **{f"top{k}": self._top(given, classes, k) for k in self.top_k},
            "images": len(found.labels),
            "support": dict(zip(names, matrix.sum(1).tolist(), strict=True)),
            "recall_by_class": {
                name: 100 * float(value)
                for name, value in zip(
                    names, scores.multiclass_recall(*given, num_classes=classes, average="none"), strict=True
                )
            },
            "most_confused": confused_pairs(matrix, names, self.pairs),
        }
        save(self._figure(matrix, names), folder)
        return numbers

    def _top(self, given: tuple[Tensor, Tensor], classes: int, k: int) -> float:
        if k >= classes:
            return 100.0
        from torchmetrics.functional.classification import multiclass_accuracy

        return 100 * float(multiclass_accuracy(*given, num_classes=classes, top_k=k, average="micro"))

    def _figure(self, matrix: Tensor, names: list[str]) -> Figure:
        figure, [[axes]] = panels(1, 1, width=6, height=5)
        shares = matrix.double() / matrix.sum(1, keepdim=True).clamp(min=1)
        figure.colorbar(axes.imshow(100 * shares.numpy(), cmap="Blues", vmin=0, vmax=100), label="percent of the class")
        axes.set(xlabel="answer", ylabel="truth")
        if len(names) <= MOST_NAMED:
            axes.set_xticks(range(len(names)), names, rotation=90, fontsize="small")
            axes.set_yticks(range(len(names)), names, fontsize="small")
        return figure
