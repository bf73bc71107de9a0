"""SuperMix: "Supervising the Mixing Data Augmentation", CVPR 2021, arXiv 2003.05034."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import attrs
import torch
from attrs.validators import ge, gt, in_, le, lt, min_len, optional
from torch import Generator, Tensor, nn

from mixcore.api import (
    Mix,
    OptionValueError,
    Part,
    Probe,
    Task,
    class_count,
    dirichlet,
    hookimpl,
    load_teacher,
    send,
    take_rows,
)
from mixcore_plugin_supermix.labels import MIXED, TAUGHT
from mixcore_plugin_supermix.optimise import Supermixed, supermix

__all__ = ["SuperMix"]

FINISHED = "supermix_finished"
"""Note: whether the sample was finished, bool [M], before any was dropped."""

Target = Literal["dirichlet", "area", "teacher_soft", "teacher_hard"]
Fallback = Literal["clean", "keep", "drop"]


@attrs.define(eq=False, kw_only=True)
class SuperMix:
    """SuperMix: images blended by smooth masks, until a frozen teacher sees the classes of all of them."""

    role = "mix"
    spec_version = (1, 2)
    provides = frozenset({"mask"})
    accepts = frozenset({"class", "soft"})

    teacher: str | nn.Module
    """Any name that [backbone] takes, such as "resnet34"; in Python also a network."""
    weights: str | None = attrs.field(default=None, validator=optional(min_len(1)))
    """File of its weights, or a checkpoint of a run; absent: those that timm publishes."""
    classes: Literal["own", "task"] = attrs.field(default="task", validator=in_(("own", "task")))
    """"task": weights of as many classes as the task has; "own": of any, for masks read the teacher's own classes."""
    k: int = attrs.field(default=2, validator=[ge(2), le(16)])
    """Images in a mix: each image and those that follow it in the batch."""
    alpha: float = attrs.field(default=3.0, validator=[gt(0), lt(math.inf)])
    """Dirichlet(alpha, .., alpha) gives the wanted shares of each sample's classes."""
    w: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Cells a side of the masks that are optimised; absent: a 14th of the image, as a power of two of at least 8."""
    sigma: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf)])
    """Deviation of the blur of their gradients, in cells; 0: no blur."""
    lambda_s: float = attrs.field(default=25.0, validator=[ge(0), lt(math.inf)])
    """Weight of the wish that every pixel is one image's."""
    max_iter: int = attrs.field(default=5, validator=ge(1))
    """Rounds, each a forward and a backward of the teacher; all are run."""
    max_unfinished: float = attrs.field(default=0.7, validator=[ge(0), lt(1)])
    """Share of unfinished samples at which masks stay as they are; 0: each sample goes on until it is finished."""
    fallback: Fallback = attrs.field(default="clean", validator=in_(("clean", "keep", "drop")))
    """Unfinished samples: the "clean" image, the mix as it is ("keep"), or a finished sample in its place ("drop")."""
    target: Target = attrs.field(
        default="dirichlet", validator=in_(("dirichlet", "area", "teacher_soft", "teacher_hard"))
    )
    """Label weights: the wanted shares, the "area" of the masks, or the teacher's label of the mixed image."""

    @property
    def suggests(self) -> dict[str, str]:
        """Who reads the teacher's label."""
        return {"labels": "supermix_labels"} if self._teaches else {}

    @property
    def contract(self) -> dict[str, bool]:
        """Wanted shares are no areas; dropped samples leave their places to others."""
        return {"lam_is_mask_mean": self.target == "area", "keeps_rows": self.fallback != "drop"}

    @hookimpl
    def build_modules(self, task: Task) -> Mapping[str, Part]:
        """The teacher. OptionValueError where its labels are asked for, and are not the task's."""
        part = load_teacher(self.teacher, task=task, weights=self.weights, classes=self.classes)
        found = class_count(part.module)
        if found is not None:
            self._check_labels(found, task)
        return {"teacher": part}

    @hookimpl
    def generate_mix(self, images: Tensor, probe: Probe, task: Task, rng: Generator) -> Mix:
        """The batch blended, each image with those that follow it, by masks of the image's size."""
        count, _, height, width = images.shape
        row = torch.arange(count, device=images.device)[:, None]
        sources = (row + torch.arange(self.k, device=images.device)) % count
        shares = send(dirichlet(self.alpha, count, self.k, rng).float(), images.device)

        found = supermix(
            images,
            sources,
            shares,
            lambda seen: probe.look(seen, network="teacher", grad=torch.is_grad_enabled()).logits,
            w=self.w or _cells(height, width),
            sigma=self.sigma,
            lambda_s=self.lambda_s,
            max_iter=self.max_iter,
            max_unfinished=self.max_unfinished,
        )
        return self._mix(images, sources, shares, found, task)

    def _mix(self, images: Tensor, sources: Tensor, shares: Tensor, found: Supermixed, task: Task) -> Mix:
        """What was found, with what `fallback` and `target` make of it."""
        weights = found.masks.mean((2, 3)) if self.target == "area" else shares
        notes = {MIXED: found.finished, **self._taught(found, task)}
        mix = Mix(images=found.images, sources=sources, weights=weights, masks=found.masks[:, :-1], notes=notes)
        if self.fallback == "keep":
            mix = attrs.evolve(mix, notes={**notes, MIXED: torch.ones_like(found.finished)})
        else:
            mix = _plain_unless(found.finished, mix, images)
        if self.fallback == "drop":
            mix = _rows_of(mix, _finished_rows(found.finished))
        return attrs.evolve(mix, notes={**mix.notes, FINISHED: found.finished})

    def _taught(self, found: Supermixed, task: Task) -> dict[str, Tensor]:
        """The teacher's labels, where `target` asks for them. OptionValueError where they are not the task's."""
        if not self._teaches:
            return {}
        self._check_labels(found.logits.shape[1], task)
        return {TAUGHT: found.logits.softmax(1) if self.target == "teacher_soft" else found.logits.argmax(1)}

    def _check_labels(self, classes: int, task: Task) -> None:
        if self._teaches and classes != task.num_classes:
            raise OptionValueError(
                f"supermix: target = {self.target!r} gives the teacher's labels, and it has {classes} classes, the "
                f'task {task.num_classes}; name a teacher of this task, or set target = "dirichlet"'
            )

    @property
    def _teaches(self) -> bool:
        return self.target in ("teacher_soft", "teacher_hard")

    @hookimpl
    def scalars(self, mix: Mix) -> Mapping[str, Tensor]:
        """The share of samples that were finished."""
        return {"finished": mix.notes[FINISHED].float().mean()}


def _cells(height: int, width: int) -> int:
    """A 14th of the longer side, as a power of two of at least 8."""
    return 2 ** round(math.log2(max(8, max(height, width) / 14)))


def _plain_unless(finished: Tensor, mix: Mix, images: Tensor) -> Mix:
    """The mix, with the plain image and all weight on it where a sample is not finished."""
    pixel, alone = finished[:, None, None, None], torch.zeros_like(mix.weights)
    alone[:, 0] = 1
    assert mix.masks is not None
    return attrs.evolve(
        mix,
        images=torch.where(pixel, mix.images, images, out=torch.empty_like(images)),
        weights=torch.where(finished[:, None], mix.weights, alone),
        masks=torch.where(pixel, mix.masks, alone[:, :-1, None, None]),
    )


def _finished_rows(finished: Tensor) -> Tensor:
    """As many rows as there are samples, the finished ones in turn, each about as often; all where none is finished."""
    in_front = (~finished).to(torch.uint8).argsort(stable=True)
    row = torch.arange(len(finished), device=finished.device)
    count = finished.sum()
    return torch.where(count > 0, in_front[row % count.clamp(min=1)], row)


def _rows_of(mix: Mix, rows: Tensor) -> Mix:
    """Some rows of a mix."""
    assert mix.masks is not None
    return attrs.evolve(
        mix,
        images=take_rows(mix.images, rows),
        sources=mix.sources[rows],
        weights=mix.weights[rows],
        masks=mix.masks[rows],
        notes={name: note[rows] for name, note in mix.notes.items()},
    )
