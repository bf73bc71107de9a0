"""A network as the core runs it: autocast around it, taps inside it, compiled when the run is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from mixcore.autocast import autocast_dtype, autocast_off
from mixcore.errors import ConfigError, MixcoreError
from mixcore.networks.asked import KeptStages, NoAttention
from mixcore.networks.compiled import COMPILE_LATER, compiled_around
from mixcore.networks.interface import Passes, has_interface
from mixcore.networks.layout import FLATTEN, as_map, as_tokens, prefix_tokens
from mixcore.networks.modes import mode
from mixcore.networks.readers import has_attention
from mixcore.networks.scales import fixed_scale
from mixcore.networks.stages import FEATURES, resolve_stage, stage_names
from mixcore.networks.taps import Taps
from mixcore.types import ForwardOutput, Stage

__all__ = ["Network", "capabilities"]


def capabilities(module: nn.Module) -> Set[str]:
    """What plugins may need of a backbone and this one offers; each is found out when it is asked for.

    "stages": it lists its feature maps, so that a number names one. "attention": it has attention blocks, and an
    installed class reads them. The others come with timm's interface: "features" and "head" can be run apart; "tokens":
    the features stand at positions; "class_activation": the head pools over positions and ends in a linear classifier,
    so that a logit is a sum over positions.
    """
    return _Capabilities(module)


class _Capabilities(Set[str]):
    """A set that does not import what reads attention until somebody asks for attention."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in _OFFERS and _OFFERS[name](self._module)

    def __iter__(self) -> Iterator[str]:
        return (name for name in _OFFERS if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(set(self))


def _pools_positions(module: nn.Module) -> bool:
    """A head that reads a class token, or attends, leaves the other positions without a share in the logit."""
    if not has_interface(module):
        return False
    pool = str(getattr(module, "global_pool", ""))
    reads_positions = "avg" in pool or (prefix_tokens(module) == 0 and pool != FLATTEN)
    attends = getattr(module, "attn_pool", None) is not None
    classifier = getattr(module, "get_classifier", lambda: None)()
    return isinstance(classifier, nn.Linear | nn.Conv2d) and reads_positions and not attends


_OFFERS: dict[str, Callable[[nn.Module], bool]] = {
    "stages": lambda module: bool(stage_names(module)),
    "attention": has_attention,
    "features": has_interface,
    "head": has_interface,
    "tokens": has_interface,
    "class_activation": _pools_positions,
}


class Network:
    """Runs `module`, from images to logits; its parameters and state stay with it.

    With timm's interface it runs as features and head, a plain module as a whole. `passes` are these as the run calls
    them, compiled where it compiles, for who opens the precision himself. `stages` and `attention` declare what
    forwards may ask for later: their taps are set here, before compiling. `autocast` opens the precision that the
    network runs under; `loss_scale` says what a loss is multiplied with while a gradient of it passes a float16
    network. ConfigError for a stage or attention that it lacks, PluginError where it cannot be told what reads it.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        stages: Sequence[Stage] = (),
        attention: bool = False,
        compile: bool = False,  # noqa: A002 - the word of the configuration
        autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
        loss_scale: Callable[[torch.device], Tensor | float] = fixed_scale,
    ) -> None:
        around = compiled_around(module, "") if attention else None
        if around is not None:
            raise ConfigError(f"its attention cannot be read, because {around}; {COMPILE_LATER}")
        self.module = module
        self._autocast, self._loss_scale = autocast, loss_scale
        self._names = {stage: resolve_stage(module, stage) for stage in stages}
        self._attention = attention
        tapped = [name for name in self._names.values() if name is not None and name != FEATURES]
        self._taps = Taps(module, tapped, attention, compile)
        self.passes = Passes(module, compile)

    def forward(
        self,
        images: Tensor,
        *,
        head: nn.Module | None = None,
        stages: Sequence[Stage] = (),
        attention: bool = False,
        stage: Stage | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> ForwardOutput:
        """One forward of `images` [M,C,H,W], in the module's present mode and with the present grad mode.

        `head` takes float32 pooled features [M,D] to logits in place of the network's own. `stages` and `attention`
        are kept in the output; `transform` replaces the feature map at `stage`, raw as the module gave it. Head and
        transform run with autocast off. MixcoreError for a stage or attention that was not declared, and for a head
        where the network has no features to read.
        """
        at = None if transform is None or stage is None else self._name(stage)
        if transform is not None and at is None:
            images = transform(images)
        asked = {stage: self._name(stage) for stage in stages}
        read = {name for name in asked.values() if name is not None and name != FEATURES}
        tapped = at if at != FEATURES else None
        if attention and not self._attention:
            raise MixcoreError('attention was not declared; write needs = frozenset({"attention"}) in the plugin class')
        with self._autocast():
            with self._taps.listening(read, tapped, transform, attention) as heard:
                first = self.passes.first(images)
            if transform is not None and at == FEATURES:
                with autocast_off(first.device):
                    first = transform(first)
        maps: dict[str | None, Tensor] = {None: images, FEATURES: first}
        maps.update(heard.maps)
        kept = KeptStages((stage, self._map(maps[name], name, images)) for stage, name in asked.items())
        blocks = tuple(heard.attention) if attention else NoAttention()
        if head is None and not self.passes.split:
            return ForwardOutput(logits=first.float(), stages=kept, attention=blocks)
        pool = self._pool_as_now()
        pooled = None if head is None else pool(first)
        return ForwardOutput(
            logits=self.logits(first) if head is None else head(pooled).float(),
            features=first,
            stages=kept,
            attention=blocks,
            pool=pool,
            flatten=lambda raw: as_tokens(self.module, raw),
            pooled=pooled,
        )

    def logits(self, features: Tensor) -> Tensor:
        """[M,K] float32: what the network's own head makes of `features`, as forward_features gave them."""
        with self._autocast():
            return self.passes.head(features).float()

    def gradient_scale(self, device: torch.device) -> Tensor | float:
        """What to multiply a loss of this network with before its gradient is taken, and divide by afterwards."""
        with self._autocast():
            half = autocast_dtype(device) is torch.float16
        return self._loss_scale(device) if half else 1.0

    def _name(self, stage: Stage) -> str | None:
        """Module name of a stage; those that need a tap must have been declared."""
        name = self._names[stage] if stage in self._names else resolve_stage(self.module, stage)
        if name is None or name == FEATURES or name in self._names.values():
            return name
        raise MixcoreError(f"stage {stage!r} was not declared; write stages = ({stage!r},) in the plugin class")

    def _map(self, raw: Tensor, name: str | None, images: Tensor) -> Tensor:
        return raw if name is None else as_map(self.module, raw, *images.shape[-2:])

    def _pool_as_now(self) -> Callable[[Tensor], Tensor]:
        """Pooling for later, in the grad mode and the train or eval mode of now (heads have dropout)."""
        grad, training = torch.is_grad_enabled(), self.module.training

        def pool(features: Tensor) -> Tensor:
            with torch.set_grad_enabled(grad), mode(self.module, training), self._autocast():
                return self.passes.head(features, pre_logits=True).float()

        return pool
