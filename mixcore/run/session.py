"""From a configuration to everything that trains, in the order that the design fixes.

Data, what the plugins say of it, backbone, device and memory format, the average of the weights (a copy, so before
anything hooks the network), the training step with its parts, the optimizer, and DistributedDataParallel around the
step.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mixcore.config.schema import RunConfig
from mixcore.data.loader import Loader, build_eval_loader, build_train_loader
from mixcore.data.maps import given_maps
from mixcore.data.randomness import preserved_generators, seed_generators
from mixcore.discovery.capabilities import check_maps, check_run, check_task
from mixcore.discovery.plugins import Plugins
from mixcore.errors import ConfigError
from mixcore.rng import keyed_seed
from mixcore.step.build import build_step
from mixcore.step.step import TrainingStep
from mixcore.train.agreement import Processes
from mixcore.train.ema import Ema
from mixcore.train.optimizer import build_optimizer
from mixcore.train.schedule import Schedule
from mixcore.train.state import TrainingState
from mixcore.train.totals import Totals
from mixcore.types import Batch, Data, Task

__all__ = [
    "Session",
    "build_backbone",
    "build_data",
    "build_networks",
    "build_session",
    "check_groups",
    "choose_predictor",
    "evaluation_loader",
    "first_images",
    "training_loader",
]


@attrs.frozen(eq=False, kw_only=True)
class Session:
    """What a run trains with."""

    data: Data
    task: Task
    loader: Loader
    validation: Loader
    state: TrainingState
    module: nn.Module
    """The step, or DistributedDataParallel around it."""
    schedule: Schedule
    predictor: str
    """Name of the predictor whose value picks best.pt."""
    remarks: tuple[str, ...]
    """What plugins have to say of this run before it starts."""


def build_session(config: RunConfig, plugins: Plugins, processes: Processes) -> Session:
    """Build all of it. Raises ConfigError and DataError for whatever does not fit together."""
    data = build_data(plugins, processes)
    check_groups(config, data, processes)
    loader, validation = training_loader(config, plugins, data, processes), evaluation_loader(config, data, processes)
    train, epochs = config.train, config.schedule.epochs
    remarks = check_run(plugins, data.task, epochs * len(loader))
    step, ema = build_networks(config, plugins, data.task, processes, iterations=epochs * len(loader))
    optimizer = build_optimizer(step.trained(), config.optimizer, config.schedule)
    state = TrainingState(
        step=step,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(processes.device.type, enabled=train.precision == "fp16"),
        ema=ema,
        totals=Totals(train.precision),
        epochs=epochs,
        iterations_per_epoch=len(loader),
        accumulate=train.accumulate,
    )
    return Session(
        data=data,
        task=data.task,
        loader=loader,
        validation=validation,
        state=state,
        module=_distribute(state, processes),
        schedule=Schedule(optimizer, config.schedule, len(loader)),
        predictor=choose_predictor(config, plugins, state.networks()),
        remarks=remarks,
    )


def build_data(plugins: Plugins, processes: Processes) -> Data:
    """The data, on rank 0 first: it may have to fetch or decode what the others then find on the disk."""
    assert plugins.data is not None  # a RunConfig names data and backbone
    if processes.leads:
        data = plugins.data.build_data()
    processes.wait()
    return data if processes.leads else plugins.data.build_data()


def check_groups(config: RunConfig, data: Data, processes: Processes) -> None:
    """Refuse groups that the share of a process does not hold whole, or whose images are not consecutive."""
    share = config.data.batch_size // processes.world
    for table in config.mix:
        if table.group_size is None:
            continue
        where = f"{table.path or 'mix'}.group_size = {table.group_size}"
        if share % table.group_size:
            raise ConfigError(
                f"{where} does not divide the {share} images that each of {processes.world} processes has of a batch; "
                "choose a group_size that divides data.batch_size / processes"
            )
        if data.repeats > 1:
            raise ConfigError(
                f"{where}, but repeated augmentation deals the copies of an image to the processes in turn, so that "
                "groups would differ with their number; set data.repeats = 1 or remove group_size"
            )


def training_loader(config: RunConfig, plugins: Plugins, data: Data, processes: Processes) -> Loader:
    """What a run of `config` trains on, for this process, with what its plugins ask for beside images and labels.

    Raises ConfigError where one of them reads a map that the data does not give.
    """
    if plugins.maps:
        check_maps(plugins, given_maps(data))
    table = config.data
    grouped = any(mix.group_size is not None for mix in config.mix)
    return build_train_loader(
        data,
        batch_size=table.batch_size,
        workers=table.workers,
        drop_last=table.drop_last or grouped,  # an incomplete batch has no whole groups
        seed=config.seed,
        rank=processes.rank,
        world=processes.world,
        device=processes.device,
        channels_last=config.train.channels_last,
        augmentations=plugins.augmentations,
        maps=plugins.maps,
    )


def first_images(config: RunConfig, session: Session, count: int, device: torch.device) -> Batch:
    """The first `count` images of the first epoch of one process, read by this one, with all that plugins read."""
    loader = build_train_loader(
        session.data,
        batch_size=count,
        workers=0,
        drop_last=True,
        seed=config.seed,
        rank=0,
        world=1,
        device=device,
        channels_last=config.train.channels_last,
        augmentations=session.state.step.augmentations,
        maps=session.state.step.maps,
    )
    return next(iter(loader.epoch(0)))


def evaluation_loader(config: RunConfig, data: Data, processes: Processes) -> Loader:
    """The validation set of `data`, for this process."""
    return build_eval_loader(
        data,
        batch_size=config.eval.batch_size or config.data.batch_size,
        workers=config.data.workers,
        rank=processes.rank,
        world=processes.world,
        device=processes.device,
        channels_last=config.train.channels_last,
    )


def build_networks(
    config: RunConfig, plugins: Plugins, task: Task, processes: Processes, *, iterations: int
) -> tuple[TrainingStep, Ema | None]:
    """The step of a run of so many `iterations`, with network and parts, and the average of the network's weights."""
    check_task(plugins, task)
    train = config.train
    model = build_backbone(config, plugins, task, processes.device)
    ema = None if train.ema_decay is None else Ema(model, decay=train.ema_decay, warmup=train.ema_warmup)
    step = build_step(
        plugins,
        model,
        task,
        device=processes.device,
        seed=config.seed,
        epochs=config.schedule.epochs,
        iterations=iterations,
        precision=train.precision,
        channels_last=train.channels_last,
        compile=train.compile,
        sync_bn=_wants_sync_bn(config, processes),
        checkpoint=train.checkpoint,
        rank=processes.rank,
        owns_batch=True,
    )
    return step, ema


def build_backbone(config: RunConfig, plugins: Plugins, task: Task, device: torch.device) -> nn.Module:
    """The network on its device; its initial weights depend on the seed alone."""
    assert plugins.backbone is not None
    with preserved_generators():
        seed_generators(keyed_seed(config.seed, "build_backbone"))
        model = plugins.backbone.build_backbone(task=task)
    model.to(device)
    if config.train.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _wants_sync_bn(config: RunConfig, processes: Processes) -> bool:
    if not config.train.sync_bn or processes.world == 1:
        return False
    if processes.device.type != "cuda":
        raise ConfigError("train.sync_bn = true, but torch offers SyncBatchNorm on CUDA only; set it to false")
    return True


def _distribute(state: TrainingState, processes: Processes) -> nn.Module:
    if processes.world == 1:
        return state.step
    return DistributedDataParallel(
        state.step,
        device_ids=[processes.device] if processes.device.type == "cuda" else None,
        find_unused_parameters=state.step.find_unused_parameters,
    )


def choose_predictor(config: RunConfig, plugins: Plugins, known: Iterable[str]) -> str:
    """The predictor that [eval] names, else the one that a mixer suggests, else "model"."""
    chosen = config.eval.predictor or plugins.predictor or "model"
    if chosen not in known:
        raise ConfigError(f"eval.predictor is {chosen!r}; this run has {', '.join(known)}. Name one of them")
    return chosen
