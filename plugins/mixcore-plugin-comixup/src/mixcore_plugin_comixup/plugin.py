"""Co-Mixup: "Saliency Guided Joint Mixup with Supermodular Diversity", ICLR 2021, arXiv 2102.03065."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import attrs
import torch
from attrs.validators import ge, gt, in_, le, lt
from torch import Generator, Tensor

from mixcore.api import (
    Mix,
    OptionValueError,
    Probe,
    Saliency,
    Step,
    as_saliency,
    block_shares,
    dirichlet,
    gradient_magnitude,
    hookimpl,
    send,
    unmixed,
)
from mixcore_plugin_comixup.group import compatibility, input_costs, peaks, share_blocks
from mixcore_plugin_comixup.images import assemble, groups_of, in_the_batch

__all__ = ["CoMixup"]

GRIDS = (2, 4, 8, 16)
"""Blocks a side of which `block_num = -1` draws one."""


def _saliency_fits(mixer: CoMixup, _: object, value: Saliency) -> None:
    if value.name != "input_grad" and mixer.clean_lam > 0:
        raise ValueError(
            f"clean_lam > 0 takes the loss of the unmixed batch from the pass for the input gradient, found saliency = "
            f'{value.name!r}; leave it at "input_grad", or set clean_lam = 0'
        )


def _blocks(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if value != -1 and not 2 <= value <= 64:
        raise ValueError(
            f"{attribute.name!r} must be 2 to 64 blocks a side, or -1 to draw one of 2, 4, 8, 16; found {value}"
        )


@attrs.define(eq=False, kw_only=True)
class CoMixup:
    """Co-Mixup: a group of images mixed together, block by block: salient, connected, and unlike each other."""

    role = "mix"
    provides = frozenset({"mask"})
    contract = {"looking": {"clean_lam": 0.0}, "varied": {"beta": 0.0, "eta": 0.0, "niter": 1}}

    m_part: int = attrs.field(default=20, validator=ge(1))
    """Consecutive images that are mixed with each other; the last group of a batch may be smaller. 1: no mixing."""
    block_num: int = attrs.field(default=4, validator=_blocks)
    """Blocks a side, a divisor of both sides of the image; -1: one of 2, 4, 8, 16 is drawn per iteration."""
    mixup_alpha: float = attrs.field(default=2.0, validator=[gt(0), lt(math.inf)])
    """Dirichlet(mixup_alpha, ..) gives the prior weights of the images of a group, one draw per group."""
    beta: float = attrs.field(default=0.32, validator=[ge(0), lt(math.inf)])
    """Price of neighbouring blocks of different images; 0.16 to 0.48 is useful with 4 blocks a side."""
    gamma: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf)])
    """Price of mixed images that resemble each other."""
    thres: float = attrs.field(default=0.83, validator=[ge(0), lt(math.inf)])
    """Share of a mixed image up to which others may show the same image at no price; 0.81 to 0.84 is useful."""
    thres_type: Literal["hard", "soft"] = attrs.field(default="hard", validator=in_(("hard", "soft")))
    """Whether beyond `thres` the whole use is priced ("hard") or what exceeds it ("soft")."""
    eta: float = attrs.field(default=0.05, validator=[ge(0), lt(math.inf)])
    """Price of images of small prior weight."""
    omega: float = attrs.field(default=0.001, validator=[ge(0), le(1)])
    """How much images with objects at other places count as alike."""
    niter: int = attrs.field(default=4, validator=ge(1))
    """Sweeps over the mixed images of a group."""
    set_resolve: bool = True
    """Whether, for the last sweep, mixed images of the very same sources are pushed apart."""
    clean_lam: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf)])
    """Weight of the loss of the unmixed batch, which the saliency pass then gives as a training pass."""
    saliency: Saliency = attrs.field(default=Saliency("input_grad"), converter=as_saliency, validator=_saliency_fits)
    """Where saliency comes from: any plugin of that role; others than "input_grad" need `clean_lam` = 0."""

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe: Probe, step: Step, rng: Generator) -> Mix:
        """Groups of `m_part` images mixed with each other; masks at n x n, one source for each image of a group."""
        saliency, losses = self._look(images, labels, probe)
        height, width = images.shape[-2:]
        slots = min(self.m_part, len(images))
        if slots == 1:
            return attrs.evolve(unmixed(images), losses=losses)
        blocks = self._draw_blocks(height, width, step)
        with torch.no_grad():
            shares, places = block_shares(saliency, blocks), peaks(saliency, height, width)
            parts = []
            for first, groups, inputs in groups_of(len(images), self.m_part):
                here = slice(first, first + groups * inputs)
                own, where = (each[here].unflatten(0, (groups, inputs)) for each in (shares, places))
                parts.append(in_the_batch(self._share(own, where, rng), first, slots))
            rows, sources, masks = (torch.cat(each) for each in zip(*parts, strict=True))
            mixed = assemble(images, rows)
        weights = masks.mean((2, 3))
        return Mix(images=mixed, sources=sources, weights=weights, masks=masks[:, :-1], losses=losses)

    def _share(self, shares: Tensor, places: Tensor, rng: Generator) -> Tensor:
        """What the outputs of groups of one size show [G,I,2,n,n]; `shares` [G,I,n,n], `places` [G,I,2]."""
        groups, inputs = shares.shape[:2]
        prior = dirichlet(self.mixup_alpha, groups, inputs, rng).float()
        start = torch.randint(inputs, shares.shape, generator=rng, device="cpu")
        return share_blocks(
            input_costs(shares, send(prior, shares.device), self.eta),
            compatibility(places, self.omega),
            send(start, shares.device),
            beta=self.beta,
            gamma=self.gamma,
            thres=self.thres,
            soft=self.thres_type == "soft",
            niter=self.niter,
            set_resolve=self.set_resolve,
        )

    def _look(self, images: Tensor, labels: Tensor, probe: Probe) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Saliency [N,h,w], and the clean term."""
        if self.clean_lam == 0:
            return probe.saliency(self.saliency, images, labels), {}
        gradient, loss = probe.input_gradient_and_loss(images, labels)
        return gradient_magnitude(gradient), {"clean": self.clean_lam * loss}

    def _draw_blocks(self, height: int, width: int, step: Step) -> int:
        """Blocks a side: one grid for all processes and groups, for the solver's path depends on it."""
        wanted = GRIDS if self.block_num == -1 else (self.block_num,)
        sizes = [blocks for blocks in wanted if height % blocks == 0 and width % blocks == 0]
        if not sizes:
            told = "2" if self.block_num == -1 else f"block_num = {self.block_num}"
            raise OptionValueError(
                f"comixup cuts both sides of the image into equal blocks, but {told} does not divide {height}x{width}; "
                "set block_num to a divisor of both sides"
            )
        if len(sizes) == 1:
            return sizes[0]
        return sizes[int(torch.randint(len(sizes), (), generator=step.shared_rng("comixup blocks"), device="cpu"))]
