"""The optimisation of a batch's masks under a frozen teacher, wholly on its device.

B samples, K sources of each, C channels, H W pixels, w mask cells a side.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from mixcore.api import take_rows
from mixcore_plugin_supermix.objective import (
    blur_matrix,
    objective,
    shows_all,
    soft_targets,
    spread_masks,
    step_sizes,
)

__all__ = ["Supermixed", "supermix"]

HALF_SCALE = 64.0
"""Factor of the objective while its gradient passes a teacher in float16, where small ones vanish. A power of two."""
Teacher = Callable[[Tensor], Tensor]
"""Images [B,C,H,W] -> logits, with a graph where gradients are on."""


@attrs.frozen(eq=False, kw_only=True)
class Supermixed:
    """A batch of blends, finished or not; everything is detached."""

    images: Tensor
    """[B,C,H,W], the sum over k of mask k times source k."""
    masks: Tensor
    """[B,K,H,W] float32 in (0,1), they sum to 1 over the sources."""
    finished: Tensor
    """bool [B]: whether the teacher sees the classes of all sources, and before any other."""
    logits: Tensor
    """[B,C], what the teacher says of the blends."""


def supermix(
    images: Tensor,
    sources: Tensor,
    shares: Tensor,
    teacher: Teacher,
    *,
    w: int = 8,
    sigma: float = 1.0,
    lambda_s: float = 25.0,
    max_iter: int = 5,
    max_unfinished: float = 0.7,
) -> Supermixed:
    """Blends of `images` [B,C,H,W] whose classes the teacher sees in the wanted `shares` (steps 1 to 5).

    `sources` int64 [B,K] are rows of the batch and `shares` [B,K] float32 their wanted weights, rows sum to 1, on the
    images' device. It ends when at most `max_unfinished` of the samples are unfinished: all `max_iter` rounds are run,
    and those after the end change nothing, nor do those of a sample that is finished, so nobody waits to see it.
    The teacher makes 2 + max_iter forwards of the batch and max_iter backwards.
    """
    with torch.no_grad():
        logits = teacher(images)
        targets, present = soft_targets(logits.argmax(1)[sources], shares, logits.shape[1])
        blend = _Blend([take_rows(images, rows) for rows in sources.unbind(1)], teacher)
        blur = blur_matrix(w, sigma, images.device)
        finished = torch.zeros_like(present[:, 0])
    cells = images.new_zeros(*sources.shape, w, w, dtype=torch.float32)
    shown = blend.of(cells, grad=True)
    for left in reversed(range(max_iter)):
        with torch.enable_grad():
            values = objective(shown.logits, targets, shown.masks, lambda_s)
            (gradients,) = torch.autograd.grad(values.sum() * HALF_SCALE, shown.cells)
        running = ~finished & ((~finished).sum() > max_unfinished * len(values))
        cells = _stepped(cells, values.detach(), gradients / HALF_SCALE, blur, running)
        # its forward is the check of this round, and with its graph the first half of the next
        shown = blend.of(cells, grad=left > 0)
        finished = finished | shows_all(shown.logits.detach(), present)
    return Supermixed(images=shown.images, masks=shown.masks, finished=finished, logits=shown.logits)


@attrs.frozen(eq=False)
class _Shown:
    """Blends by some cells, and what the teacher says of them."""

    cells: Tensor
    masks: Tensor
    images: Tensor
    logits: Tensor


@attrs.frozen(eq=False)
class _Blend:
    """The source images, K of [B,C,H,W], and who judges their blends."""

    images: list[Tensor]
    teacher: Teacher

    def of(self, cells: Tensor, *, grad: bool) -> _Shown:
        """By masks of `cells` [B,K,w,w]; with `grad` there is a graph from a copy of them to the logits."""
        first = self.images[0]
        cells = cells.detach().requires_grad_(grad)
        with torch.set_grad_enabled(grad):
            masks = spread_masks(cells, *first.shape[-2:])
            mixed = masks[:, :1] * first
            for number, image in enumerate(self.images[1:], start=1):
                mixed = torch.addcmul(mixed, masks[:, number : number + 1], image)
            mixed = mixed.to(first.dtype)
            return _Shown(cells, masks, mixed, self.teacher(mixed))


@torch.no_grad()
def _stepped(cells: Tensor, values: Tensor, gradients: Tensor, blur: Tensor, running: Tensor) -> Tensor:
    """The cells after one step of the samples that are `running`; those of others are the same to the bit."""
    smooth = blur @ gradients @ blur.T
    steps = step_sizes(values, gradients, smooth)[:, None, None, None] * smooth
    # where half precision overflowed there is no direction to go
    return torch.where(running[:, None, None, None], cells - steps.nan_to_num(0.0, 0.0, 0.0), cells)
