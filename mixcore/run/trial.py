"""The first iteration of a run, tried on the CPU with a few images and thrown away: what it approves starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import attrs
import torch

from mixcore.config.schema import RunConfig
from mixcore.discovery.plugins import Plugins
from mixcore.errors import ConfigError, MixcoreError
from mixcore.hooks.calls import PluginCalls, has_wrapper
from mixcore.logs.progress import Progress
from mixcore.run.session import Session, build_session, first_images
from mixcore.train.agreement import Processes
from mixcore.train.loop import Loop
from mixcore.types import Batch

__all__ = ["try_run"]

IMAGES = 2
"""Images of a tried batch where no group needs more: BatchNorm in train mode has to have two."""


class _Turns:
    """Stands for the chooser: the mixer whose turn it is gets the batch."""

    chosen: int | None = None

    def choose_mixer(self, **_told: Any) -> int | None:
        return self.chosen


def try_run(config: RunConfig, plugins: Plugins) -> Session:
    """Build the run on the CPU and try its first iteration with each mixer, up to the optimizer step; write nothing.

    A batch has the first two images of the first epoch, or one group of a mixer that mixes in groups. Compilation,
    workers and several processes are left out, and so are number formats that only another device may have. Raises
    ConfigError for what fails, and whatever building the run raises.
    """
    turns = _Turns()
    processes = Processes(device=torch.device("cpu"))
    with _refused(config, "building the run"):
        session = build_session(_plain(config), attrs.evolve(plugins, chooser=cast("PluginCalls", turns)), processes)
    batch = _first_images(config, plugins, session)
    loop = _loop(config, session, processes)
    start = {name: value.clone() for name, value in session.state.step.saved_state().items()}
    for chosen in _possible(plugins):
        turns.chosen = chosen
        rows = slice(_rows(config, plugins, chosen))
        mixer = "an unmixed batch" if chosen is None else f"the mixer {plugins.mixers[chosen].label}"
        session.state.iteration = 0
        with _refused(config, f"the first iteration with {mixer}"):
            own = batch.rows(rows)
            loop.iterate(0, attrs.evolve(own, images=own.images.clone()))
            _check_weights(session)
        session.state.step.load_saved_state(start)
    return session


def _plain(config: RunConfig) -> RunConfig:
    """The configuration, each iteration with an optimizer step and nothing that needs minutes or another device."""
    elsewhere = config.run.device == "cuda" or (config.run.device == "auto" and torch.cuda.is_available())
    train = attrs.evolve(
        config.train,
        compile=False,
        accumulate=1,
        precision="fp32" if elsewhere else config.train.precision,
    )
    return attrs.evolve(config, train=train, data=attrs.evolve(config.data, workers=0))


def _possible(plugins: Plugins) -> Iterator[int | None]:
    """Which mixers may get a batch; None: it may stay clean."""
    yield from (index for index, chance in enumerate(plugins.probabilities) if chance > 0)
    if sum(plugins.probabilities) < 1 - 1e-9 or has_wrapper(plugins.manager, "choose_mixer"):
        yield None


def _rows(config: RunConfig, plugins: Plugins, chosen: int | None) -> int:
    group = None if chosen is None else plugins.group_sizes[chosen]
    return min(config.data.batch_size, group or IMAGES)


def _first_images(config: RunConfig, plugins: Plugins, session: Session) -> Batch:
    """As many images as one of the mixers wants, with their labels, read and augmented as the run's."""
    count = max(_rows(config, plugins, chosen) for chosen in _possible(plugins))
    with _refused(config, "reading the first images"):
        return first_images(config, session, count, torch.device("cpu"))


def _loop(config: RunConfig, session: Session, processes: Processes) -> Loop:
    progress = Progress(session.state.epochs, rank=1)  # a rank that says nothing
    progress.start_epoch(0, session.state.iterations_per_epoch)
    return Loop(
        state=session.state,
        module=session.module,
        schedule=session.schedule,
        loader=session.loader,
        config=_plain(config).train,
        seed=config.seed,
        processes=processes,
        progress=progress,
        wanted_stop=lambda: 0,
        save=_never,
    )


def _never() -> None:
    raise AssertionError("a tried iteration saves nothing")


def _check_weights(session: Session) -> None:
    for name, value in session.state.step.saved_state().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ConfigError(
                f"{name} is NaN or infinite after the first optimizer step; try a lower optimizer.lr or weight_decay, "
                "or --set train.clip_grad=1.0"
            )


@contextmanager
def _refused(config: RunConfig, what: str) -> Iterator[None]:
    """Around what a run would do: an error that is no refusal yet becomes a ConfigError that says where it was."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MixcoreError) and error.exit_code == ConfigError.exit_code:
            raise
        said = str(error) if isinstance(error, MixcoreError) else f"{type(error).__name__}: {error}"
        refusal = ConfigError(f"{what} fails: {said}{_hint(config, said)}")
        for note in getattr(error, "__notes__", ()):
            refusal.add_note(note)
        raise refusal from error


def _hint(config: RunConfig, said: str) -> str:
    if config.data.batch_size > 1 or "more than 1 value per channel" not in said:
        return ""
    return (
        ". BatchNorm in train mode needs more than one value per channel, and data.batch_size = 1 leaves it one; set "
        "data.batch_size to 2 or more, or choose a backbone without BatchNorm"
    )
