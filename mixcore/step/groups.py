"""Several mixes of parts of a batch, joined to one mix of the whole batch (`[mix] group_size`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mixcore.errors import HookError
from mixcore.hooks.results import described
from mixcore.types import Mix

__all__ = ["join_mixes"]


def join_mixes(mixes: Sequence[Mix], offsets: Sequence[int], sizes: Sequence[int], whose: str = "the mixer") -> Mix:
    """One mix of the whole batch from mixes of runs of consecutive rows, given by `generate_mix` of `whose`.

    Group g covers `sizes[g]` rows of the batch from row `offsets[g]`; its mix counts rows from 0. Sources are shifted,
    missing sources get weight 0, masks are repeated to a common grid, each transform acts on its own rows, and losses
    are averaged by group size. HookError where the groups disagree on what must be one: stage, head, scale, views, and
    the names of losses and notes.
    """
    if len(mixes) == 1:
        return mixes[0]
    first = mixes[0]
    for mix in mixes[1:]:
        _check_agreement(first, mix, whose)
    width = max(mix.sources.shape[1] for mix in mixes)
    return Mix(
        images=torch.cat([mix.images for mix in mixes]),
        sources=torch.cat([_padded(mix.sources + offset, width) for mix, offset in zip(mixes, offsets, strict=True)]),
        weights=torch.cat([_padded(mix.weights, width, 0.0) for mix in mixes]),
        masks=_join_masks(mixes, width),
        stage=first.stage,
        transform=_join_transforms(mixes),
        head=first.head,
        scale=first.scale,
        views=tuple(
            join_mixes([mix.views[i] for mix in mixes], offsets, sizes, whose) for i in range(len(first.views))
        ),
        losses={name: sum_by_size([mix.losses[name] for mix in mixes], sizes) for name in first.losses},
        notes={name: torch.cat([mix.notes[name] for mix in mixes]) for name in first.notes},
    )


def _check_agreement(first: Mix, other: Mix, whose: str) -> None:
    """HookError for the first thing that is one for the whole batch, and that two groups gave differently."""
    facts: tuple[tuple[str, object, object], ...] = (
        ("stage", first.stage, other.stage),
        ("head", first.head, other.head),
        ("scale", first.scale, other.scale),
        ("a number of views", len(first.views), len(other.views)),
        ("losses", sorted(first.losses), sorted(other.losses)),
        ("notes", sorted(first.notes), sorted(other.notes)),
    )
    for what, one, another in facts:
        if one != another:
            raise HookError(
                f"generate_mix of {whose} gave two groups of one batch {what} {one!r} and {another!r}; draw what "
                "chooses a code path from step.shared_rng, which is the same in every group"
            )
    for name, note in first.notes.items():
        if note.shape[1:] != other.notes[name].shape[1:]:
            raise HookError(
                f"generate_mix of {whose} gave two groups of one batch notes {name!r} {described(note)} and "
                f"{described(other.notes[name])}; the notes of groups are joined, so give all one shape but the first"
            )


def sum_by_size(values: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """The mean of scalars, each weighing as much as its group."""
    total = sum(sizes)
    return torch.stack([value * (size / total) for value, size in zip(values, sizes, strict=True)]).sum()


def _padded(columns: Tensor, width: int, fill: float | None = None) -> Tensor:
    """[M,S] to [M,width]: repeat the last column, or put `fill`."""
    missing = width - columns.shape[1]
    if not missing:
        return columns
    tail = columns[:, -1:].expand(-1, missing)
    return torch.cat((columns, tail if fill is None else torch.full_like(tail, fill)), 1)


def _join_masks(mixes: Sequence[Mix], width: int) -> Tensor | None:
    """[M,width-1,h,w] on the smallest grid that all groups' grids divide; None where a mixed group has no masks."""
    grids = []
    for mix in mixes:
        if mix.masks is not None:
            grids.append(mix.masks.shape[-2:])
        elif mix.sources.shape[1] > 1:
            return None
    if not grids or width == 1:
        return None
    height = math.lcm(*(grid[0] for grid in grids))
    breadth = math.lcm(*(grid[1] for grid in grids))
    return torch.cat([_first_masks(mix.masks_on(height, breadth), width) for mix in mixes])


def _first_masks(masks: Tensor, width: int) -> Tensor:
    """The first width-1 of all S masks, with zeros for sources that this group does not have."""
    missing = width - masks.shape[1]
    if missing:
        masks = torch.cat((masks, torch.zeros_like(masks[:, :1]).expand(-1, missing, -1, -1)), 1)
    return masks[:, : width - 1]


def _join_transforms(mixes: Sequence[Mix]) -> Callable[[Tensor], Tensor] | None:
    transforms = [mix.transform for mix in mixes]
    if all(transform is None for transform in transforms):
        return None
    rows = [mix.images.shape[0] for mix in mixes]

    def transform_each(features: Tensor) -> Tensor:
        parts = zip(features.split(rows), transforms, strict=True)
        return torch.cat([part if transform is None else transform(part) for part, transform in parts])

    return transform_each
