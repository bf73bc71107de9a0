"""Label weights by where attention falls."""

from __future__ import annotations

import torch

from mixcore.ops.attended import attended_weights


def test_each_image_has_its_own_share_of_area() -> None:
    rng = torch.Generator().manual_seed(0)
    own = (torch.rand(4, 1, 3, 5, generator=rng) > 0.5).float()
    masks = torch.cat((own, 1 - own), 1)
    areas, attention = masks.mean((2, 3)), torch.rand(4, 3, 5, generator=rng)
    shares = (masks * attention[:, None]).sum((2, 3)) / attention.sum((1, 2))[:, None]
    r = torch.tensor([0.0, 1.0, 0.25, 0.5])
    found = attended_weights(areas, masks, attention, r)
    torch.testing.assert_close(found, r[:, None] * areas + (1 - r[:, None]) * shares)
    torch.testing.assert_close(found[3:], attended_weights(areas, masks, attention, 0.5)[3:])


def test_weights_by_area_may_be_others_than_the_masks_means() -> None:
    masks = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    areas, attention = torch.tensor([[0.3, 0.7]]), torch.tensor([[[3.0, 1.0]]])
    torch.testing.assert_close(attended_weights(areas, masks, attention, 0.0), torch.tensor([[0.75, 0.25]]))
    assert torch.equal(attended_weights(areas, masks, attention, 1.0), areas)


def test_without_attention_nothing_is_not_a_number() -> None:
    masks, areas = torch.ones(1, 1, 2, 2), torch.ones(1, 1)
    assert attended_weights(areas, masks, torch.zeros(1, 2, 2)).tolist() == [[1.0]]
