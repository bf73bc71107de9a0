"""Any method in anybody's loop: `create_mixer` for a mixed batch, `create_step` for a whole iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mixcore.discovery.capabilities import check_task
from mixcore.discovery.manager import build_method_plugins
from mixcore.errors import ConfigError
from mixcore.evidence.network import Network
from mixcore.evidence.probe import Probe
from mixcore.hooks.calls import PluginCalls, missing_of_backbone
from mixcore.rng import keyed_seed
from mixcore.train.build import build_parts, build_step, install
from mixcore.train.iteration import Installed
from mixcore.train.precision import Precision
from mixcore.train.step import TrainingStep
from mixcore.types import LabelKind, Mix, Step, Targets, Task

__all__ = ["Mixer", "create_mixer", "create_step"]

_DISTRIBUTED = dist.is_available()
_ENDLESS = 1 << 40
"""Iterations of a loop whose length nobody told."""


def create_mixer(
    name: str | object,
    *,
    num_classes: int,
    model: nn.Module | None = None,
    seed: int = 0,
    overwrite: bool = False,
    **options: Any,
) -> Mixer:
    """A mixer for a loop of your own, by the name and with the options it has in a TOML file.

    An instance of a plugin class, its options set, may stand for the name.

    `model` is the trained network with timm's `forward_features` and `forward_head`, for methods that look at it: the
    bare module, also under DistributedDataParallel. `overwrite` grants the mixer the batch: it may then return mixed
    images in the batch's own memory. Images are taken as they come; methods that work on pixels in [0,1] have options
    `mean` and `std` for images that were normalised. Modules that a method brings (a teacher) are built for RGB images.

    Raises ConfigError for unknown names and options, and for a method that is more than a mixed batch (own losses,
    trained parts, work after the optimizer step): that one comes whole from :func:`create_step`.
    """
    return Mixer(name, options, num_classes=num_classes, model=model, seed=seed, overwrite=overwrite)


class Mixer:
    """Calls one mixing method; made by :func:`create_mixer`."""

    def __init__(
        self,
        name: str | object,
        options: Mapping[str, Any],
        *,
        num_classes: int,
        model: nn.Module | None,
        seed: int,
        overwrite: bool,
    ) -> None:
        if options and not isinstance(name, str):
            raise ConfigError(f"options go to the class: {type(name).__name__}({', '.join(options)}=...)")
        mix = {**options, "name": name} if isinstance(name, str) else name
        self._plugins = build_method_plugins(mix=mix)
        self._calls = self._plugins.mixers[0]
        _refuse_by_hooks(self._calls)
        self._classes, self._seed, self._overwrite = num_classes, seed, overwrite
        self._precision = Precision(None)
        self._network = _network_of(self._calls, model, self._precision)
        self._installed = _install_looking(self._calls, model, num_classes, seed, self._precision)
        self._looks = "probe" in self._calls.asks("generate_mix")
        self._next = 0
        self._rng = torch.Generator()
        self._known: dict[tuple[Any, ...], Task] = {}

    def __call__(
        self, images: Tensor, labels: Tensor, *, epoch: int | None = None, iteration: int | None = None
    ) -> Mix:
        """The mix of `images` [N,C,H,W] with `labels` int64 [N] or float [N,K], on the device of the images.

        Without `iteration` the mixer counts its own calls; draws depend on (seed, epoch, iteration, rank) alone.
        """
        step = Step(
            epoch=epoch or 0,
            epochs=_ENDLESS,
            iteration=self._next if iteration is None else iteration,
            iterations=_ENDLESS,
            may_overwrite=self._overwrite,
            seed=self._seed,
            group=_rank(),
            device=images.device,
        )
        self._next = step.iteration + 1
        with self._precision.hooks(images.device):
            mix = self._calls.generate_mix(
                images=images,
                labels=labels,
                probe=self._probe() if self._looks else None,
                modules=self._installed.modules,
                task=self._task(images, labels),
                step=step,
                rng=self._rng.manual_seed(keyed_seed(step.seed, step.epoch, step.iteration, step.group, "mix")),
            )
        if mix.stage is not None or mix.head is not None or mix.views:
            raise _other_door(self._calls, _why_more(mix))
        return mix

    def state_dict(self) -> dict[str, Any]:
        """How many calls were counted, and the state of the method's own modules."""
        return {"next": self._next, "modules": {k: m.state_dict() for k, m in self._installed.modules.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the saved mixer stopped."""
        self._next = state["next"]
        for name, module in self._installed.modules.items():
            module.load_state_dict(state["modules"][name])

    def _probe(self) -> Probe:
        return Probe(self._network, self._installed.networks, _cross_entropy, self._precision.autocast, {})

    def _task(self, images: Tensor, labels: Tensor) -> Task:
        """The task as the batch shows it; a new kind of batch is checked and the method's modules follow its device."""
        kind: LabelKind = "soft" if labels.is_floating_point() else "class"
        key = (images.shape, kind, images.device)
        task = self._known.get(key)
        if task is None:
            channels, height, width = images.shape[1:]
            task = self._known[key] = _task(self._classes, channels, (height, width), kind)
            check_task(self._plugins, task)
            for module in self._installed.modules.values():
                module.to(images.device)
        return task


def create_step(
    model: nn.Module,
    *,
    mix: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] = "none",
    labels: str | Mapping[str, Any] | None = None,
    loss: str | Mapping[str, Any] | None = None,
    extra: Sequence[str | Mapping[str, Any]] = (),
    num_classes: int,
    iterations: int,
    epochs: int = 1,
    seed: int = 0,
    in_channels: int = 3,
    image_size: tuple[int, int] = (224, 224),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    label_kind: LabelKind = "class",
    overwrite: bool = False,
    compile: bool = False,  # noqa: A002 - torch's word
) -> TrainingStep:
    """The whole training step of any method, as a module to wrap in DistributedDataParallel and to train as one likes.

    `mix`, `labels`, `loss` and `extra` are names, or tables as in a TOML file: {"name": "cutmix", "alpha": 0.2}; `mix`
    may be a list. `model` is on its device already and has timm's `forward_features`, `forward_head` and
    `get_classifier`. `iterations` and `epochs` are the totals of the run. `mean` and `std` are what the images were
    normalised with (0 and 1 by default). The step follows the autocast that surrounds it.

    Raises ConfigError where names, options, network and labels do not fit together.
    """
    missing = missing_of_backbone(model)
    if missing:
        raise ConfigError(
            f"{type(model).__name__} has no {', '.join(missing)}; create_step takes networks with timm's interface, "
            "such as timm.create_model('resnet18', num_classes=10)"
        )
    return build_step(
        build_method_plugins(mix=mix, labels=labels, loss=loss, extra=extra),
        model,
        _task(num_classes, in_channels, image_size, label_kind, mean, std),
        device=next(model.parameters()).device,
        seed=seed,
        epochs=epochs,
        iterations=iterations,
        precision=None,
        compile=compile,
        rank=_rank(),
        owns_batch=overwrite,
    )


def _task(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    label_kind: LabelKind,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Task:
    return Task(
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        mean=tuple(mean) if mean is not None else (0.0,) * in_channels,
        std=tuple(std) if std is not None else (1.0,) * in_channels,
        label_kind=label_kind,
    )


def _rank() -> int:
    return dist.get_rank() if _DISTRIBUTED and dist.is_initialized() else 0


def _cross_entropy(logits: Tensor, targets: Targets) -> Tensor:
    """The loss that evidence is taken from where the loop has not told its own."""
    rows = targets.dense(logits.shape[1])
    return torch.nn.functional.cross_entropy(logits.float(), rows)


def _network_of(calls: PluginCalls, model: nn.Module | None, precision: Precision) -> Network:
    """The model as the probe looks at it; where none was given, a stand-in that says so when it is looked at."""
    if model is None:
        return cast(Network, _NoNetwork(calls))
    plugin = calls.plugin
    attention = "attention" in getattr(plugin, "needs", ())
    return Network(model, stages=getattr(plugin, "stages", ()), attention=attention, autocast=precision.autocast)


class _NoNetwork:
    """Stands where the trained network would be, for methods that do not look at it."""

    def __init__(self, calls: PluginCalls) -> None:
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)  # copy and pickle ask for these, no method does
        raise ConfigError(
            f"{self._calls.label} looks at the trained network, and none was given; "
            f"pass it: create_mixer({self._calls.name!r}, ..., model=net)"
        )


def _install_looking(
    calls: PluginCalls, model: nn.Module | None, num_classes: int, seed: int, precision: Precision
) -> Installed:
    """The method's own modules; they may look (a teacher), but none may need training."""
    if model is None and "model" in calls.asks("build_modules"):
        raise ConfigError(f"{calls.label} builds on the trained network; pass it: model=net")
    task = _task(num_classes, 3, (224, 224), "class")
    parts = build_parts([calls], model, task, seed)[calls]
    trained = [name for name, part in parts.items() if part.optimizer is not None]
    if trained:
        raise _other_door(calls, f"trains modules of its own ({', '.join(trained)})")
    return install(calls, calls.name, parts, precision)


def _refuse_by_hooks(calls: PluginCalls) -> None:
    for hook in ("extra_losses", "after_step"):
        if calls.has(hook):
            raise _other_door(calls, f"implements {hook}")


def _why_more(mix: Mix) -> str:
    return "mixes inside the network" if mix.stage is not None else "trains on more than the mixed batch"


def _other_door(calls: PluginCalls, why: str) -> ConfigError:
    return ConfigError(
        f"{calls.label} {why}, which create_mixer cannot give; "
        f"use mixcore.create_step(model, mix={calls.name!r}, num_classes=..., iterations=...), which is the whole step"
    )
