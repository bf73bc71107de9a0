"""Mixes of groups, joined: what one group says must not change when others are beside it."""

from __future__ import annotations

import pytest
import torch

from mixcore.errors import HookError
from mixcore.step.groups import join_mixes
from mixcore.types import Mix


def pair(rows: int, grid: tuple[int, int], **rest: object) -> Mix:
    images = torch.rand(rows, 3, 8, 8)
    mask = torch.rand(rows, 1, *grid)
    return Mix.pair(images, torch.arange(rows).flip(0), torch.rand(rows), mask, **rest)


def test_sources_are_shifted_and_masks_brought_to_a_common_grid() -> None:
    first, second = pair(2, (4, 2)), pair(2, (2, 8))
    joined = join_mixes([first, second], [0, 2], [2, 2])
    assert joined.partner.tolist() == [1, 0, 3, 2]
    assert joined.masks is not None
    assert joined.masks.shape == (4, 1, 4, 8)
    torch.testing.assert_close(joined.masks_on(8, 8)[:2], first.masks_on(8, 8))
    torch.testing.assert_close(joined.masks_on(8, 8)[2:], second.masks_on(8, 8))


def test_missing_sources_weigh_nothing_and_the_masks_still_belong_to_their_sources() -> None:
    three = Mix(
        images=torch.rand(1, 3, 8, 8),
        sources=torch.tensor([[0, 0, 0]]),
        weights=torch.tensor([[0.5, 0.3, 0.2]]),
        masks=torch.tensor([0.5, 0.3]).reshape(1, 2, 1, 1),
    )
    clean = Mix.clean(torch.rand(1, 3, 8, 8))
    joined = join_mixes([pair(2, (2, 2)), three, clean], [0, 2, 3], [2, 1, 1])
    assert joined.weights.shape == (4, 3)
    assert joined.weights[:2, 2].eq(0).all()
    assert joined.weights[3].tolist() == [1, 0, 0]
    assert joined.masks is not None
    everywhere = joined.masks_on(2, 2)
    torch.testing.assert_close(everywhere.sum(1), torch.ones(4, 2, 2))
    torch.testing.assert_close(everywhere[2, :, 0, 0], torch.tensor([0.5, 0.3, 0.2]))
    assert everywhere[3, 0].eq(1).all()


def test_without_masks_in_a_mixed_group_there_are_none() -> None:
    bare = Mix.pair(torch.rand(2, 3, 8, 8), torch.tensor([1, 0]), torch.rand(2))
    assert join_mixes([bare, pair(2, (2, 2))], [0, 2], [2, 2]).masks is None


def test_losses_are_averaged_by_size_and_transforms_see_their_own_rows() -> None:
    first = pair(1, (1, 1), losses={"a": torch.tensor(1.0)}, stage="layer1", transform=lambda f: f * 2)
    second = pair(3, (1, 1), losses={"a": torch.tensor(5.0)}, stage="layer1", transform=lambda f: f * 3)
    joined = join_mixes([first, second], [0, 1], [1, 3])
    assert joined.losses["a"].item() == 4.0
    assert joined.transform is not None
    assert joined.transform(torch.ones(4, 1)).flatten().tolist() == [2, 3, 3, 3]


def test_groups_that_disagree_on_a_code_path_are_refused() -> None:
    first = pair(1, (1, 1), stage="layer1", transform=lambda f: f)
    second = pair(1, (1, 1), stage="layer2", transform=lambda f: f)
    with pytest.raises(HookError, match="shared_rng"):
        join_mixes([first, second], [0, 1], [1, 1])
