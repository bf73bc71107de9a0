from __future__ import annotations

import torch

from mixcore.pictures.captioned import caption, captioned_grid
from mixcore.pictures.grid import denormalise
from mixcore.pictures.layout import GAP, LINE
from mixcore.types import Targets, Task

NAMES = ("apple", "bee", "a name that is far longer than any picture of a small image is wide")
TASK = Task(num_classes=3, in_channels=3, image_size=(8, 8), mean=(0.5,) * 3, std=(0.25,) * 3, class_names=NAMES)


def targets(weights: list[list[float]], sources: list[list[int]]) -> Targets:
    return Targets(labels=torch.tensor([0, 1, 2]), sources=torch.tensor(sources), weights=torch.tensor(weights))


def test_captions_name_the_heaviest_sources_first() -> None:
    given = targets([[0.37, 0.63, 0.0], [0.2, 0.5, 0.3], [1.0, 0.0, 0.0]], [[1, 0, 2], [0, 1, 2], [1, 2, 0]])
    assert [caption(given, row, TASK)[0] for row in range(3)] == ["0.63 apple", "0.50 bee", "1.00 bee"]
    assert caption(given, 0, TASK) == ["0.63 apple", "0.37 bee"]
    assert [line[:6] for line in caption(given, 1, TASK)] == ["0.50 b", "0.30 a", "0.20 a"]
    assert len(caption(given, 2, TASK)) == 1


def test_of_more_than_two_sources_all_are_told_and_there_is_room_for_them() -> None:
    images, lines = torch.zeros(3, 3, 8, 8), []
    for count, shown in ((1, 1), (3, 3), (5, 4)):
        given = targets([[1 / count] * count] * 3, [[0] * count] * 3)
        assert caption(given, 0, TASK) == [f"{1 / count:.2f} apple"] * shown
        lines.append(captioned_grid(images, given, TASK)[:, GAP + 128 :, GAP : GAP + 128])
        assert lines[-1].shape[1] == shown * LINE + GAP
        assert (lines[-1][:, (shown - 1) * LINE : shown * LINE] < 200).any(), "the last line is drawn"


def test_images_stand_above_their_names_and_long_ones_are_cut() -> None:
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 4 - 2
    given = targets([[0.5, 0.5]] * 5, [[2, 2]] * 5)
    picture = captioned_grid(images, given, TASK)
    side = 128
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 2 * (side + 2 * LINE + GAP) + GAP, 4 * (side + GAP) + GAP)
    wanted = denormalise(images, TASK)[3].repeat_interleave(16, 1).repeat_interleave(16, 2)
    left = GAP + 3 * (side + GAP)
    assert torch.equal(picture[:, GAP : GAP + side, left : left + side], wanted)
    below = slice(GAP + side, GAP + side + 2 * LINE)
    assert (picture[:, below, left : left + side] < 200).any(), "text below the image"
    assert (picture[:, below, left + side :] == 255).all(), "and none beyond it"
