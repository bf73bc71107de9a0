"""Losses whose gradient is taken at once and delivered in the one backward of the iteration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from mixcore.ops.bits import zero_unless_

__all__ = ["settle", "settled"]


def settle(loss: Tensor, parameters: Iterable[Tensor], scale: Tensor | float = 1.0) -> Tensor:
    """A scalar of the same value whose gradient with respect to `parameters` is taken now, and its graph freed.

    The one backward delivers it, times what arrives from above: loss scaling, accumulation and DistributedDataParallel
    see an ordinary loss. Times 0 it delivers zeros, even where it was NaN or infinite. `scale` multiplies the loss
    while the gradient is taken, and is divided out. Any tensors that require a gradient may stand for parameters: what
    they were computed from keeps its graph.
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = torch.autograd.grad(loss * scale if _scales(scale) else loss, wanted, allow_unused=True)
    used = [(p, g) for p, g in zip(wanted, gradients, strict=True) if g is not None]
    return settled(loss, [p for p, _ in used], [g for _, g in used], scale)


def settled(
    loss: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor], scale: Tensor | float = 1.0
) -> Tensor:
    """The value of `loss` as a scalar that delivers `gradients` / `scale`, one for each of `parameters`."""
    if _scales(scale) and gradients:
        gradients = torch._foreach_div(list(gradients), scale)
    delivered: Tensor = _DeliverGradient.apply(loss.detach(), tuple(gradients), *parameters)  # type: ignore[no-untyped-call]
    return delivered


def _scales(scale: Tensor | float) -> bool:
    """Whether there is anything to multiply with; what lies on a device is not asked for its value."""
    return isinstance(scale, Tensor) or scale != 1.0


class _DeliverGradient(torch.autograd.Function):
    """Identity on a value; backward gives the stored gradients times what arrives."""

    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor, gradients: tuple[Tensor, ...], *_parameters: Tensor) -> Tensor:
        ctx.gradients = gradients  # type: ignore[attr-defined]
        return value.clone()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, arriving: Tensor) -> tuple[Tensor | None, ...]:
        delivered = torch._foreach_mul(ctx.gradients, arriving)
        zero_unless_(arriving != 0, delivered)  # switched off: zeros, and not the NaN that it may have been
        return None, None, *delivered
