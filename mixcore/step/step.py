"""One iteration as the forward of one module: mix, forwards, labels, losses.

The module holds the trained network and all parts of plugins, and is what DistributedDataParallel wraps: a method may
run networks several times and gradients still agree on all processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mixcore.errors import CheckpointError
from mixcore.networks.network import Network
from mixcore.step.iteration import Iteration, Report
from mixcore.step.setup import IterationSetup
from mixcore.step.trained import Trained, caller_groups
from mixcore.types import Batch, Mix, Part, Step, Targets

__all__ = ["Predictor", "TrainingStep"]

_COUNT = "_extra_state"
"""Name of the counted iterations in a state dict: torch's, see get_extra_state."""
Predictor = tuple[nn.Module, nn.Module | None]
"""A network and the head that reads its pooled features; None: the network's own head."""


class TrainingStep(nn.Module):
    """The whole iteration. Made by :func:`mixcore.step.build.build_step` and :func:`mixcore.create_step`.

    `loss, report = step(images, labels)`, then the caller's backward and optimizer step, then `step.after_step()`.
    """

    def __init__(
        self,
        setup: IterationSetup,
        *,
        seed: int,
        epochs: int,
        iterations: int,
        rank: int,
        find_unused_parameters: bool,
    ) -> None:
        super().__init__()
        self.model = setup.network.module
        installed = [one for one in setup.installed if one.parts]
        self.parts = nn.ModuleDict({one.key: nn.ModuleDict(dict(one.modules)) for one in installed})
        self.find_unused_parameters = find_unused_parameters
        self._setup = setup
        self._seed, self._epochs, self._iterations, self._rank = seed, epochs, iterations, rank
        self._next = 0
        self._last: Step | None = None
        self._compiled: dict[nn.Module, Network] = {}
        self.train()

    # --- the iteration -----------------------------------------------------------------------------------------------

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        index: Tensor | None = None,
        maps: Mapping[str, Tensor] | None = None,
        augmented: Sequence[Tensor] = (),
        epoch: int | None = None,
        iteration: int | None = None,
        logging: bool = False,
    ) -> tuple[Tensor, Report]:
        """One iteration on `images` float [N,C,H,W] and `labels` int64 [N] or float [N,K]: (scalar loss, report).

        `index` int64 [N], `maps` [N,c,H,W] by name and further augmentations [N,C,H,W] reach the hooks that ask for the
        whole :class:`mixcore.api.Batch`.
        `epoch` and `iteration` count from 0 over the whole run; without them the step counts its own calls.
        """
        self._last = self._step(images.device, epoch, iteration, logging)
        self._next = self._last.iteration + 1
        with self._setup.precision.hooks(images.device):
            batch = Batch(images=images, labels=labels, index=index, maps=maps or {}, augmented=tuple(augmented))
            return Iteration(self._setup, batch, self._last).run()

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps that its plugins read of each batch."""
        return self._setup.plugins.maps

    @property
    def augmentations(self) -> int:
        """Further augmentations that its plugins read of each batch."""
        return self._setup.plugins.augmentations

    def mix_batch(self, batch: Batch, *, mixer: int, epoch: int = 0, iteration: int = 0) -> tuple[Mix, Targets]:
        """What mixer number `mixer` makes of a batch at that point of the run, for pictures and measurements."""
        step = self._step(batch.images.device, epoch, iteration, logging=False)
        with self._setup.precision.hooks(batch.images.device):
            run = Iteration(self._setup.keeping_batches(), batch, step)
            mix = run.mix(mixer)
            return mix, run.targets(mix)

    def previews(self, batch: Batch, lams: Sequence[float]) -> dict[str, list[Mix]]:
        """What the mixers that picture themselves make of each image and the next one, per ratio; nothing changes."""
        step = self._step(batch.images.device, 0, 0, logging=False)
        with self._setup.precision.hooks(batch.images.device), torch.no_grad():
            return Iteration(self._setup.keeping_batches(), batch, step).previews(lams)

    @property
    def has_previews(self) -> bool:
        """Whether a mixer pictures itself."""
        return any(mixer.has("preview_mix") for mixer in self._setup.plugins.mixers)

    def _step(self, device: torch.device, epoch: int | None, iteration: int | None, logging: bool) -> Step:
        iteration = self._next if iteration is None else iteration
        if epoch is None:
            epoch = min(iteration * self._epochs // self._iterations, self._epochs - 1)
        return Step(
            epoch=epoch,
            epochs=self._epochs,
            iteration=iteration,
            iterations=self._iterations,
            logging=logging,
            seed=self._seed,
            group=self._rank,
            device=device,
        )

    def train(self, mode: bool = True) -> TrainingStep:
        """Train or eval mode for all modules but the parts that always stay in eval mode."""
        super().train(mode)
        for _, _, part in self._each_part():
            if part.eval:
                part.module.eval()
        return self

    # --- optimizer and what follows it -------------------------------------------------------------------------------

    def trained(self) -> list[Trained]:
        """What the optimizer is given: the network, and each part that trains with its differences."""
        trained = [Trained(name="backbone", module=self.model)]
        for key, name, part in self._each_part():
            if part.optimizer is not None:
                trained.append(Trained(name=f"{key}.{name}", module=part.module, differences=part.optimizer))
        return trained

    def param_groups(self, *, exempt: Sequence[str] = (), **settings: Any) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer of your own: the network, and beside it each part that trains.

        A group has `params`, `name`, the `settings` given here (`lr`, `weight_decay`, ...), and what its part differs
        in, which wins; a setting that is not among them is the optimizer's. Biases and norms decay as all weights do,
        unless `exempt` asks to spare them: `exempt=("norm_bias",)`, in the words of the configuration's [optimizer].
        ConfigError for a part whose differences are unknown.
        """
        return caller_groups(self.trained(), settings, exempt)

    def use_scaler(self, scaler: torch.amp.GradScaler) -> None:
        """Under float16, the scaler of your backward: gradients that a method takes early are scaled as it is then.

        Without it they are scaled by 1024: where that overflows, the scaler skips every optimizer step, however small
        it makes its own scale.
        """
        self._setup.precision.use_scaler(scaler)

    def after_step(self) -> None:
        """Tell the plugins that an optimizer step took place, at the place in the run of the last forward."""
        if self._last is None:
            return
        with torch.no_grad():
            for one in self._setup.installed:
                one.calls.after_step(model=self.model, modules=one.modules, step=self._last)

    def predictors(self) -> dict[str, Predictor]:
        """What can be evaluated: `model`, and what plugins add."""
        found: dict[str, Predictor] = {"model": (self.model, None)}
        for one in self._setup.installed:
            found.update(one.calls.predictors(model=self.model, modules=one.modules))
        return found

    def compiled(self, modules: Iterable[nn.Module]) -> Mapping[nn.Module, Network]:
        """Where the run compiles, each of the networks as it is run: those of the step, and others made like them."""
        if not self._setup.compile:
            return {}
        if not self._compiled:
            parts = (network for one in self._setup.installed for network in one.networks.values())
            self._compiled = {network.module: network for network in (self._setup.network, *parts)}
        for module in modules:
            if module not in self._compiled:
                self._compiled[module] = Network(module, compile=True)
        return self._compiled

    # --- state -------------------------------------------------------------------------------------------------------

    def saved_state(self) -> dict[str, Tensor]:
        """Tensors of the network and of all parts that belong into a checkpoint, by name."""
        left_out = tuple(f"parts.{key}.{name}." for key, name, part in self._each_part() if not part.save)
        left_out += (_COUNT,)  # the run's own loop tells the iteration
        state = self.state_dict()
        return {
            name: value for name, value in state.items() if isinstance(value, Tensor) and not name.startswith(left_out)
        }

    def load_saved_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what saved_state gave. CheckpointError where names or shapes differ."""
        expected = self.saved_state()
        missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
        shapes = [name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape]
        if missing or unknown or shapes:
            faults = [("missing", missing), ("unknown", unknown), ("of another shape", sorted(shapes))]
            found = "; ".join(f"{kind}: {', '.join(names[:4])}" for kind, names in faults if names)
            raise CheckpointError(
                f"the saved tensors do not fit this network and its parts ({found}); "
                "load them with the configuration that they were trained with"
            )
        self.load_state_dict(dict(state), strict=False)

    def get_extra_state(self) -> Tensor:
        """How many iterations the step has counted, for loops that do not pass `iteration`.

        A tensor, because every format of checkpoints takes one (safetensors takes nothing else).
        """
        return torch.tensor(self._next)

    def set_extra_state(self, state: Tensor) -> None:
        """Continue counting where the saved step stopped."""
        self._next = int(state)

    def _each_part(self) -> Iterator[tuple[str, str, Part]]:
        for one in self._setup.installed:
            for name, part in one.parts.items():
                yield one.key, name, part
