"""Losses whose gradient is taken at once and delivered in the one backward of the iteration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

__all__ = ["gradient_scale", "settle", "settled"]

HALF_SCALE = 1024.0
"""Factor of a loss while its gradient passes a float16 network: without it small gradients vanish. A power of two."""


def gradient_scale(device: torch.device) -> float:
    """What to multiply a loss with before its gradient is taken, under the autocast that is open now."""
    half = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.float16
    return HALF_SCALE if half else 1.0


def settle(loss: Tensor, parameters: Iterable[Tensor], scale: float = 1.0) -> Tensor:
    """A scalar of the same value whose gradient with respect to `parameters` is taken now, and its graph freed.

    The one backward delivers it, times what arrives from above: loss scaling, accumulation and DistributedDataParallel
    see an ordinary loss. Times 0 it delivers zeros, even where it was NaN or infinite. `scale` multiplies the loss
    while the gradient is taken, and is divided out. Any tensors that require a gradient may stand for parameters: what
    they were computed from keeps its graph.
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = torch.autograd.grad(loss * scale if scale != 1.0 else loss, wanted, allow_unused=True)
    used = [(p, g) for p, g in zip(wanted, gradients, strict=True) if g is not None]
    return settled(loss, [p for p, _ in used], [g for _, g in used], scale)


def settled(loss: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor], scale: float = 1.0) -> Tensor:
    """The value of `loss` as a scalar that delivers `gradients` / `scale`, one for each of `parameters`."""
    if scale != 1.0 and gradients:
        gradients = torch._foreach_div(list(gradients), scale)
    delivered: Tensor = _Settled.apply(loss.detach(), tuple(gradients), *parameters)  # type: ignore[no-untyped-call]
    return delivered


class _Settled(torch.autograd.Function):
    """Identity on a value; backward gives the stored gradients times what arrives."""

    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor, gradients: tuple[Tensor, ...], *_parameters: Tensor) -> Tensor:
        ctx.gradients = gradients  # type: ignore[attr-defined]
        return value.clone()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, arriving: Tensor) -> tuple[Tensor | None, ...]:
        switched_off = arriving == 0
        delivered = (torch.where(switched_off, 0.0, gradient * arriving) for gradient in ctx.gradients)
        return None, None, *delivered
