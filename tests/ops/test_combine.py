"""Blending and pasting: exact at 0 and 1, format kept, in place only on request, the same bits by either route."""

from __future__ import annotations

import pytest
import torch

from mixcore.api import Box, blend, paste_box, paste_boxes, select_boxes, select_pixels, slice_boxes, take_rows, unmixed

FORMATS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def batch(count=5, dtype=torch.float32, memory_format=torch.contiguous_format, size=(6, 8), seed=0):
    images = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return images.to(memory_format=memory_format)


def shuffled(count=5, seed=1):
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_keep_dtype_and_format(dtype, memory_format):
    images, partner = batch(dtype=dtype, memory_format=memory_format), shuffled()
    rows = take_rows(images, partner)
    assert torch.equal(rows, images[partner])
    assert rows.stride() == images.stride()


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_blend(dtype, memory_format, per_sample, overwrite):
    images, partner = batch(dtype=dtype, memory_format=memory_format), shuffled()
    before = images.clone()
    lam = torch.linspace(0, 1, 5) if per_sample else 0.3
    weight = lam[:, None, None, None] if per_sample else lam
    expected = weight * images.float() + (1 - weight) * images[partner].float()
    kept = blend(images, partner, lam)
    assert torch.equal(images, before)
    mixed = blend(images, partner, lam, overwrite=overwrite)
    assert torch.equal(mixed, kept)
    assert (mixed is images) is overwrite
    torch.testing.assert_close(mixed.float(), expected, rtol=0.02, atol=0.02)
    assert mixed.dtype == dtype
    assert mixed.stride() == images.stride()
    low, high = torch.minimum(before, before[partner]), torch.maximum(before, before[partner])
    assert ((mixed >= low) & (mixed <= high)).all()


@pytest.mark.parametrize("overwrite", [False, True])
def test_blend_by_masks(overwrite):
    images, partner = torch.randn(3, 2, 4, 5), torch.tensor([1, 2, 0])
    masks = torch.rand(3, 1, 4, 5)
    expected = masks * images + (1 - masks) * images[partner]
    mixed = blend(images, partner, masks, overwrite=overwrite)
    torch.testing.assert_close(mixed, expected)
    assert (mixed is images) is overwrite


@pytest.mark.parametrize("dtype", DTYPES)
def test_blend_is_exact_at_zero_and_one(dtype):
    images, partner = batch(dtype=dtype), shuffled()
    assert torch.equal(blend(images, partner, 1.0), images)
    assert torch.equal(blend(images, partner, 0.0), images[partner])
    ends = blend(images, partner, torch.tensor([0.0, 1, 0, 1, 0]))
    assert torch.equal(ends, torch.stack([images[i] if i % 2 else images[partner[i]] for i in range(5)]))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_paste_box(memory_format, overwrite):
    images, partner = batch(memory_format=memory_format), shuffled()
    images[:, :, 2, 3] = torch.nan
    before = images.clone()
    box = Box(1, 4, 2, 7)
    mixed = paste_box(images, partner, box, overwrite=overwrite)
    expected = before.clone()
    expected[:, :, 1:4, 2:7] = before[partner][:, :, 1:4, 2:7]
    torch.testing.assert_close(mixed, expected, rtol=0, atol=0, equal_nan=True)
    assert mixed.stride() == images.stride()
    assert (mixed.data_ptr() == images.data_ptr()) is overwrite
    if not overwrite:
        torch.testing.assert_close(images, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("shared", [False, True])
def test_pixels_are_selected_to_the_bit(dtype, memory_format, shared):
    images, partner = batch(dtype=dtype, memory_format=memory_format), shuffled()
    images[:, 0, 2, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
    theirs = torch.rand(1 if shared else 5, 1, 6, 8, generator=torch.Generator().manual_seed(2)) < 0.5
    before = images.clone()
    mixed = select_pixels(images, partner, theirs)
    expected = torch.where(theirs, before[partner], before)
    assert mixed.stride() == images.stride()
    word = {2: torch.int16, 4: torch.int32, 8: torch.int64}[images.element_size()]
    assert torch.equal(mixed.view(word), expected.view(word))
    assert torch.equal(images.view(word), before.view(word))


def test_an_empty_box_returns_the_batch_itself():
    images = batch()
    assert paste_box(images, shuffled(), Box(3, 3, 0, 8)) is images


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_slices_and_select_give_the_same_bits(memory_format, overwrite, dtype):
    images, partner = batch(7, dtype, memory_format), shuffled(7)
    images[2, 0, 1, 1] = torch.nan
    rng = torch.Generator().manual_seed(2)
    edges = torch.randint(0, 7, (7, 4), generator=rng)
    boxes = torch.stack((edges[:, :2].amin(1), edges[:, :2].amax(1), edges[:, 2:].amin(1), edges[:, 2:].amax(1)), 1)
    selected, masks = select_boxes(images, partner, boxes)
    hidden = torch.where(masks.bool(), images, images[partner])
    torch.testing.assert_close(selected, hidden, rtol=0, atol=0, equal_nan=True)
    assert selected.stride() == images.stride()
    assert masks.dtype == torch.float32
    before = images.clone()
    pasted, same_masks = slice_boxes(images, partner.tolist(), boxes.tolist(), overwrite=overwrite)
    torch.testing.assert_close(pasted, selected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(masks, same_masks)
    assert same_masks.dtype == torch.float32
    assert pasted.stride() == images.stride()
    assert (pasted is images) is overwrite
    if not overwrite:
        torch.testing.assert_close(images, before, rtol=0, atol=0, equal_nan=True)


def test_one_box_for_all_is_that_box_for_each():
    images, partner, box = batch(), shuffled(), torch.tensor([[1, 4, 2, 8]])
    mixed, mask = select_boxes(images, partner, box)
    expected, masks = select_boxes(images, partner, box.expand(5, 4))
    assert torch.equal(mixed, expected)
    assert mask.shape == (1, 1, 6, 8)
    assert torch.equal(mask.expand(5, 1, 6, 8), masks)


@pytest.mark.parametrize("size", [(8, 8), (80, 80)])
def test_pasting_gives_the_same_bits_at_any_size(size):
    images, partner = batch(3, size=size), torch.tensor([1, 2, 0])
    boxes = torch.tensor([[0, 5, 2, 8], [1, 1, 0, 3], [3, 7, 0, 4]])
    expected, expected_masks = select_boxes(images, partner, boxes)
    mixed, masks = paste_boxes(images, partner, boxes)
    assert torch.equal(mixed, expected)
    assert torch.equal(masks, expected_masks)


def test_unmixed_is_the_batch_itself():
    images = batch(3)
    mix = unmixed(images)
    assert mix.images is images
    assert mix.partner.tolist() == [0, 1, 2]
    assert mix.lam.tolist() == [1, 1, 1]
    assert mix.masks is not None
    assert mix.masks.shape == (3, 1, 1, 1)
    assert (mix.masks == 1).all()
