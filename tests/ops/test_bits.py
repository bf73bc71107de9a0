"""Whole tensors kept or replaced by a flag, bit for bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mixcore.ops.bits import keep_where_, restore_unless_, zero_unless_


def mixed(seed: int) -> list[Tensor]:
    """Tensors of several sizes of element, with NaN, infinity and -0.0, in several memory formats."""
    rng = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 3, 4, 5, generator=rng).to(memory_format=torch.channels_last)
    image[0, 0, 0, :3] = torch.tensor([math.nan, math.inf, -0.0])
    return [
        image,
        torch.randn(3, 4, generator=rng).t(),
        torch.randn(7, generator=rng).bfloat16(),
        torch.randn(7, generator=rng).double(),
        torch.randint(-(2**62), 2**62, (5,), generator=rng),
        torch.randn((), generator=rng),
        torch.rand(6, generator=rng) < 0.5,
    ]


def bits(tensors: list[Tensor]) -> list[list[int]]:
    return [list(one.contiguous().flatten().view(torch.uint8).tolist()) for one in tensors]


@pytest.mark.parametrize("keep", [True, False])
def test_restore_gives_the_one_or_the_other_to_the_bit(keep: bool) -> None:
    now, before = mixed(0), mixed(1)
    expected = bits(mixed(0) if keep else mixed(1))
    restore_unless_(torch.tensor(keep), now, before)
    assert bits(now) == expected
    assert [one.stride() for one in now] == [one.stride() for one in mixed(0)]


@pytest.mark.parametrize("keep", [True, False])
def test_zero_leaves_all_bits_or_none(keep: bool) -> None:
    now = mixed(0)
    zero_unless_(torch.tensor(keep), now)
    assert bits(now) == (bits(mixed(0)) if keep else bits([torch.zeros_like(one) for one in now]))


@pytest.mark.parametrize("number", range(4))
def test_elements_are_kept_by_a_flag_each(number: int) -> None:
    now, other = mixed(0)[number], mixed(1)[number]
    keep = torch.rand(now.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    expected = bits([torch.where(keep, now, other)])
    keep_where_(keep, now, other)
    assert bits([now]) == expected
    assert bits([other]) == bits([mixed(1)[number]])
