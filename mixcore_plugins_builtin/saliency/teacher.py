"""Saliency by a frozen teacher, which looks at the images in eval mode and is in no checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs
import torch
from attrs.validators import ge, in_, min_len, optional
from torch import Tensor, nn
from torch.nn import functional as F

from mixcore.api import (
    ConfigError,
    Part,
    Probe,
    Task,
    capabilities,
    class_count,
    hookimpl,
    load_teacher,
    position_logits,
    saliency_stages,
)

__all__ = ["TeacherClassActivation", "TeacherClassProbability", "TeacherFeature"]

Classes = Literal["own", "task"]
_CLASSES = in_(("own", "task"))


@attrs.define(eq=False, kw_only=True)
class TeacherOptions:
    """The teacher, and what it is shown."""

    role = "saliency"
    spec_version = (1, 2)

    teacher: str | nn.Module
    """Any name that [backbone] takes, such as "resnet50"; in Python also a network."""
    weights: str | None = attrs.field(default=None, validator=optional(min_len(1)))
    """File of its weights, or a checkpoint of a run; absent: those that timm publishes."""
    classes: Classes = attrs.field(default="task", validator=_CLASSES)
    """"task": as many classes as the task has; "own": as many as its weights have."""
    size: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Side in pixels that images are brought to, bilinearly, before it sees them; absent: as they are."""

    def load(self, task: Task, stages: tuple[str | int, ...] = ()) -> Mapping[str, Part]:
        """The teacher as the part `teacher`."""
        part = load_teacher(self.teacher, task=task, weights=self.weights, classes=self.classes, stages=stages)
        return {"teacher": part}

    def shown(self, images: Tensor) -> Tensor:
        """The images as the teacher sees them."""
        if self.size is None or images.shape[-2:] == (self.size, self.size):
            return images
        return F.interpolate(images.detach(), size=(self.size, self.size), mode="bilinear", align_corners=False)


def _of_the_task(parts: Mapping[str, Part], task: Task, what: str) -> Mapping[str, Part]:
    """The parts, where the teacher knows the task's classes; ConfigError where it has others of its own."""
    found = class_count(parts["teacher"].module)
    if found is not None and found != task.num_classes:
        raise ConfigError(
            f"{what} reads the teacher's logits of the image's own class, and this teacher has {found} classes, the "
            f'task {task.num_classes}; name weights of this task, or take saliency = {{ name = "teacher_feature" }}'
        )
    return parts


@attrs.define(eq=False, kw_only=True)
class TeacherFeature(TeacherOptions):
    """The teacher's last stage after its activation, averaged over channels."""

    classes: Classes = attrs.field(default="own", validator=_CLASSES)
    """"own": as many classes as its weights have, for none of them is asked; "task": weights of others are refused."""

    @hookimpl
    def build_modules(self, task: Task) -> Mapping[str, Part]:
        """The teacher."""
        return self.load(task, saliency_stages("feature"))

    @hookimpl
    def map_saliency(self, images: Tensor, probe: Probe) -> Tensor:
        """[N,h,w]: the mean over channels of the positive part, which is the stage itself where it ends in a ReLU."""
        (last,) = saliency_stages("feature")
        features = probe.look(self.shown(images), network="teacher", stages=(last,)).stages[last]
        return features.float().clamp(min=0).mean(1)


@attrs.define(eq=False, kw_only=True)
class TeacherClassActivation(TeacherOptions):
    """What each position adds to the teacher's logit of the image's own class, where that is positive."""

    accepts = frozenset({"class", "soft", "multi_label"})

    @hookimpl
    def build_modules(self, task: Task) -> Mapping[str, Part]:
        """The teacher, whose head has to average over positions."""
        parts = _of_the_task(self.load(task), task, "teacher_class_activation")
        module = parts["teacher"].module
        if "class_activation" not in capabilities(module):
            raise ConfigError(
                f"teacher_class_activation: {type(module).__name__} has no class activation maps; name a teacher that "
                'averages over positions, such as resnet50, or take "teacher_class_probability"'
            )
        return parts

    @hookimpl
    def map_saliency(self, images: Tensor, labels: Tensor, probe: Probe) -> Tensor:
        """[N,h,w], from one forward of the teacher."""
        return probe.saliency("class_activation", self.shown(images), labels, network="teacher")


@attrs.define(eq=False, kw_only=True)
class TeacherClassProbability(TeacherOptions):
    """The teacher's classifier at every position: after a softmax, the probability of the image's own class."""

    accepts = frozenset({"class", "soft", "multi_label"})

    @hookimpl
    def build_modules(self, task: Task) -> Mapping[str, Part]:
        """The teacher."""
        return _of_the_task(self.load(task), task, "teacher_class_probability")

    @hookimpl
    def map_saliency(self, images: Tensor, labels: Tensor, probe: Probe, modules: Mapping[str, nn.Module]) -> Tensor:
        """[N,h,w] in [0,1]; under labels [N,K] the probabilities weighted by them."""
        images = self.shown(images)
        features = probe.look(images, network="teacher").features
        with torch.no_grad(), probe.autocast():
            logits = position_logits(modules["teacher"], features, *images.shape[-2:])
        probabilities = logits.float().softmax(1)
        if labels.is_floating_point():
            return torch.einsum("nkhw,nk->nhw", probabilities, labels.float())
        return probabilities.gather(1, labels[:, None, None, None].expand(-1, 1, *probabilities.shape[2:]))[:, 0]
