"""The window through which a plugin looks at networks. Made anew for every iteration: what it computes, it keeps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from mixcore.errors import MixcoreError
from mixcore.evidence import activation, gradients, saliency, sources
from mixcore.evidence.memo import Memo
from mixcore.evidence.settle import settle
from mixcore.evidence.sources import LAST_STAGE
from mixcore.networks.modes import mode
from mixcore.networks.network import Network
from mixcore.options import Saliency
from mixcore.types import ForwardOutput, Stage, Targets

__all__ = ["SALIENCY", "Probe", "saliency_needs", "saliency_stages"]

SALIENCY = ("input_grad", "feature", "class_activation", "attention", "spectral_residual", "fine_grained", "uniform")
"""The saliencies that `Probe.saliency` knows by name alone, without an option that holds them."""

AskSaliency: TypeAlias = Callable[[Saliency, Tensor, Tensor], Tensor]
"""(what an option holds, images, labels) -> the map that its plugin gives."""
Function = TypeVar("Function", bound=Callable[..., Any])


@functools.cache
def _compiled(function: Callable[..., Any]) -> Any:
    """Compiled once per process; the cache of torch.compile belongs to what it returns."""
    return torch.compile(function)


def saliency_needs(name: str) -> frozenset[str]:
    """What a plugin that asks the probe for saliency `name` needs of the backbone; part of its `needs`."""
    needs = {"feature": "stages", "class_activation": "class_activation", "attention": "attention"}
    return frozenset({needs[name]} if name in needs else ())


def saliency_stages(name: str) -> tuple[Stage, ...]:
    """Stages that a plugin that asks the probe for saliency `name` declares; part of its `stages`."""
    return (LAST_STAGE,) if name == "feature" else ()


class Probe:
    """Looks at the trained network and at a plugin's parts.

    It works in eval mode and without a graph unless asked, restores every submodule's mode, and leaves gradients,
    buffers and generators alone. With `train=True` BatchNorm statistics move, and dropout draws from the global
    generators, as in the iteration's own forwards. `memo` is shared by all probes of one iteration, and
    `ask` leads to the saliencies that options of the run's plugins hold.
    """

    def __init__(
        self,
        network: Network,
        parts: Mapping[str, Network],
        criterion: Callable[[Tensor, Targets], Tensor],
        autocast: Callable[[], AbstractContextManager[None]],
        memo: Memo | None = None,
        compile: bool = False,  # noqa: A002 - the word of the configuration
        ask: AskSaliency | None = None,
    ) -> None:
        self._network, self._parts = network, parts
        self._criterion, self._autocast = criterion, autocast
        self._memo = memo or Memo()
        self._compile, self._ask = compile, ask

    @property
    def model(self) -> nn.Module:
        """The bare trained network, for what the probe does not offer: look, do not touch."""
        return self._network.module

    def look(
        self,
        images: Tensor,
        *,
        network: str | None = None,
        train: bool = False,
        grad: bool = False,
        stages: Sequence[Stage] = (),
        attention: bool = False,
    ) -> ForwardOutput:
        """One forward of `images` [M,C,H,W] through the trained network, or the part called `network`.

        A graph (`grad`) that outlives the call is settled, or made with `train=True`: eval-mode BatchNorm reads its
        running statistics again in backward. MixcoreError for an unknown part, or a stage that was not declared.
        """
        chosen = self._chosen(network)
        with mode(chosen.module, train), torch.set_grad_enabled(grad):
            return chosen.forward(images, stages=stages, attention=attention)

    @contextmanager
    def looking(self, *, network: str | None = None, train: bool = False, grad: bool = False) -> Iterator[nn.Module]:
        """The bare trained network, or a part, in the state in which :meth:`look` runs it: for other ways through it.

        Its modules are called one by one there, say (a transformer's blocks, with something in between), under the
        run's autocast; each gets its own mode back at the end. MixcoreError for an unknown part.
        """
        module = self._chosen(network).module
        with mode(module, train), torch.set_grad_enabled(grad), self._autocast():
            yield module

    def _chosen(self, name: str | None) -> Network:
        """The trained network, or the part of that name."""
        return self._network if name is None else self._part(name)

    def _part(self, name: str) -> Network:
        known = ", ".join(self._parts) or "none"
        if isinstance(name, nn.Module):
            raise MixcoreError(f"network is {self._called(name, known)}")
        if name not in self._parts:
            raise MixcoreError(f"no part {name!r} that is a network; this plugin's: {known}; see build_modules")
        return self._parts[name]

    def _called(self, module: nn.Module, known: str) -> str:
        """What a module that was given for a name is, and the name to give."""
        if module is self.model:
            return "the trained network, which is looked at by default: look(images)"
        kind = type(module).__name__
        for name, part in self._parts.items():
            if part.module is module:
                return f'a {kind}; expected its name: look(images, network="{name}")'
        return f"a {kind}; expected the name of one of this plugin's networks: {known}; see build_modules"

    def input_gradient(
        self, images: Tensor, labels: Tensor, *, network: str | None = None, train: bool = False
    ) -> Tensor:
        """Gradient [N,C,H,W] of the run's loss on the unmixed labels with respect to `images`."""
        chosen = self._chosen(network)

        def compute() -> Tensor:
            with mode(chosen.module, train):
                return gradients.input_gradient(chosen, images, self._loss_on(labels))

        return self._memo.once(("input_gradient", chosen, train), images, labels, compute)

    def input_gradient_and_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The input gradient [N,C,H,W] and the loss itself, from one train-mode forward and one backward.

        In place of a clean view: it moves BatchNorm statistics as that view would. The loss is settled for all
        parameters of the trained network, to be returned in `Mix.losses`.
        """
        with mode(self.model, True):
            return gradients.input_gradient_and_loss(self._network, images, self._loss_on(labels))

    def class_activation(
        self, images: Tensor, labels: Tensor, *, network: str | None = None, train: bool = False
    ) -> Tensor:
        """What each position adds to the logit of the image's label, [N,h,w] float32, signed.

        MixcoreError where the network's head does not pool over positions; see mixcore.evidence.activation.
        """
        chosen = self._chosen(network)

        def compute() -> Tensor:
            with mode(chosen.module, train):
                return activation.class_activation(chosen, images, labels)

        return self._memo.once(("class_activation", chosen, train), images, labels, compute)

    def saliency(
        self,
        name: str | Saliency,
        images: Tensor,
        labels: Tensor,
        *,
        network: str | None = None,
        train: bool = False,
    ) -> Tensor:
        """Saliency map [N,h,w] >= 0 of what an option holds, or of one of the names in `SALIENCY`, without a graph.

        Computed once per iteration, network and batch, however many ask. Of an option (`self.saliency`, of the type
        `Saliency`) its plugin is asked, and what that needs of the network is its own. The names, float32:

        input_grad: root mean square over channels of the input gradient, [N,H,W]. feature: energy sum_c f² of the last
        stage, before the final norm. class_activation: its positive part. attention: of the last block, the class
        token's row or, where there is no class token, what each patch receives. spectral_residual, fine_grained: of the
        image alone, [N,H,W]. uniform: ones, [N,H,W]. What each needs of the network is declared by who asks for it:
        `saliency_needs`, `saliency_stages`.

        MixcoreError for an unknown name, and for an option together with `network` or `train`: its plugin chooses.
        """
        if isinstance(name, Saliency):
            if network is not None or train:
                raise MixcoreError(
                    f"the saliency {name.name!r} chooses its network and its mode itself; leave out network= and train="
                )
            if self._ask is None:
                raise MixcoreError(f"the saliency {name.name!r} belongs to no run; probes of a training step ask it")
            return self._ask(name, images, labels)
        if name not in SALIENCY:
            raise MixcoreError(
                f"no saliency {name!r}; choose one of {', '.join(SALIENCY)}, or hold any plugin of role saliency in an "
                "option: saliency: Saliency = attrs.field(...)"
            )
        chosen = self._chosen(network)
        how: dict[str, Any] = {"network": network, "train": train}
        compute: dict[str, Callable[[], Tensor]] = {
            "input_grad": lambda: sources.gradient_magnitude(self.input_gradient(images, labels, **how)),
            "feature": lambda: _looked(sources.energy, chosen, images, train),
            "class_activation": lambda: self.class_activation(images, labels, **how).clamp(min=0),
            "attention": lambda: _looked(sources.attention_map, chosen, images, train),
            "spectral_residual": lambda: saliency.spectral_residual(images),
            "fine_grained": lambda: saliency.fine_grained(images),
            "uniform": lambda: sources.uniform(images),
        }
        return self._memo.once((f"saliency {name}", chosen, train), images, labels, compute[name])

    def criterion(self, logits: Tensor, targets: Targets) -> Tensor:
        """The run's loss, a scalar, for `logits` [M,K]."""
        return self._criterion(logits.float(), targets)

    def settle(self, loss: Tensor, parameters: Iterable[Tensor]) -> Tensor:
        """A scalar of the same value; the gradient with respect to `parameters` is taken now and the graph freed.

        The one backward delivers it (under DistributedDataParallel, loss scaling and accumulation); times 0 it delivers
        zeros, even where the gradient was NaN. Any tensors that require a gradient may stand for `parameters`: with a
        mask there, the graph behind the mask is kept, and the network that judged it is freed.
        """
        return settle(loss, parameters, self._network.gradient_scale(loss.device))

    def autocast(self) -> AbstractContextManager[None]:
        """The run's autocast, for a plugin that wants it: hooks run with autocast off."""
        return self._autocast()

    def compiled(self, function: Function) -> Function:
        """`function` through torch.compile where the run compiles its networks, and as it is elsewhere.

        For a pure function of tensors that stands in a module (not a closure, which would be compiled anew each time),
        takes its draws as tensors and reads nothing on the host. Where the shapes of its tensors change it is compiled
        again. Its results may then differ in rounding.
        """
        return _compiled(function) if self._compile else function

    # --- how it is done ----------------------------------------------------------------------------------------------

    def _loss_on(self, labels: Tensor) -> Callable[[Tensor], Tensor]:
        """The run's loss on unmixed labels, as a function of logits."""
        rows = labels.shape[0]
        targets = Targets(
            labels=labels,
            sources=torch.arange(rows, device=labels.device)[:, None],
            weights=torch.ones(rows, 1, dtype=torch.float32, device=labels.device),
        )
        return lambda logits: self._criterion(logits, targets)


def _looked(source: Callable[[Network, Tensor], Tensor], network: Network, images: Tensor, train: bool) -> Tensor:
    """What a source sees in the network, which is in train or eval mode meanwhile."""
    with mode(network.module, train):
        return source(network, images)
