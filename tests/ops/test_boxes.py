"""Boxes: the numeric examples of the CutMix page, masks and label weights."""

from __future__ import annotations

import pytest
import torch

from mixcore.api import (
    Box,
    ConfigError,
    box_around,
    box_lam,
    box_mask,
    boxes_around,
    boxes_inside,
    boxes_lam,
    boxes_of_sides,
    uniforms,
)


def centre_of(pixel: tuple[int, int], height: int, width: int) -> tuple[float, float]:
    """The draw that falls in the middle of a pixel."""
    return (pixel[0] + 0.5) / height, (pixel[1] + 0.5) / width


EXAMPLES = [  # size, lam0, centre pixel, box, lam
    (4, 0.25, (1, 2), Box(0, 2, 1, 3), 0.75),
    (4, 0.25, (0, 0), Box(0, 1, 0, 1), 0.9375),
    (4, 0.0, (2, 2), Box(0, 4, 0, 4), 0.0),
    (5, 0.0, (2, 2), Box(0, 4, 0, 4), 0.36),
    (8, 0.75, (1, 6), Box(0, 3, 4, 8), 0.8125),
]


@pytest.mark.parametrize(("size", "lam0", "pixel", "box", "lam"), EXAMPLES)
def test_examples_of_the_page(size, lam0, pixel, box, lam):
    centre = centre_of(pixel, size, size)
    assert box_around(lam0, centre, size, size) == box
    assert box_lam(box, size, size) == pytest.approx(lam)
    boxes = boxes_around(torch.tensor([lam0], dtype=torch.float64), torch.tensor([centre]).double(), size, size)
    assert boxes.tolist() == [list(box)]
    assert boxes_lam(boxes, size, size).tolist() == pytest.approx([lam])


def test_one_box_and_many_boxes_agree_on_any_shape():
    rng = torch.Generator().manual_seed(0)
    lam, centres = uniforms(500, rng=rng), uniforms(500, 2, rng=rng)
    lam[:2] = torch.tensor([0.0, 1.0])
    boxes = boxes_around(lam, centres, 17, 32)
    assert boxes.dtype == torch.int64
    for i in range(500):
        box = box_around(lam[i].item(), tuple(centres[i].tolist()), 17, 32)
        assert boxes[i].tolist() == list(box)
        assert boxes_lam(boxes, 17, 32)[i].item() == pytest.approx(box_lam(box, 17, 32), abs=1e-7)
        assert box_lam(box, 17, 32) >= lam[i] - 1e-12


def test_masks_have_the_mean_that_lam_says():
    rng = torch.Generator().manual_seed(1)
    boxes = boxes_around(uniforms(50, rng=rng), uniforms(50, 2, rng=rng), 9, 14)
    inside = boxes_inside(boxes, 9, 14)
    assert inside.shape == (50, 1, 9, 14)
    assert inside.dtype == torch.bool
    torch.testing.assert_close(1 - inside.float().mean((1, 2, 3)), boxes_lam(boxes, 9, 14))
    for i in range(50):
        mask = box_mask(Box(*boxes[i].tolist()), 9, 14, torch.device("cpu"))
        assert torch.equal(mask[0, 0] == 0, inside[i, 0])


def test_an_empty_box():
    box = box_around(1.0, (0.5, 0.5), 8, 8)
    assert box.empty
    assert box_lam(box, 8, 8) == 1
    assert not Box(0, 1, 0, 1).empty


@pytest.mark.parametrize("alpha_one_mean", [(32, 0.7008), (224, 0.682)])
def test_mean_lam_for_alpha_one(alpha_one_mean):
    size, mean = alpha_one_mean
    rng = torch.Generator().manual_seed(2)
    boxes = boxes_around(uniforms(200_000, rng=rng), uniforms(200_000, 2, rng=rng), size, size)
    assert boxes_lam(boxes, size, size).double().mean().item() == pytest.approx(mean, abs=0.002)


def test_sides_are_uniform_in_their_range_and_boxes_stay_inside():
    draws = uniforms(20_000, 4, rng=torch.Generator().manual_seed(3))
    boxes = boxes_of_sides((0.25, 0.5), draws, 16, 32)
    top, bottom, left, right = boxes.unbind(1)
    assert sorted(set((bottom - top).tolist())) == [4, 5, 6, 7]
    assert sorted(set((right - left).tolist())) == list(range(8, 16))
    assert (bottom - top).double().mean().item() == pytest.approx(5.5, abs=0.05)
    assert top.min() == 0
    assert left.min() == 0
    assert bottom.max() == 15, "the last row is never reached"
    assert right.max() == 31, "the last column is never reached"


def test_an_empty_range_of_sides_is_refused():
    with pytest.raises(ValueError, match=r"minmax = \[0.1, 0.2\].*4x32") as caught:
        boxes_of_sides((0.1, 0.2), torch.zeros(1, 4, dtype=torch.float64), 4, 32)
    assert isinstance(caught.value, ConfigError)
