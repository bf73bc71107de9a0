"""The hook specifications. The long text, with an example of each, is docs/hooks.md.

An implementation names only the arguments that it needs: the core reads the names and computes nothing for arguments
that nobody named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixcore.hooks.markers import hookspec

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from mixcore.evidence.probe import Probe
    from mixcore.job import RunJob
    from mixcore.types import Batch, Data, ForwardOutput, Metric, Mix, Part, RunData, Step, Targets, Task, Track

__all__ = ["HookSpecs"]


class HookSpecs:
    """One method per hook; a call reaches the plain implementation of one plugin and all wrappers."""

    # --- once, in this order -----------------------------------------------------------------------------------------

    @hookspec(firstresult=True)
    def check(self, task: Task, iterations: int) -> Sequence[str] | None:
        """Every plugin, before anything is built: ConfigError for what does not fit; sentences said at the start."""
        ...

    @hookspec(firstresult=True)
    def build_data(self) -> Data:
        """Owner of data: the training and validation sets and the task."""
        ...

    @hookspec(firstresult=True)
    def build_backbone(self, task: Task) -> nn.Module:
        """Owner of backbone: a module from images to logits; timm's interface offers more of it to plugins."""
        ...

    @hookspec(firstresult=True)
    def build_modules(self, model: nn.Module, task: Task) -> Mapping[str, nn.Module | Part]:
        """Every plugin: modules that it adds to the run, by name; a bare module means Part(module=module)."""
        ...

    # --- every iteration ---------------------------------------------------------------------------------------------

    @hookspec(firstresult=True)
    def choose_mixer(self, probabilities: Sequence[float], step: Step, rng: Generator) -> int | None:
        """The core: index into [[mix]], None for a clean batch. Wrappers may change it; `rng` is shared."""
        ...

    @hookspec(firstresult=True)
    def generate_mix(
        self,
        images: Tensor,
        labels: Tensor,
        batch: Batch,
        probe: Probe,
        modules: Mapping[str, nn.Module],
        task: Task,
        step: Step,
        rng: Generator,
    ) -> Mix:
        """The chosen mixer: the mixed images, their sources, label weights and masks."""
        ...

    @hookspec(firstresult=True)
    def map_saliency(
        self,
        images: Tensor,
        labels: Tensor,
        batch: Batch,
        probe: Probe,
        modules: Mapping[str, nn.Module],
        task: Task,
        step: Step,
    ) -> Tensor:
        """Owner of a saliency: [N,h,w] at least 0, without a graph; asked at most once per iteration and batch."""
        ...

    @hookspec(firstresult=True)
    def mix_labels(
        self,
        mix: Mix,
        images: Tensor,
        labels: Tensor,
        batch: Batch,
        output: ForwardOutput,
        clean: ForwardOutput,
        probe: Probe,
        modules: Mapping[str, nn.Module],
        task: Task,
        step: Step,
    ) -> Targets:
        """Owner of labels: label weights of one view, after its forward."""
        ...

    @hookspec(firstresult=True)
    def compute_loss(
        self, logits: Tensor, targets: Targets, modules: Mapping[str, nn.Module], task: Task, step: Step
    ) -> Tensor:
        """Owner of loss: a scalar, the mean over the M rows of one view."""
        ...

    @hookspec(firstresult=True)
    def extra_losses(
        self,
        mix: Mix,
        targets: Targets,
        images: Tensor,
        labels: Tensor,
        batch: Batch,
        output: ForwardOutput,
        clean: ForwardOutput,
        probe: Probe,
        modules: Mapping[str, nn.Module],
        task: Task,
        step: Step,
    ) -> Mapping[str, Tensor]:
        """Chosen mixer, owners of labels and loss, extras: further scalars, once, for the last view."""
        ...

    @hookspec(firstresult=True)
    def scalars(
        self, mix: Mix, targets: Targets, modules: Mapping[str, nn.Module], step: Step
    ) -> Mapping[str, float | Tensor]:
        """The same plugins, when step.logging: numbers for the log."""
        ...

    # --- for pictures ------------------------------------------------------------------------------------------------

    @hookspec(firstresult=True)
    def preview_mix(
        self,
        images: Tensor,
        labels: Tensor,
        partner: Tensor,
        lam: float,
        probe: Probe,
        modules: Mapping[str, nn.Module],
        task: Task,
    ) -> Mix:
        """A mixer that can: the mix of each image with its `partner` at the ratio `lam`, without draws or traces."""
        ...

    # --- after an optimizer step, and at evaluation ------------------------------------------------------------------

    @hookspec(firstresult=True)
    def after_step(self, model: nn.Module, modules: Mapping[str, nn.Module], step: Step) -> None:
        """Every plugin: after an optimizer step that took place (momentum networks)."""
        ...

    @hookspec(firstresult=True)
    def predictors(
        self, model: nn.Module, modules: Mapping[str, nn.Module]
    ) -> Mapping[str, tuple[nn.Module, nn.Module | None]]:
        """Every plugin: name -> (network, head or None for its own), evaluated beside `model` and `ema`."""
        ...

    @hookspec(firstresult=True)
    def build_metrics(self, task: Task) -> Mapping[str, Metric]:
        """Extras: further metrics of every predictor, by name, none of which was given a batch yet."""
        ...

    @hookspec(firstresult=True)
    def log_record(self, record: Mapping[str, Any], folder: Path) -> None:
        """Extras, on rank 0, after every epoch's record was written (trackers)."""
        ...

    # --- of a finished run -------------------------------------------------------------------------------------------

    @hookspec(firstresult=True)
    def analyse(self, model: nn.Module, data: RunData, task: Task, folder: Path, progress: Track) -> Mapping[str, Any]:
        """Owner of an analysis: its numbers of one trained network; pictures and what it resumes from in `folder`."""
        ...

    @hookspec(firstresult=True)
    def compare_runs(self, results: Mapping[str, Mapping[str, Any]], task: Task, folder: Path) -> None:
        """An analysis that can: `picture.png` in `folder` of what `analyse` gave for several runs, by their names."""
        ...

    # --- outside a run -----------------------------------------------------------------------------------------------

    @hookspec(firstresult=True)
    def launch_runs(
        self,
        runs: Sequence[RunJob],
        jobs: int | None,
        report: Callable[[RunJob, int | None], None],
        wanted_stop: Callable[[], bool],
    ) -> None:
        """A launcher: carry out the runs of a sweep, and report each as it starts (None) and ends (its exit code)."""
        ...
