"""Corruption robustness: CIFAR-C from its files, or corruptions generated from the analysed set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from attrs.validators import ge, optional
from torch import nn

from mixcore.api import PLACE, Batch, ConfigError, DataError, RunData, Task, Track, hookimpl, keyed_generator
from mixcore_plugin_analyses.corruptions import GENERATED, SEVERITIES, corrupt
from mixcore_plugin_analyses.figures import panels, save
from mixcore_plugin_analyses.predictions import logits_over, normalised, percent_correct, pixels, predictions
from mixcore_plugin_analyses.scan import scanned

__all__ = ["STANDARD", "Corruption", "summed_up"]

STANDARD = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
FURTHER = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
BATCH = 256


def summed_up(accuracy: Mapping[str, list[float]], baseline: Mapping[str, list[float]] | None) -> dict[str, Any]:
    """What the benchmark reports of accuracies in percent, by corruption and severity; `baseline` are another's."""
    means = {name: sum(values) / len(values) for name, values in accuracy.items()}
    missing = [name for name in STANDARD if name not in accuracy]
    why = f"not all of the 15 are there: {', '.join(missing)}"
    mean15 = sum(means[name] for name in STANDARD) / len(STANDARD) if not missing else None
    found: dict[str, Any] = {
        "pooled": sum(means.values()) / len(means),
        "mean15": why if mean15 is None else mean15,
        "mce15": why if mean15 is None else 100 - mean15,
    }
    if baseline is not None:
        common = [name for name in STANDARD if name in accuracy and name in baseline]
        ratios = [
            sum(100 - value for value in accuracy[name]) / sum(100 - value for value in baseline[name])
            for name in common
            if any(value < 100 for value in baseline[name])
        ]
        found["mce"] = 100 * sum(ratios) / len(ratios) if ratios else "the baseline has none of these corruptions"
        found["mce_over"] = len(ratios)
    return {**found, **{f"accuracy_{name}": value for name, value in means.items()}}


@attrs.define(eq=False, kw_only=True)
class Corruption:
    """Accuracy and consistency of predictions under corruptions, by severity, pooled, mean15 and mCE15."""

    role = "analysis"
    spec_version = (1, 3)
    accepts = frozenset({"class"})

    root: Path | None = attrs.field(default=None, metadata=PLACE)
    """Folder of CIFAR-10-C or CIFAR-100-C (gaussian_noise.npy, ..., labels.npy); absent: what can be generated."""
    corruptions: tuple[str, ...] = ()
    """Names of corruptions; empty: all that are there or can be generated."""
    baseline: Path | None = attrs.field(default=None, metadata=PLACE)
    """A corruption.json of another run, over whose errors those of this one are divided (`mce`)."""
    images: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """First images that are corrupted; absent: all."""
    seed: int = attrs.field(default=0, validator=ge(0))
    """Key of generated noise."""

    @hookimpl
    def analyse(self, model: nn.Module, data: RunData, task: Task, folder: Path, progress: Track) -> Mapping[str, Any]:
        """Percent; "generated" numbers are not comparable with published ones."""
        names, baseline = self._names(task), self._baseline()
        clean = predictions(model, data, progress)
        answers = clean.logits.argmax(1)

        def measure(at: tuple[str, int]) -> list[float]:
            found = logits_over(model, self._batches(*at, data, task))
            same = answers[: len(found.labels)]
            consistent = (found.logits.argmax(1)[: len(same)] == same).double().mean()
            return [percent_correct(found.logits, found.labels), 100 * float(consistent)]

        points = {f"{name} {severity}": (name, severity) for name in names for severity in SEVERITIES}
        found = scanned(folder, points, measure, progress)
        accuracy = {name: [found[f"{name} {severity}"][0] for severity in SEVERITIES] for name in names}
        consistency = {name: [found[f"{name} {severity}"][1] for severity in SEVERITIES] for name in names}
        numbers = {
            "source": "generated" if self.root is None else "files",
            "clean": percent_correct(clean.logits[: self.images], clean.labels[: self.images]),
            **summed_up(accuracy, baseline),
            "consistency": sum(map(sum, consistency.values())) / (5 * len(names)),
            "accuracy": accuracy,
            "consistency_by_severity": consistency,
        }
        self.compare_runs({"": numbers}, folder)
        return numbers

    @hookimpl
    def compare_runs(self, results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
        """A panel per run: a line per corruption; what is generated says so."""
        figure, axes = panels(1, len(results), width=6.5, height=5)
        for place, (name, found) in zip(axes[0], results.items(), strict=True):
            for number, (corruption, values) in enumerate(found["accuracy"].items()):
                place.plot(
                    SEVERITIES, values, color=f"C{number % 10}", linestyle=("-", "--")[number // 10], label=corruption
                )
            place.axhline(found["clean"], color="0.6", linestyle=":")
            label = " (generated)" if found["source"] == "generated" else ""
            place.set(title=f"{name}{label}", xlabel="severity", ylabel="top-1 accuracy, percent", ylim=(0, 100))
            place.set_xticks(SEVERITIES)
            place.legend(fontsize="x-small", ncols=2)
        save(figure, folder)

    def _names(self, task: Task) -> list[str]:
        if self.root is None:
            there = list(GENERATED)
            where = "generated"
            if task.in_channels not in (1, 3):
                raise ConfigError(f"images of {task.in_channels} channels are not corrupted; expected 1 or 3")
        else:
            there = [name for name in (*STANDARD, *FURTHER) if (self.root / f"{name}.npy").is_file()]
            where = f"in {self.root}"
            if not there or not (self.root / "labels.npy").is_file():
                raise ConfigError(
                    f"root = {self.root} is no folder of CIFAR-C: it needs labels.npy and files such as "
                    "gaussian_noise.npy; leave root out to generate corruptions"
                )
        unknown = [name for name in self.corruptions if name not in there]
        if unknown:
            raise ConfigError(f"corruption {unknown[0]!r} is not {where}; there are: {', '.join(there)}")
        return list(self.corruptions) or there

    def _baseline(self) -> dict[str, list[float]] | None:
        if self.baseline is None:
            return None
        try:
            return dict(json.loads(self.baseline.read_text("utf-8"))["numbers"]["accuracy"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"baseline = {self.baseline} cannot be read ({error}); expected the analyses/corruption.json of a run"
            ) from error

    def _batches(self, name: str, severity: int, data: RunData, task: Task) -> Iterator[Batch]:
        if self.root is not None:
            yield from _from_files(self.root, name, severity, data, task, self.images)
            return
        seen = 0
        for number, (images, labels) in enumerate(data.batches()):
            left = len(images) if self.images is None else min(len(images), self.images - seen)
            if left <= 0:
                return
            rng = keyed_generator("corruption", self.seed, name, severity, number)
            changed = corrupt(name, severity, pixels(images[:left], task).cpu(), rng).to(images.device)
            yield Batch(images=normalised(changed, task), labels=labels[:left])
            seen += left


def _from_files(root: Path, name: str, severity: int, data: RunData, task: Task, limit: int | None) -> Iterator[Batch]:
    """The images of one severity, a fifth of the file, as the network takes them."""
    images, labels = (np.load(root / f"{file}.npy", mmap_mode="r") for file in (name, "labels"))
    share = len(images) // len(SEVERITIES)
    if len(labels) != len(images) or images.ndim != 4 or images.shape[-1] != task.in_channels:
        raise DataError(
            f"{root / name}.npy has shape {list(images.shape)} beside {len(labels)} labels; expected "
            f"[50000,32,32,{task.in_channels}] and as many labels"
        )
    if int(labels.max()) >= task.num_classes:
        raise DataError(
            f"{root / 'labels.npy'} has class {int(labels.max())}, and this task {task.num_classes} classes"
        )
    device = next(data.batches()).images.device
    start = share * (severity - 1)
    for at in range(start, start + min(share, limit or share), BATCH):
        rows = slice(at, min(at + BATCH, start + min(share, limit or share)))
        found = torch.from_numpy(np.array(images[rows])).permute(0, 3, 1, 2).float().div(255)
        if found.shape[-2:] != task.image_size:
            found = F.interpolate(found, size=task.image_size, mode="bilinear", antialias=True, align_corners=False)
        own = torch.from_numpy(np.array(labels[rows])).long()
        yield Batch(images=normalised(found.to(device), task), labels=own.to(device))
