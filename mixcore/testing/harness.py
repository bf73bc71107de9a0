"""One plugin on its own, in the training step of a tiny network, for the checks to poke at.

A mixer is checked with the mix's own label weights and cross-entropy; a plugin of another role in its place beside
them, with a mixer that pastes columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

import attrs
import torch
from torch import Tensor, nn

from mixcore.api import Mix, Step, Targets, Task
from mixcore.autocast import autocast_of
from mixcore.config.structure import structure
from mixcore.data.stand_ins import StandIns, stand_ins
from mixcore.discovery.capabilities import check_run
from mixcore.discovery.catalogue import find, installed
from mixcore.discovery.declared import LABEL_KINDS, declared
from mixcore.discovery.load import load
from mixcore.discovery.manager import build_method_plugins, register_alone
from mixcore.discovery.plugins import Plugins
from mixcore.errors import BrokenPluginError, ConfigError, MixcoreError
from mixcore.hooks.calls import PluginCalls
from mixcore.hooks.roles import ROLES, STEP_ROLES, role_of
from mixcore.rng import keyed_generator
from mixcore.step.build import build_step
from mixcore.step.step import TrainingStep
from mixcore.testing.fakes import Columns, Shown, tiny_network
from mixcore.types import Batch, LabelKind

__all__ = ["Harness", "NotApplicableError", "Subject", "companions", "make_step"]

EPOCHS, ITERATIONS = 4, 1000
_LOSSES: dict[LabelKind, str] = {
    "class": "soft_cross_entropy",
    "soft": "soft_cross_entropy",
    "multi_label": "bce",
    "value": "mse",
}
"""The loss that a plugin of another role is checked with, by the kind of its labels."""


class NotApplicableError(MixcoreError):
    """A check has nothing to say about this plugin; the message says why."""


@attrs.frozen(kw_only=True)
class Subject:
    """A plugin and what its method promises; the defaults are what a pair mix with a mask promises.

    What a plugin's class declares as `contract` goes before the defaults.
    """

    plugin: str | type
    """Its name in the configuration, or the class."""
    options: Mapping[str, Any] = attrs.field(factory=dict)
    """As in a TOML table."""
    image_size: tuple[int, int] = (16, 24)
    """Height and width, different, of the images that most checks use."""
    num_classes: int = 5
    device: str = "cpu"
    keeps_rows: bool = True
    """As many mixed images as images; false for a method that drops or folds rows."""
    weights_sum_to_one: bool = True
    lam_is_mask_mean: bool = True
    """The label weight is the mean of the mask, within 1/(H·W)."""
    pixels_follow_lam: bool = True
    """A mixed image resembles the source of the largest label weight most; false where masks are learnt without lam."""
    own_pixels: bool = True
    """Where the mask of source 0 is 1 a mixed image has its own pixel; false for a method that moves or resizes it."""
    partner_pixels: bool = True
    """Where another source has all the weight it has the pixel of that one."""
    graph: bool = False
    """Mixed images, masks or lam carry a graph, through which the network's loss trains a part of the plugin."""
    extremes: Mapping[str, Any] = attrs.field(factory=lambda: {"alpha": 1e-6})
    """Options under which lam is drawn as 0 or 1; used where the plugin has all of them."""
    varied: Mapping[str, Any] = attrs.field(factory=dict)
    """Options under which masks vary over images of noise, for a method that cuts only where it is worth a price."""
    looking: Mapping[str, Any] = attrs.field(factory=dict)
    """Options that switch off what moves BatchNorm statistics: clean terms, which are training; looks in train mode."""
    stages: int = 2
    """Stages of the tiny convolutional network, for a method that by default reads a later one."""
    network: Callable[[int, tuple[int, int], int], nn.Module] | None = None
    """(classes, image size, channels) -> the trained network; None: a tiny one that offers what the plugin needs."""


def make_step(
    *, iteration: int = 0, epoch: int = 0, may_overwrite: bool = False, seed: int = 0, device: str = "cpu"
) -> Step:
    """A Step for calling hooks directly."""
    return Step(
        epoch=epoch,
        epochs=EPOCHS,
        iteration=iteration,
        iterations=ITERATIONS,
        may_overwrite=may_overwrite,
        seed=seed,
        device=torch.device(device),
    )


def companions(step: TrainingStep, images: Tensor) -> StandIns:
    """What `step(images, labels, **companions(step, images))` hands over for the plugins that declare it.

    `maps` [N,1,H,W] and `augmented`, made of the images row by row, so that they follow rows that are taken or moved.
    """
    return stand_ins(images, step.augmentations, step.maps)


class Harness:
    """Builds the subject's plugin into training steps, and batches to feed them."""

    def __init__(self, subject: Subject) -> None:
        self.cls: type = load(find(subject.plugin, installed())) if isinstance(subject.plugin, str) else subject.plugin
        self.role = role_of(self.cls)
        self.plugin: Any = _instance(self.cls, subject.options, self.role)
        declared(self.plugin, self.cls.__name__)
        self.given = subject
        """The subject as it was given, without what the class declares for these options."""
        self.subject = _as_declared(subject, self.plugin, ROLES[self.role].contract)
        self.device = torch.device(subject.device)
        accepted = getattr(self.plugin, "accepts", LABEL_KINDS)
        self.kinds: tuple[LabelKind, ...] = tuple(kind for kind in get_args(LabelKind) if kind in accepted)
        """Kinds of labels that the plugin accepts; batches have the first."""

    def has_option(self, *names: str) -> bool:
        """Whether the plugin has all these options."""
        return set(names) <= {field.name for field in attrs.fields(type(self.plugin))}

    def plugins(
        self, options: Mapping[str, Any] | None = None, group_size: int | None = None, mix: object = None
    ) -> Plugins:
        """A run's plugins with this one, with the subject's options and these, in its place among plain ones.

        `mix` are other mixers for a plugin that is none.
        """
        table = {**self.subject.options, **(options or {})}
        own: object = {"name": self.subject.plugin, **table}
        if not isinstance(self.subject.plugin, str):
            own = _instance(self.cls, table, self.role)
        tables: dict[str, Any] = {"mix": Columns(), "labels": "weights", "loss": _LOSSES[self.kinds[0]]}
        if self.role in STEP_ROLES:
            tables[self.role] = own
        if self.role == "saliency":
            tables["mix"] = Shown(saliency=own)
        if mix is not None:
            tables["mix"] = mix
        plugins = build_method_plugins(**tables)
        return attrs.evolve(plugins, group_sizes=(group_size,) * len(plugins.mixers))

    def rebuilt(self, options: Mapping[str, Any]) -> Any:
        """A new instance of the plugin with these options."""
        return _instance(self.cls, options, self.role)

    def owner(self, plugins: Plugins) -> PluginCalls:
        """The calls into the plugin that is checked; in a manager of its own where a training step has no such role."""
        there = plugins.of.get(self.role)
        if there:
            return there[0]
        return register_alone(self.rebuilt(self.subject.options), self.role, self.cls.__name__).calls

    def step(
        self,
        *,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        group_size: int | None = None,
        rank: int = 0,
        owns_batch: bool = False,
        channels: int = 3,
        image_size: tuple[int, int] | None = None,
        kind: LabelKind | None = None,
        mix: object = None,
        plugins: Plugins | None = None,
    ) -> TrainingStep:
        """A new training step; everything in it follows from these arguments.

        `plugins` are such as :meth:`plugins` gave, in place of new ones.
        """
        plugins = plugins or self.plugins(options, group_size, mix)
        task = self.task(channels, image_size, kind)
        check_run(plugins, task, ITERATIONS)
        return build_step(
            plugins,
            self.network(plugins, task),
            task,
            device=self.device,
            seed=seed,
            epochs=EPOCHS,
            iterations=ITERATIONS,
            precision=None,
            rank=rank,
            owns_batch=owns_batch,
        )

    def task(self, channels: int = 3, image_size: tuple[int, int] | None = None, kind: LabelKind | None = None) -> Task:
        """What the batches are; labels of the first kind that the plugin accepts, unless told."""
        return Task(
            num_classes=self.subject.num_classes,
            in_channels=channels,
            image_size=image_size or self.subject.image_size,
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            label_kind=kind or self.kinds[0],
        )

    def network(self, plugins: Plugins, task: Task) -> nn.Module:
        """The trained network; its weights are the same at every call."""
        classes, size, channels = task.num_classes, task.image_size, task.in_channels
        if self.role == "backbone":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return self.owner(plugins).build_backbone(task=task)
        if self.subject.network is not None:
            return self.subject.network(classes, size, channels)
        asking = (self.owner(plugins), *plugins.saliencies)
        needs = {need for calls in asking for need in getattr(calls.plugin, "needs", ())}
        return tiny_network(needs, classes, size, channels, stages=self.subject.stages)

    def batch(
        self,
        count: int = 6,
        *,
        dtype: torch.dtype = torch.float32,
        channels: int = 3,
        image_size: tuple[int, int] | None = None,
        kind: LabelKind | None = None,
        seed: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Images [N,C,H,W], no two pixels alike, and labels of that kind, on the device; the same for the same seed."""
        rng = keyed_generator("batch", seed, count)
        kind = kind or self.kinds[0]
        images = torch.randn(count, channels, *(image_size or self.subject.image_size), generator=rng)
        labels = torch.randint(self.subject.num_classes, (count,), generator=rng)
        if kind != "class":
            labels = _float_labels(kind, labels, self.subject.num_classes, rng)
        return images.to(self.device, dtype), labels.to(self.device)

    def mix(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        iteration: int = 0,
        step: TrainingStep | None = None,
        beside: StandIns | None = None,
    ) -> Mix:
        """The mix of a batch at one iteration, by `step` or a new one that fits the batch.

        `beside` are the batch's maps and further augmentations, by default its :func:`companions`.
        """
        return self.mix_and_targets(images, labels, iteration=iteration, step=step, beside=beside)[0]

    def mix_and_targets(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        iteration: int = 0,
        step: TrainingStep | None = None,
        beside: StandIns | None = None,
    ) -> tuple[Mix, Targets]:
        """The mix and the mix's own targets; networks run in the dtype of the images."""
        if step is None:
            soft: LabelKind = "soft" if self.kinds[0] == "class" else self.kinds[0]
            kind: LabelKind = soft if labels.is_floating_point() else "class"
            height, width = images.shape[-2:]
            step = self.step(channels=images.shape[1], image_size=(height, width), kind=kind)
        half = images.dtype if images.dtype in (torch.bfloat16, torch.float16) else None
        with autocast_of(half, self.device):
            batch = Batch(images=images, labels=labels, **(beside or companions(step, images)))
            return step.mix_batch(batch, mixer=0, epoch=0, iteration=iteration)


def _instance(cls: type, options: Mapping[str, Any], role: str) -> Any:
    plugin, faults = structure(cls, options, (role,), cls.__name__)
    if plugin is None:
        raise ConfigError("\n".join(fault.message for fault in faults))
    return plugin


def _as_declared(subject: Subject, plugin: Any, defaults: Mapping[str, Any]) -> Subject:
    """The subject with what the plugin's class declares as `contract`, where it does not itself say otherwise."""
    known = attrs.fields_dict(Subject)
    plain, told = Subject(plugin=subject.plugin), {}
    for name, value in {**defaults, **getattr(plugin, "contract", {})}.items():
        if name in ("plugin", "options", "device") or name not in known:
            allowed = ", ".join(sorted(set(known) - {"plugin", "options", "device"}))
            raise BrokenPluginError(f"{type(plugin).__name__}: contract has {name!r}, known are {allowed}")
        if getattr(subject, name) == getattr(plain, name):
            told[name] = value
    return attrs.evolve(subject, **told)


def _float_labels(kind: LabelKind, labels: Tensor, classes: int, rng: torch.Generator) -> Tensor:
    if kind == "multi_label":
        return (torch.rand(labels.shape[0], classes, generator=rng) < 0.5).float()
    rows = torch.rand(labels.shape[0], classes, generator=rng)
    return rows if kind == "value" else rows / rows.sum(1, keepdim=True)
