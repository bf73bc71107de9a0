"""What happens inside one iteration, from the batch to one scalar."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from mixcore.discovery.capabilities import check_other_images
from mixcore.errors import ConfigError, HookError
from mixcore.evidence.memo import Memo
from mixcore.evidence.probe import Probe
from mixcore.hooks.causes import rows_out_of_range
from mixcore.options import Saliency
from mixcore.rng import keyed_generator
from mixcore.step.groups import join_mixes
from mixcore.step.setup import IterationSetup, RunPlugin
from mixcore.types import Batch, ForwardOutput, Mix, Step, Targets

__all__ = ["Iteration", "Report"]


@attrs.frozen(eq=False, kw_only=True)
class Report:
    """What one iteration tells the log; every tensor detached and on the device."""

    loss: Tensor
    losses: Mapping[str, Tensor]
    """The last view's loss as `mix`, those of Mix.losses and extra_losses under their names."""
    lam: Tensor
    """Mean of lam over the last view."""
    sources: Tensor
    """Mean number of sources with weight above 0 per image of the last view."""
    mixer: str | None
    """Name of the chosen mixer; None for a batch that stayed clean."""
    scalars: Mapping[str, float | Tensor]
    """What plugins report, as `<plugin>/<name>`; empty unless the step was logging."""
    mix: Mix
    targets: Targets


class Iteration:
    """One iteration on a batch, at `step`."""

    def __init__(self, setup: IterationSetup, batch: Batch, step: Step) -> None:
        self._setup, self._plugins = setup, setup.plugins
        self._batch, self._images, self._labels, self._step = batch, batch.images, batch.labels, step
        self._views: tuple[Mix, ...] = ()
        self._outputs: dict[int, tuple[Mix, ForwardOutput]] = {}
        self._memo = Memo()
        self._mixer: RunPlugin | None = None
        self._given: list[tuple[str, Tensor, int]] = []
        """Who named rows of the batch, which, and of how many: looked at after an error only."""

    def run(self) -> tuple[Tensor, Report]:
        """The scalar to go backward from, and the report."""
        try:
            return self._run()
        except (IndexError, RuntimeError) as error:
            misplaced = rows_out_of_range(self._given)
            if misplaced is not None:
                raise HookError(misplaced) from error
            raise

    def _run(self) -> tuple[Tensor, Report]:
        mix = self.mix(self.choose())
        view_losses: list[Tensor] = []
        for view in self._views:
            output = self._output(view)
            targets = self.targets(view)
            loss = self._loss(output.logits, targets)
            view_losses.append(loss if view.scale == 1.0 else loss * view.scale)
        named = {"mix": view_losses.pop(), **self._named_losses(mix, targets)}
        total = functools.reduce(operator.add, [*view_losses, *named.values()])
        report = Report(
            loss=total.detach(),
            losses={name: value.detach() for name, value in named.items()},
            lam=mix.lam.detach().mean(),
            sources=(mix.weights.detach() > 0).sum() / mix.weights.shape[0],
            mixer=self._mixer.calls.name if self._mixer else None,
            scalars=self._scalars(mix, targets) if self._step.logging else {},
            mix=mix,
            targets=targets,
        )
        return total, report

    def choose(self) -> int | None:
        """Index of this iteration's mixer, None where the batch stays clean."""
        return self._plugins.chooser.choose_mixer(
            probabilities=self._plugins.probabilities,
            step=self._step,
            rng=self._step.shared_rng("choose_mixer"),
        )

    def mix(self, chosen: int | None) -> Mix:
        """The mix by [[mix]] table number `chosen`; it and its views become this iteration's."""
        if chosen is None:
            mix = Mix.clean(self._images)
        else:
            self._mixer = self._setup.mixers[chosen]
            mix = self._generate(self._mixer, self._plugins.group_sizes[chosen], self._setup.overwrite[chosen])
            who, rows = f"generate_mix of {self._mixer.calls.label}", self._images.shape[0]
            self._given += [(who, view.sources, rows) for view in (*mix.views, mix)]
        self._views = (*mix.views, mix)
        return mix

    def targets(self, view: Mix) -> Targets:
        """What the label policy makes of one view."""
        policy = self._setup.labels.calls
        targets = policy.mix_labels(mix=view, **self._evidence(self._setup.labels, "mix_labels", view))
        self._given.append((f"mix_labels of {policy.label}", targets.sources, targets.labels.shape[0]))
        return targets

    def previews(self, lams: Sequence[float]) -> dict[str, list[Mix]]:
        """By the key of each mixer that pictures itself: each image with the next one, at each of the ratios."""
        pictured = [one for one in self._setup.mixers if one.calls.has("preview_mix")]
        partner = torch.arange(self._images.shape[0], device=self._images.device).roll(-1)
        told = {"images": self._images, "labels": self._labels, "partner": partner, "task": self._setup.task}
        return {
            one.key: [
                one.calls.preview_mix(lam=lam, probe=self._probe(one), modules=one.modules, **told) for lam in lams
            ]
            for one in pictured
        }

    # --- mixing ------------------------------------------------------------------------------------------------------

    def _generate(self, mixer: RunPlugin, group_size: int | None, overwrite: bool) -> Mix:
        rows = self._images.shape[0]
        if group_size is None:
            return self._generate_group(mixer, 0, rows, self._step.group, overwrite)
        size = group_size
        if rows % size:
            raise HookError(
                f"[mix] group_size = {size} does not divide the {rows} images that this process has of a batch; "
                "choose a group_size that divides batch_size / processes"
            )
        first = self._step.group * (rows // size)
        offsets = range(0, rows, size)
        mixes = [self._generate_group(mixer, offset, size, first + i, overwrite) for i, offset in enumerate(offsets)]
        return join_mixes(mixes, offsets, [size] * len(mixes), mixer.calls.label)

    def _generate_group(self, mixer: RunPlugin, offset: int, size: int, group: int, overwrite: bool) -> Mix:
        step = self._step
        if (step.group, step.may_overwrite) != (group, overwrite):
            step = attrs.evolve(step, group=group, may_overwrite=overwrite)
        whole = size == self._images.shape[0]
        batch = self._batch if whole else self._batch.rows(slice(offset, offset + size))
        return mixer.calls.generate_mix(
            images=batch.images,
            labels=batch.labels,
            batch=batch,
            probe=self._probe(mixer, step, batch) if "probe" in mixer.calls.asks("generate_mix") else None,
            modules=mixer.modules,
            task=self._setup.task,
            step=step,
            rng=keyed_generator(step.seed, step.epoch, step.iteration, group, "mix"),
        )

    # --- forwards ----------------------------------------------------------------------------------------------------

    def _output(self, view: Mix) -> ForwardOutput:
        """The forward of one view, run when first wanted."""
        known = self._outputs.get(id(view))
        if known is not None:
            return known[1]
        output = self._setup.network.forward(
            view.images,
            head=None if view.head is None else self._head(view.head),
            stages=self._setup.stages,
            attention=self._setup.attention,
            stage=view.stage,
            transform=view.transform,
        )
        self._outputs[id(view)] = (view, output)
        return output

    def _head(self, name: str) -> nn.Module:
        modules = self._mixer.modules if self._mixer else {}
        if name not in modules:
            known = ", ".join(modules) or "none"
            raise HookError(f"a mix names the head {name!r}, which is no part of its mixer; its parts: {known}")
        return modules[name]

    @functools.cached_property
    def _clean(self) -> ForwardOutput:
        """The forward of the unmixed batch: a clean view's where there is one, else one of its own."""
        for view in self._views:
            if view.images is self._images and view.sources.shape[1] == 1 and view.head is None and view.stage is None:
                return self._output(view)
        return self._output(Mix.clean(self._images))

    # --- losses and numbers ------------------------------------------------------------------------------------------

    def _loss(self, logits: Tensor, targets: Targets) -> Tensor:
        classes = self._setup.task.num_classes
        if logits.ndim != 2 or logits.shape[1] != classes:
            raise ConfigError(
                f"the network gave logits {list(logits.shape)}; expected [M,{classes}] for {classes} classes: make the "
                "network with as many classes as the task has"
            )
        owner = self._setup.loss
        return owner.calls.compute_loss(
            logits=logits.float(), targets=targets, modules=owner.modules, task=self._setup.task, step=self._step
        )

    def _named_losses(self, mix: Mix, targets: Targets) -> dict[str, Tensor]:
        """Losses beside those of the views, each under the key of the plugin that gave it."""
        named = {f"{self._mixer.key}/{name}": loss for name, loss in mix.losses.items()} if self._mixer else {}
        for plugin in self._participants:
            if plugin.calls.has("extra_losses"):
                told = self._evidence(plugin, "extra_losses", mix)
                losses = plugin.calls.extra_losses(mix=mix, targets=targets, **told)
                named.update({f"{plugin.key}/{name}": loss for name, loss in losses.items()})
        return named

    def _scalars(self, mix: Mix, targets: Targets) -> dict[str, float | Tensor]:
        numbers: dict[str, float | Tensor] = {}
        for plugin in self._participants:
            if plugin.calls.has("scalars"):
                found = plugin.calls.scalars(mix=mix, targets=targets, modules=plugin.modules, step=self._step)
                numbers.update({f"{plugin.key}/{name}": value for name, value in found.items()})
        return numbers

    @property
    def _participants(self) -> tuple[RunPlugin, ...]:
        """The plugins that have a say in this iteration."""
        return (self._mixer, *self._setup.always) if self._mixer else self._setup.always

    # --- what hooks are told -----------------------------------------------------------------------------------------

    def _evidence(self, plugin: RunPlugin, hook: str, view: Mix) -> dict[str, Any]:
        """Arguments that mix_labels and extra_losses share; forwards are run only where the hook names them."""
        asked = plugin.calls.asks(hook)
        return {
            "images": self._images,
            "labels": self._labels,
            "batch": self._batch,
            "output": self._output(view) if "output" in asked else None,
            "clean": self._clean if "clean" in asked else None,
            "probe": self._probe(plugin) if "probe" in asked else None,
            "modules": plugin.modules,
            "task": self._setup.task,
            "step": self._step,
        }

    def _probe(self, plugin: RunPlugin, step: Step | None = None, batch: Batch | None = None) -> Probe:
        return Probe(
            self._setup.network,
            plugin.networks,
            self._loss,
            self._setup.precision.autocast,
            self._memo,
            compile=self._setup.compile,
            ask=functools.partial(self._map_saliency, step or self._step, batch or self._batch),
        )

    def _map_saliency(self, step: Step, batch: Batch, saliency: Saliency, images: Tensor, labels: Tensor) -> Tensor:
        """The map of what an option holds, from its plugin at the first call of the iteration for these rows."""
        calls = self._plugins.held.get(saliency)
        if calls is None:
            raise HookError(
                f"the saliency {saliency.name!r} is held by no option of this run's plugins; hold it in a field: "
                "saliency: Saliency = attrs.field(...)"
            )
        owner = self._setup.of[calls]
        if images is not batch.images:
            check_other_images(calls)
        return self._memo.once(
            calls,
            images,
            labels,
            lambda: calls.map_saliency(
                images=images,
                labels=labels,
                batch=batch if images is batch.images else Batch(images=images, labels=labels),
                probe=self._probe(owner, step, batch),
                modules=owner.modules,
                task=self._setup.task,
                step=attrs.evolve(step, may_overwrite=False) if step.may_overwrite else step,
            ),
        )
