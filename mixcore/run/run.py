"""A run: resumed or new, epoch after epoch, each evaluated, recorded and saved."""

from __future__ import annotations

import functools
import json
import logging
import os
import time
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

from mixcore.data.fingerprint import fingerprints
from mixcore.discovery.manager import register_selection
from mixcore.discovery.plugins import Plugins
from mixcore.errors import CheckpointError
from mixcore.evaluate.evaluate import evaluate
from mixcore.evaluate.metrics import default_metrics, headline
from mixcore.hooks.trace import HookTimes
from mixcore.logs.jsonl import append_line, check_lines, record_line, restore_lines
from mixcore.logs.progress import Progress
from mixcore.logs.tensorboard import TensorBoardLog
from mixcore.pictures.captioned import captioned_grid
from mixcore.pictures.grid import grid
from mixcore.pictures.previews import LAMS, preview_grid
from mixcore.run.checkpoint import Checkpoints
from mixcore.run.environment import describe_environment, plugin_versions
from mixcore.run.folder import RunFolder
from mixcore.run.launch import raised_on_rank_zero
from mixcore.run.numerics import numerics
from mixcore.run.place import find_place
from mixcore.run.processes import joined
from mixcore.run.record import epoch_record, identity, is_better, summarise
from mixcore.run.resolve import Loaded
from mixcore.run.resume import agreed_checkpoint
from mixcore.run.session import Session, build_session, first_images
from mixcore.run.signals import StopSignals, stop_error
from mixcore.run.trackers import Trackers
from mixcore.step.iteration import Report
from mixcore.train.agreement import Processes
from mixcore.train.loop import Loop
from mixcore.train.precise_bn import measure_statistics
from mixcore.train.totals import Totals
from mixcore.types import Batch

__all__ = ["run"]

_PICTURES = 10
"""Grids of mixed images that a run leaves in TensorBoard."""
_PREVIEWED = 4
"""Images whose masks over lam are pictured after every epoch."""


def run(
    loaded: Loaded, folder: RunFolder, *, plugins: Plugins | None = None, resume_from: str | None = None
) -> dict[str, Any] | None:
    """Train what `loaded` says into `folder`, going on from its newest checkpoint, or from `resume_from`.

    `plugins` are those of `loaded` where the caller has registered them already. `resume_from` is "last", "previous" or
    None. Returns the summary on rank 0, None on the others. Raises PreemptedError or InterruptedRunError after a
    checkpoint where a signal asked to stop; RunFolderError, CheckpointError, ConfigError or DataError before training;
    NonFiniteLossError or StorageError with earlier checkpoints kept.
    """
    place = find_place(os.environ)
    with StopSignals() as signals, ExitStack() as stack:
        folder.check_owner(loaded.resolved, loaded.places)
        if place.rank == 0:
            folder.make()
            stack.enter_context(folder.held())
        plugins = plugins or register_selection(loaded.selection)
        with numerics(loaded.config.train), joined(loaded.config.run, place) as processes:
            session = build_session(loaded.config, plugins, processes)
            with signals.deferred():
                return _Run(loaded, folder, plugins, session, processes, signals).go(resume_from)


class _Run:
    """One run in this process; rank 0 alone writes."""

    def __init__(
        self,
        loaded: Loaded,
        folder: RunFolder,
        plugins: Plugins,
        session: Session,
        processes: Processes,
        signals: StopSignals,
    ) -> None:
        self.loaded, self.folder, self.plugins = loaded, folder, plugins
        self.session, self.state, self.processes, self.signals = session, session.state, processes, signals
        self.times = HookTimes()
        if loaded.config.run.trace_hooks:
            plugins.manager.register(self.times, "hook times")
        self.checkpoints = Checkpoints(
            folder=folder.checkpoints,
            digest=loaded.digest,
            config=loaded.text,
            versions=plugin_versions(plugins),
            places=loaded.places,
        )
        self.trackers = Trackers(plugins.extras if processes.leads else (), folder.path)
        self._began = time.monotonic()

    def go(self, resume_from: str | None) -> dict[str, Any] | None:
        resumed = self._resume(resume_from)
        environment = self._describe() if self.processes.leads else {}
        purge = self.state.epoch + 1 if resumed else None
        log = TensorBoardLog(self.folder.path, purge_step=purge) if self.processes.leads else None
        with log or nullcontext(), Progress(self.state.epochs, rank=self.processes.rank) as progress:
            for remark in self.session.remarks:
                progress.message(remark)
            if resumed:
                progress.message(f"going on after epoch {self.state.epoch}, iteration {self.state.iteration}")
            self._train(progress, log)
        return self._finish(environment) if self.processes.leads else None

    def _resume(self, resume_from: str | None) -> bool:
        own = fingerprints(self.session.data) if self.processes.leads else {}
        self.state.data = self.processes.gather(own)[0]
        with raised_on_rank_zero(self.processes.rank, CheckpointError):
            found = agreed_checkpoint(self.checkpoints, resume_from, self.processes)
        if found is not None:
            path, saved = found
            self.state.check_data(saved)
            with self.checkpoints.offering_a_way_out(path):
                self.state.load(saved, self.processes)
        elif self.processes.leads:
            self.folder.check_not_lost(self.state.epochs_without_checkpoint)
        if self.processes.leads:
            if found is not None and found[0] == self.checkpoints.previous:
                self.checkpoints.promote_previous()
            self._restore_metrics()
        return found is not None

    def _restore_metrics(self) -> None:
        """What the checkpoint knows of finished epochs is what metrics.jsonl holds."""
        if restore_lines(self.folder.metrics, self.state.records):
            logging.getLogger("mixcore").warning(
                "%s was not as the run had written it; the lines of its %d finished epochs were put back from the "
                "checkpoint, and what was found instead, if anything, is in %s.damaged",
                self.folder.metrics,
                self.state.epoch,
                self.folder.metrics,
            )

    def _describe(self) -> dict[str, Any]:
        """Write what the run is and where it happens; gives what environment.json holds."""
        self.folder.write_text(self.folder.config, self.loaded.text)
        environment = describe_environment(self.plugins, self.processes.device, self.processes.world)
        self.folder.write_json(self.folder.environment, environment)
        return environment

    def _train(self, progress: Progress, log: TensorBoardLog | None) -> None:
        config = self.loaded.config
        loop = Loop(
            state=self.state,
            module=self.session.module,
            schedule=self.session.schedule,
            loader=self.session.loader,
            config=config.train,
            seed=config.seed,
            processes=self.processes,
            progress=progress,
            wanted_stop=lambda: self.signals.code,
            save=self._save,
        )
        for epoch in range(self.state.epoch, self.state.epochs):
            first, before = self.state.iteration, self.state.seconds["train"]
            code = loop.run_epoch(epoch, partial(self._picture, log, epoch))
            if code:
                raise stop_error(
                    code,
                    f"{self.checkpoints.last} holds epoch {epoch + 1}, iteration {self.state.iteration}. Start again "
                    "with the same command to go on",
                )
            images = (self.state.iteration - first) * config.data.batch_size
            record = self._end_epoch(epoch, images / (self.state.seconds["train"] - before), log)
            progress.end_epoch(record)
            if self.state.between_optimizer_steps:
                self._save()
            else:
                loop.save_due = True
        loop.finish()

    def _picture(self, log: TensorBoardLog | None, epoch: int, report: Report) -> None:
        """A grid of the epoch's first mixed images, for a few epochs spread over the run."""
        epochs = self.state.epochs
        if log is not None and (epoch == 0 or (epoch * _PICTURES) // epochs != ((epoch - 1) * _PICTURES) // epochs):
            images, task = report.mix.images, self.session.task
            named = task.class_names is not None
            picture = captioned_grid(images, report.targets, task) if named else grid(images, task)
            log.image("mix/images", picture, epoch + 1)

    def _end_epoch(self, epoch: int, speed: float, log: TensorBoardLog | None) -> dict[str, Any]:
        """Evaluate, record, and count the epoch as finished; `speed` in images per second of training."""
        state, task = self.state, self.session.task
        began = time.monotonic()
        measure_statistics(state, self.session.loader, self.loaded.config, self.processes, epoch)
        predictors = state.networks()
        metrics = evaluate(
            predictors,
            self.session.validation,
            task=task,
            device=self.processes.device,
            precision=self.loaded.config.train.precision,
            compiled=state.step.compiled(network for network, _ in predictors.values()),
            metrics=default_metrics(task, self.processes.device, self.plugins.extras),
        )
        state.seconds["evaluate"] += time.monotonic() - began
        together = Totals(self.loaded.config.train.precision)
        for totals in self.processes.gather(state.totals.state()):
            together.merge(totals)
        learning_rate = state.optimizer.param_groups[0]["lr"]
        record = epoch_record(epoch, learning_rate, together.means(), metrics, self.session.predictor, task)
        state.totals.clear()
        state.epoch += 1
        line = record_line(record)
        if log is not None:
            append_line(self.folder.metrics, state.records, line)
            self._log(record, speed, log)
        state.records.append(line)
        self._keep_weights(record)
        self.trackers.tell(record)
        return record

    def _log(self, record: dict[str, Any], speed: float, log: TensorBoardLog) -> None:
        values = {tag: value for tag, value in record.items() if tag != "epoch"}
        log.scalars({**values, "perf/images_per_second": speed, **self.times.take()}, self.state.epoch)
        if self.state.step.has_previews:
            self._preview(log)
        log.flush()

    @functools.cached_property
    def _previewed(self) -> Batch:
        """The images that the masks of every epoch are pictured for: those of validation, which have no maps, or else
        training images.
        """
        step, config = self.state.step, self.loaded.config
        if step.maps or step.augmentations:
            count = min(_PREVIEWED, config.data.batch_size)
            return first_images(config, self.session, count, self.processes.device)
        return next(iter(self.session.validation.epoch(0))).rows(slice(_PREVIEWED))

    def _preview(self, log: TensorBoardLog) -> None:
        """The masks of mixers that picture themselves, on the same images after every epoch."""
        batch = self._previewed
        for key, mixes in self.state.step.previews(batch, LAMS).items():
            log.image(f"mix/masks/{key}", preview_grid(batch.images, mixes, self.session.task), self.state.epoch)

    def _keep_weights(self, record: dict[str, Any]) -> None:
        """Those of the best epoch so far, and those of every so many epochs where [run] keep_every says so."""
        metric, higher = headline(self.session.task)
        value, every = float(record[f"val/{metric}"]), self.loaded.config.run.keep_every
        best = is_better(value, self.state.best, higher_is_better=higher)
        if best:
            self.state.best = {"epoch": self.state.epoch, "value": value}
        paths = [self.checkpoints.best] if best else []
        if every is not None and self.state.epoch % every == 0:
            paths.append(self.checkpoints.of_epoch(self.state.epoch))
        if not paths:
            return
        saved = self.state.saved(self.processes)
        if self.processes.leads:
            for path in paths:
                self.checkpoints.write_weights(path, saved)

    def _save(self) -> None:
        self._count_time()
        saved = self.state.saved(self.processes)
        if self.processes.leads:
            self.checkpoints.write(saved)
        self.processes.wait()

    def _count_time(self) -> None:
        """Time since the run was built in this process, beside that of earlier ones up to their last checkpoint."""
        now = time.monotonic()
        self.state.seconds["wall"] = self.state.seconds.get("wall", 0.0) + now - self._began
        self._began = now

    def _finish(self, environment: dict[str, Any]) -> dict[str, Any]:
        self._count_time()
        check_lines(self.folder.metrics, self.state.records)
        summary = summarise(
            [json.loads(line) for line in self.state.records],
            self.loaded.config.eval,
            self.session.predictor,
            self.session.task,
            self.state,
            self.state.iterations_per_epoch * self.loaded.config.data.batch_size,
            self.processes.device,
        )
        summary |= identity(self.loaded, environment, self.state)
        self.folder.write_json(self.folder.summary, summary)
        return summary
