"""Crop with padding and mirror image as batched tensor code."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mixcore.ops.augment import CropFlip, crop_flip


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_crop_flip_is_what_one_image_at_a_time_gives(mode):
    images = torch.randint(0, 256, (7, 3, 9, 12), dtype=torch.uint8)
    rows, columns = torch.randint(0, 7, (2, 7))
    flips = torch.tensor([True, False, True, True, False, False, True])
    result = crop_flip(images, rows, columns, flips, padding=3, mode=mode)
    for image, row, column, flip, found in zip(images, rows, columns, flips, result, strict=True):
        expected = F.pad(image.float(), (3, 3, 3, 3), mode=mode)[:, row : row + 9, column : column + 12]
        assert torch.equal(found.float(), expected.flip(-1) if flip else expected)
    assert result.dtype == torch.uint8


def test_centre_without_flip_is_the_image_and_a_new_tensor():
    images = torch.randint(0, 256, (2, 1, 4, 4), dtype=torch.uint8)
    centre = torch.full((2,), 2)
    result = crop_flip(images, centre, centre, torch.zeros(2, dtype=torch.bool), padding=2)
    assert torch.equal(result, images)
    assert result.data_ptr() != images.data_ptr()


def test_uniforms_reach_every_offset_equally_and_never_beyond():
    augment = CropFlip(padding=4, mode="constant", flip=0.0)
    marks = torch.zeros(9000, 1, 9, 9, dtype=torch.uint8)
    marks[:, :, 4, 4] = 1
    uniforms = torch.rand(9000, 3, generator=torch.Generator().manual_seed(0))
    uniforms[0] = 1 - 2**-24
    places = augment(marks, uniforms).sum(0)[0].float() / 9000
    assert places.sum() == pytest.approx(1)
    assert places.min() > 0.5 / 81
    assert places.max() < 1.5 / 81


def test_flip_probability():
    images = torch.tensor([[1, 0]], dtype=torch.uint8).expand(4000, 1, 1, 2)
    uniforms = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    for probability in (0.0, 0.3, 1.0):
        flipped = CropFlip(flip=probability)(images, uniforms)[:, 0, 0, 1].float().mean()
        assert flipped == pytest.approx(probability, abs=0.03)
