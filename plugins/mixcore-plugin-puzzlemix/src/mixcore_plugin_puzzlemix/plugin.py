"""Puzzle Mix: "Exploiting Saliency and Local Statistics for Optimal Mixup", ICML 2020, arXiv 2009.06962."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs
import torch
from attrs.validators import ge, gt, le, lt
from torch import Generator, Tensor

from mixcore.api import (
    Mix,
    OptionValueError,
    Probe,
    Saliency,
    Step,
    Task,
    all_positive,
    as_saliency,
    beta,
    block_shares,
    draw_partners,
    gradient_magnitude,
    happens,
    hookimpl,
    send,
    uniforms,
    unmixed,
)
from mixcore_plugin_puzzlemix.adversarial import add_noise, adversarial_noise, uniform_noise
from mixcore_plugin_puzzlemix.puzzle import assemble, puzzle_masks
from mixcore_plugin_puzzlemix.relaxed import turn

__all__ = ["PuzzleMix"]

Channels = tuple[float, ...] | None


def _saliency_fits(mixer: PuzzleMix, _: object, value: Saliency) -> None:
    if value.name != "input_grad" and (mixer.clean_lam > 0 or mixer.adv_p > 0):
        raise ValueError(
            f"clean_lam > 0 and adv_p > 0 are made from the input gradient, found saliency = {value.name!r}; "
            'leave it at "input_grad", or set clean_lam = 0 and adv_p = 0'
        )


def _block_side(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if value != -1 and value < 1:
        raise ValueError(f"{attribute.name!r} must be -1 or at least 1 pixel, found {value}")


@attrs.define(eq=False, kw_only=True)
class PuzzleMix:
    """Puzzle Mix: the blocks of two images chosen, and moved, so that little saliency of either is lost."""

    role = "mix"
    provides = frozenset({"mask"})

    alpha: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the share of the image that is aimed at; 0 turns mixing off, the clean term with it."""
    max_log2_blocks: int = attrs.field(default=4, validator=[ge(1), le(8)])
    """Blocks a side are 2, 4, .. up to 2 to this power, of those that divide the image one is drawn per iteration."""
    n_labels: int = attrs.field(default=3, validator=[ge(2), le(16)])
    """Levels of a block's weight, 0 and 1 included."""
    beta: float = attrs.field(default=1.2, validator=[ge(0), lt(math.inf)])
    """Pull of neighbouring blocks towards one weight."""
    gamma: float = attrs.field(default=0.5, validator=[ge(0), lt(math.inf)])
    """Price of pixels that differ across block boundaries; from 1 on the pull of some neighbours is cut off at 0."""
    eta: float = attrs.field(default=0.2, validator=[ge(0), lt(math.inf)])
    """Price of a share that is far from the drawn one."""
    neigh_size: int = attrs.field(default=4, validator=ge(1))
    """Pixels are compared across boundaries in means over cells of at most this side."""
    transport: bool = True
    """Whether blocks move to where they can be seen."""
    t_eps: float = attrs.field(default=0.8, validator=[gt(0), lt(math.inf)])
    """Price of moving a block across the image, in shares of saliency."""
    t_size: int = attrs.field(default=-1, validator=_block_side)
    """Side in pixels of the blocks that move; -1: the blocks of the mask. Square images only."""
    clean_lam: float = attrs.field(default=0.0, validator=[ge(0), lt(math.inf)])
    """Weight of the loss of the unmixed batch, which the saliency pass then gives as a training pass."""
    adv_p: float = attrs.field(default=0.0, validator=[ge(0), le(1)])
    """Chance, for the own and for the partner images of an iteration, of adversarial noise."""
    adv_eps: float = attrs.field(default=10.0, validator=[ge(0), le(255)])
    """Largest noise, in 255ths of a pixel's range."""
    saliency: Saliency = attrs.field(default=Saliency("input_grad"), converter=as_saliency, validator=_saliency_fits)
    """Where saliency comes from: any plugin of that role."""
    mean: Channels = None
    """Mean per channel that the images were normalised with; default: the task's."""
    std: Channels = attrs.field(default=None, validator=all_positive)
    """Standard deviation per channel that the images were normalised with; default: the task's."""

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe: Probe, task: Task, step: Step, rng: Generator) -> Mix:
        """The batch as puzzles of two, with masks at n x n; the batch itself where mixing is off."""
        if self.alpha == 0:
            return unmixed(images)
        height, width = images.shape[-2:]
        blocks = self._draw_blocks(height, width, step)
        lam = beta(self.alpha, rng)
        partner = send(draw_partners("permutation", images.shape[0], rng), images.device)
        mean = _per_channel("mean", self.mean, task.mean, images)
        std = _per_channel("std", self.std, task.std, images)

        saliency, sources, rows, losses = self._look(images, labels, partner, probe, (mean, std), step, rng)
        with torch.no_grad():
            shares = block_shares(saliency, blocks)
            masks = puzzle_masks(
                images,
                partner,
                shares,
                lam,
                labels=self.n_labels,
                beta=self.beta,
                gamma=self.gamma,
                eta=self.eta,
                neighbourhood=self.neigh_size,
                std=std,
                one_turn=probe.compiled(turn),
            )
            moved = None
            if self.transport:
                finer = self._moved_blocks(height, width, blocks)
                own = shares if finer == blocks else block_shares(saliency, finer)
                moved = torch.stack((own, own[partner]))
            mixed = assemble(sources, rows, masks, moved, self.t_eps)
        return Mix.pair(mixed, partner, masks.mean((1, 2, 3)), masks, losses=losses)

    def _draw_blocks(self, height: int, width: int, step: Step) -> int:
        """Blocks a side: one grid for all processes and groups, for the solver's path depends on it."""
        sizes = [2**r for r in range(1, self.max_log2_blocks + 1) if height % 2**r == 0 and width % 2**r == 0]
        if not sizes:
            raise OptionValueError(
                f"puzzlemix halves both sides of the image, found images of {height}x{width}; use images of even sides"
            )
        return sizes[int(torch.randint(len(sizes), (), generator=step.shared_rng("puzzlemix blocks"), device="cpu"))]

    def _moved_blocks(self, height: int, width: int, blocks: int) -> int:
        """Blocks a side of the grid on which blocks move."""
        side = height // blocks
        if self.t_size == -1 or self.t_size >= side or height != width:
            return blocks
        return height // max(size for size in range(1, self.t_size + 1) if side % size == 0)

    def _look(
        self,
        images: Tensor,
        labels: Tensor,
        partner: Tensor,
        probe: Probe,
        normalisation: tuple[Sequence[float], Sequence[float]],
        step: Step,
        rng: Generator,
    ) -> tuple[Tensor, Tensor, Tensor, Mapping[str, Tensor]]:
        """Saliency [N,h,w]; images to take blocks from, with noise where the adversarial option strikes, and which of
        them are the own and the partner's, [N,2]; losses.
        """
        own = torch.arange(len(images), device=images.device)
        flags = step.shared_rng("puzzlemix noise")
        on_own, on_other = happens(self.adv_p, flags), happens(self.adv_p, flags)
        if not (on_own or on_other):
            saliency, _, losses = self._saliency(images, labels, probe)
            return saliency, images, torch.stack((own, partner), 1), losses
        mean, std = (
            send(torch.tensor(one, dtype=torch.float32, device="cpu")[:, None, None], images.device)
            for one in normalisation
        )
        bound = self.adv_eps / 255
        noise = uniform_noise(images, mean, std, bound, step.device_rng("puzzlemix noise"))
        saliency, gradient, losses = self._saliency(add_noise(images, noise, mean, std), labels, probe)
        noise = adversarial_noise(noise, gradient, bound, strength=uniforms(1, rng=rng).item())
        noisy = add_noise(images, noise, mean, std)
        rows = torch.stack((own + len(images) * on_own, partner + len(images) * on_other), 1)
        return saliency, torch.cat((images, noisy)), rows, losses

    def _saliency(self, images: Tensor, labels: Tensor, probe: Probe) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
        """Saliency [N,h,w], the gradient [N,C,H,W] that it was made from (or itself), and the clean term."""
        if self.saliency.name != "input_grad":
            saliency = probe.saliency(self.saliency, images, labels)
            return saliency, saliency, {}
        losses: dict[str, Tensor] = {}
        if self.clean_lam > 0:
            gradient, loss = probe.input_gradient_and_loss(images, labels)
            losses["clean"] = self.clean_lam * loss
        else:
            gradient = probe.input_gradient(images, labels)
        return gradient_magnitude(gradient), gradient, losses


def _per_channel(name: str, given: Sequence[float] | None, known: Sequence[float], images: Tensor) -> Sequence[float]:
    """The option where it is set, else what the task says; one number per channel."""
    values = known if given is None else given
    if len(values) != images.shape[1]:
        raise OptionValueError(
            f"puzzlemix: {name} has {len(values)} numbers, found images of {images.shape[1]} channels; "
            f"set {name} to one number per channel"
        )
    return values
