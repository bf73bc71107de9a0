"""From plugins, a network and a task to the training step, in the order that the design fixes.

Parts are built while the model is still bare (a copy made later would carry taps); then SyncBatchNorm, taps, activation
checkpointing and compilation follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import attrs
import torch
from torch import nn

from mixcore.discovery.backbones import build_backbone_plugin
from mixcore.discovery.capabilities import check_network
from mixcore.discovery.plugins import Plugins
from mixcore.errors import ConfigError
from mixcore.hooks.calls import PluginCalls, has_wrapper
from mixcore.networks.named import backbones_by
from mixcore.networks.network import Network, capabilities
from mixcore.networks.readers import check_readers
from mixcore.networks.stages import stage_names
from mixcore.rng import keyed_seed
from mixcore.step.precision import Precision
from mixcore.step.setup import IterationSetup, RunPlugin
from mixcore.step.step import TrainingStep
from mixcore.types import Part, Stage, Task

__all__ = ["build_parts", "build_step", "install"]


def build_step(
    plugins: Plugins,
    model: nn.Module,
    task: Task,
    *,
    device: torch.device,
    seed: int,
    epochs: int,
    iterations: int,
    precision: str | None = "fp32",
    channels_last: bool = False,
    compile: bool = False,  # noqa: A002 - the word of the configuration and of torch
    sync_bn: bool = False,
    checkpoint: bool = False,
    rank: int = 0,
    owns_batch: bool = False,
) -> TrainingStep:
    """The training step of a run of `iterations` iterations in `epochs` epochs.

    `precision` None follows the autocast that surrounds the step. `owns_batch` says that nobody reads the batch after
    the step, so that a mixer may write into it. Plugins and task were checked before (`check_run`); ConfigError where
    plugins and network do not fit together, PluginError where it cannot be told what reads the network's attention.
    """
    attention = any("attention" in _declared(calls, "needs") for calls in plugins.everyone)
    if attention:
        check_readers(model)
    check_network(plugins, capabilities(model), stage_names(model))
    _move(model, device, channels_last)
    parts_of = build_parts(plugins.everyone, model, task, seed)
    for parts in parts_of.values():
        for part in parts.values():
            _move(part.module, device, channels_last)
    if sync_bn:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        parts_of = {calls: _with_sync_bn(parts) for calls, parts in parts_of.items()}
    kind = Precision(precision)
    stages = _unique(stage for calls in plugins.everyone for stage in _declared(calls, "stages"))
    if checkpoint:
        _checkpoint_activations(model, plugins)
    network = Network(
        model, stages=stages, attention=attention, compile=compile, autocast=kind.autocast, loss_scale=kind.loss_scale
    )
    keys = _keys(plugins.everyone)
    installed = tuple(install(calls, keys[calls], parts_of[calls], kind, compile=compile) for calls in plugins.everyone)
    reads = [calls for calls in plugins.everyone if _reads_outputs(calls)]
    setup = IterationSetup(
        plugins=plugins,
        network=network,
        installed=installed,
        task=task,
        stages=_unique(stage for calls in reads for stage in _declared(calls, "stages")),
        attention=any("attention" in _declared(calls, "needs") for calls in reads),
        precision=kind,
        compile=compile,
        overwrite=tuple(owns_batch and not _looks_back(plugins, mixer) for mixer in plugins.mixers),
    )
    return TrainingStep(
        setup,
        seed=seed,
        epochs=epochs,
        iterations=iterations,
        rank=rank,
        find_unused_parameters=_leaves_parameters_unused(plugins, parts_of),
    )


def _declared(calls: PluginCalls, attribute: str) -> Iterable[Stage]:
    return getattr(calls.plugin, attribute, ())


def _unique(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    return tuple(dict.fromkeys(stages))


def _move(module: nn.Module, device: torch.device, channels_last: bool) -> None:
    module.to(device)
    if channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_parts(
    everyone: Iterable[PluginCalls], model: nn.Module | None, task: Task, seed: int
) -> dict[PluginCalls, dict[str, Part]]:
    """Every plugin's parts, frozen ones without gradients.

    Initial weights depend on the seed alone, whatever torch's default dtype and device are, and the global generators
    stay as they are.
    """
    parts_of = {}
    for index, calls in enumerate(everyone):
        with (
            torch.random.fork_rng(devices=_devices_in_use()),
            _plain_defaults(),
            backbones_by(build_backbone_plugin),
        ):
            torch.manual_seed(keyed_seed(seed, "build_modules", index))
            parts_of[calls] = calls.build_modules(model=model, task=task)
        for part in parts_of[calls].values():
            if part.optimizer is None:
                part.module.requires_grad_(False)
    return parts_of


@contextmanager
def _plain_defaults() -> Iterator[None]:
    """New modules are float32 on the CPU: layers take the program's defaults, which say nothing of this network."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


def _devices_in_use() -> list[int]:
    """The CUDA device of a run that uses one; a run on the CPU must not open any."""
    return [torch.cuda.current_device()] if torch.cuda.is_initialized() else []


def _with_sync_bn(parts: Mapping[str, Part]) -> dict[str, Part]:
    return {
        name: attrs.evolve(part, module=nn.SyncBatchNorm.convert_sync_batchnorm(part.module))
        for name, part in parts.items()
    }


def _checkpoint_activations(model: nn.Module, plugins: Plugins) -> None:
    enable = getattr(model, "set_grad_checkpointing", None)
    if enable is None:
        raise ConfigError(
            f"[train] checkpoint = true, but {type(model).__name__} offers no activation checkpointing "
            "(timm's set_grad_checkpointing); remove the setting or choose another backbone"
        )
    for calls in plugins.everyone:
        stages = [stage for stage in _declared(calls, "stages") if stage not in ("features", 0)]
        if stages:
            raise ConfigError(
                f"[train] checkpoint = true, but {calls.label} works at stage {stages[0]!r} of the backbone, and "
                "checkpointed networks do not call their stages; set checkpoint = false"
            )
    enable(True)


def _keys(everyone: Iterable[PluginCalls]) -> dict[PluginCalls, str]:
    """A key for each plugin's parts: its name, numbered where a name occurs again."""
    keys: dict[PluginCalls, str] = {}
    for calls in everyone:
        taken = set(keys.values())
        key, number = calls.name, 2
        while key in taken:
            key, number = f"{calls.name}_{number}", number + 1
        keys[calls] = key
    return keys


def install(
    calls: PluginCalls,
    key: str,
    parts: Mapping[str, Part],
    precision: Precision,
    *,
    compile: bool = False,  # noqa: A002
) -> RunPlugin:
    """A plugin with its parts, prepared for the probe: any of them may be a network."""
    networks = {
        name: Network(
            part.module,
            stages=part.stages,
            attention=part.attention,
            compile=compile,
            autocast=precision.autocast,
            loss_scale=precision.loss_scale,
        )
        for name, part in parts.items()
    }
    modules = {name: part.module for name, part in parts.items()}
    return RunPlugin(calls=calls, key=key, parts=parts, modules=modules, networks=networks)


def _reads_outputs(calls: PluginCalls) -> bool:
    return bool({"output", "clean"} & (calls.asks("mix_labels") | calls.asks("extra_losses")))


def _looks_back(plugins: Plugins, mixer: PluginCalls) -> bool:
    """Whether a hook that follows the mixer in an iteration names the batch's images or their forward."""
    asked = plugins.labels.asks("mix_labels")
    for calls in (mixer, plugins.labels, plugins.loss, *plugins.extras):
        asked |= calls.asks("extra_losses")
    return bool({"images", "batch", "clean"} & asked)


def _leaves_parameters_unused(plugins: Plugins, parts_of: Mapping[PluginCalls, Mapping[str, Part]]) -> bool:
    """Whether some trained parameter may be idle in an iteration, which DistributedDataParallel must be told."""
    if any(getattr(calls.plugin, "find_unused_parameters", False) for calls in plugins.everyone):
        return True
    always = len(plugins.mixers) == 1 and sum(plugins.probabilities) > 1 - 1e-9
    sits_out = not always or has_wrapper(plugins.manager, "choose_mixer")
    trains = any(part.optimizer is not None for mixer in plugins.mixers for part in parts_of[mixer].values())
    return sits_out and trains
