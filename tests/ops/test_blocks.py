"""Images put together from blocks of others, block by block against plain slices."""

from __future__ import annotations

import pytest
import torch

from mixcore.api import combine_blocks


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("per_block", [False, True])
def test_blocks_come_from_the_rows_that_are_named(per_block, memory_format):
    images = torch.rand(5, 3, 8, 12, generator=generator()).to(memory_format=memory_format)
    side, count, sources = 4, 6, 2
    shape = (count, sources, side**2) if per_block else (count, sources)
    rows = torch.randint(5, shape, generator=generator(1))
    blocks = torch.randint(side**2, (count, sources, side**2), generator=generator(2))
    weights = torch.rand(count, sources, side**2, generator=generator(3))
    weights[0, 0], weights[0, 1] = 1, 0
    mixed = combine_blocks(images, rows, blocks, weights)
    assert mixed.is_contiguous(memory_format=memory_format)

    def block(image, number):
        row, column = number // side, number % side
        return image[:, row * 2 : row * 2 + 2, column * 3 : column * 3 + 3]

    for i in range(count):
        for j in range(side**2):
            expected = torch.zeros(3, 2, 3)
            for s in range(sources):
                source = rows[i, s, j] if per_block else rows[i, s]
                expected += weights[i, s, j] * block(images[source], int(blocks[i, s, j]))
            torch.testing.assert_close(block(mixed[i], j), expected)
            if i == 0:
                assert torch.equal(block(mixed[i], j), expected)
