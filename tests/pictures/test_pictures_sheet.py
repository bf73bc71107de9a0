from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mixcore.errors import HookError
from mixcore.pictures.grid import denormalise
from mixcore.pictures.layout import FRAME, GAP, MARGIN, MARK, Block, Cell, draw, fitted
from mixcore.pictures.sheet import Section, contact_sheet, label_text, section_block
from mixcore.types import LabelKind, Mix, Task

ROWS = 2


NAMES = ("ant", "bee", "cat", "dog")


def task(kind: LabelKind = "class", channels: int = 3, names: tuple[str, ...] | None = None) -> Task:
    return Task(
        num_classes=4,
        in_channels=channels,
        image_size=(8, 16),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        label_kind=kind,
        class_names=names,
    )


def batch(channels: int = 3) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(6, channels, 8, 16, generator=rng) * 4 - 2, torch.tensor([0, 1, 2, 3, 0, 1])


def pair(images: Tensor, **rest: object) -> Mix:
    partner, lam = torch.tensor([3, 2, 1, 0, 5, 4]), torch.tensor([0.25, 0.5, 0.75, 1.0, 0.0, 0.5])
    return Mix.pair(lam.view(-1, 1, 1, 1) * images, partner, lam, **rest)


def section(mix: Mix, images: Tensor, labels: Tensor, weights: Tensor | None = None) -> Section:
    return Section(title="toy", notes=["alpha = 1"], mix=mix, images=images, targets=mix.targets(labels, weights))


def at(sheet: Image.Image, column: int, picture: Tensor) -> bool:
    """Whether the picture stands somewhere in that column, enlarged pixel for pixel."""
    wanted, strip = np.asarray(fitted(picture)), np.asarray(sheet)
    left = MARGIN + column * (wanted.shape[1] + GAP)
    strip = strip[:, left : left + wanted.shape[1]]
    return any(np.array_equal(strip[y : y + len(wanted)], wanted) for y in range(len(strip) - len(wanted) + 1))


def test_a_pair_shows_image_partner_mask_and_mixed_image() -> None:
    images, labels = batch()
    mask = torch.zeros(6, 1, 4, 4)
    mask[:, :, :2] = 1
    mix = pair(images, mask=mask)
    sheet = contact_sheet([section(mix, images, labels)], task(), rows=ROWS, heading="a run")
    originals, mixed = denormalise(images, task()), denormalise(mix.images, task())
    drawn_mask = torch.zeros(3, 8, 16, dtype=torch.uint8)
    drawn_mask[:, :4] = 255
    for row, partner in ((0, 3), (1, 2)):
        assert at(sheet, 0, originals[row])
        assert at(sheet, 1, originals[partner])
        assert at(sheet, 2, drawn_mask)
        assert at(sheet, 3, mixed[row])
    assert not at(sheet, 0, originals[2])  # a third row was not asked for


def test_numbers_and_names_stand_beside_the_images() -> None:
    images, labels = batch()
    block = section_block(section(pair(images), images, labels), task(names=NAMES), ROWS)
    own, partner, mask, _, numbers = block.rows[0]
    assert (own.caption, partner.caption) == ("#0 ant", "#3 dog")
    assert mask.placeholder == "no mask"
    assert mask.picture is None
    assert numbers.lines == ["lam 0.250", "0.250 ant", "0.750 dog"]
    assert block.columns == ["image", "partner", "mask", "mixed", "lam and label weights"]
    assert block.notes == ["alpha = 1"]
    assert len(block.rows) == ROWS


def test_label_weights_are_those_of_the_label_policy() -> None:
    images, labels = batch()
    mix = pair(images)
    weights = torch.tensor([[0.9, 0.3]]).repeat(6, 1)
    block = section_block(section(mix, images, labels, weights), task(), 1)
    assert block.rows[0][-1].lines == ["lam 0.250", "0.900 class 0", "0.300 class 3", "sum 1.200"]


def test_of_many_sources_those_with_weight_are_shown() -> None:
    images, labels = batch()
    sources = torch.tensor([[0, 1, 2, 3, 4]] * 6)
    weights = torch.tensor([[0.1, 0.0, 0.6, 0.0, 0.3]] * 6)
    masks = weights[:, :4, None, None].expand(-1, -1, 8, 16)
    mix = Mix(images=images, sources=sources, weights=weights, masks=masks)
    block = section_block(section(mix, images, labels), task(), 1)
    assert [cell.caption for cell in block.rows[0][:3]] == ["#2 class 2", "#4 class 0", "#0 class 0"]
    assert [cell.caption for cell in block.rows[0][3:6]] == ["mean 0.600", "mean 0.300", "mean 0.100"]
    assert block.rows[0][-1].lines == ["lam 0.100", "0.600 class 2", "0.300 class 0", "0.100 class 0"]
    assert len(block.columns) == len(block.rows[0]) == 3 + 3 + 2


def test_of_many_sources_the_image_itself_is_marked() -> None:
    images, labels = batch()
    sources, weights = torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.5, 0.5]])
    mix = Mix(images=images[:2], sources=sources, weights=weights, masks=weights[:, :2, None, None])
    block = section_block(section(mix, images, labels), task(), 2)
    assert [cell.marked for cell in block.rows[0]] == [False, False, True, False, False, True, False, False]
    assert [cell.marked for cell in block.rows[1][:3]] == [False, False, True], "weight 0, and shown all the same"
    assert [cell.caption for cell in block.rows[1][:3]] == ["#2 class 2", "#3 class 3", "#1 class 1"]
    assert any("framed: the image itself" in note for note in block.notes)
    elsewhere = attrs.evolve(mix, sources=sources.flip(1))
    notes = section_block(section(elsewhere, images, labels), task(), 2).notes
    assert any("framed: source 0" in note for note in notes), "what is framed is not the image of that row"


def test_the_image_itself_is_shown_where_others_weigh_more() -> None:
    images, labels = batch()
    sources, weights = torch.arange(6).expand(6, -1), torch.tensor([[0.0, 0.3, 0.25, 0.2, 0.15, 0.1]] * 6)
    mix = Mix(images=images, sources=sources, weights=weights)
    block = section_block(section(mix, images, labels), task(), 1)
    assert [cell.caption[:2] for cell in block.rows[0][:4]] == ["#1", "#2", "#3", "#0"]
    assert [cell.marked for cell in block.rows[0][:4]] == [False, False, False, True]


def test_a_pair_needs_no_mark() -> None:
    images, labels = batch()
    block = section_block(section(pair(images), images, labels), task(), ROWS)
    assert not any(cell.marked for row in block.rows for cell in row)
    assert not any("framed" in note for note in block.notes)


def test_a_marked_picture_stands_whole_in_a_frame_that_its_neighbour_has_not() -> None:
    picture = torch.randint(0, 256, (3, 128, 128), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    cells = [Cell(picture=picture, marked=True), Cell(picture=picture), Cell(lines=["lam"])]
    drawn = draw([Block(title="t", notes=[], columns=["a", "b", "c"], rows=[cells])])
    sheet = np.asarray(drawn)
    assert at(drawn, 0, picture)
    assert at(drawn, 1, picture)
    coloured = (sheet == np.asarray(MARK)).all(2)
    left, width = MARGIN, 128
    assert coloured[:, left - FRAME : left].sum(0).tolist() == [width + 2 * FRAME] * FRAME
    assert not coloured[:, left + width + GAP - 2 :].any()


def test_sources_that_are_no_rows_of_the_batch_are_the_mixers_fault() -> None:
    images, labels = batch()
    mix = Mix.pair(images, torch.full((6,), 6), 0.5)
    with pytest.raises(HookError, match=r"toy gave sources from 0 to 6 of 6 images: expected rows 0 to 5"):
        section_block(section(mix, images, labels), task(), ROWS)


def test_more_sources_than_fit_are_counted() -> None:
    images, labels = batch()
    sources, weights = torch.arange(6).expand(6, -1), torch.tensor([[0.3, 0.2, 0.2, 0.1, 0.1, 0.1]] * 6)
    mix = Mix(images=images, sources=sources, weights=weights)
    block = section_block(section(mix, images, labels), task(), 1)
    assert block.columns[:4] == ["source 1", "source 2", "source 3", "source 4"]
    assert block.rows[0][-1].lines[-1] == "and 2 more"
    assert len(block.columns) == len(block.rows[0])


def test_two_sources_of_many_still_give_a_whole_table() -> None:
    images, labels = batch()
    sources, weights = torch.tensor([[5, 1, 2]] * 6), torch.tensor([[1.0, 0.0, 0.0]] * 6)
    mix = Mix(images=images, sources=sources, weights=weights, masks=weights[:, :2, None, None])
    block = section_block(section(mix, images, labels), task(), 1)
    assert len(block.columns) == len(block.rows[0])
    assert block.rows[0][0].caption == "#5 class 1"


def test_clean_images_and_mixes_inside_the_network_say_so() -> None:
    images, labels = batch()
    clean = section_block(section(Mix.clean(images), images, labels), task(), 1)
    assert clean.columns == ["image", "fed to the network", "lam and label weights"]
    assert any("not mixed" in note for note in clean.notes)
    inside = pair(images, stage="layer2", transform=torch.neg, views=(Mix.clean(images),))
    notes = " ".join(section_block(section(inside, images, labels), task(), 1).notes)
    assert "inside the network, at stage 'layer2'" in notes
    assert "1 further view" in notes


@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_mix_can_be_drawn_on_one_sheet(channels: int) -> None:
    images, labels = batch(channels)
    three = Mix(
        images=images[:4], sources=torch.zeros(4, 3, dtype=torch.int64), weights=torch.full((4, 3), 1 / 3),
        masks=torch.full((4, 2, 1, 1), 1 / 3, dtype=torch.float16),
    )  # fmt: skip
    sections = [section(mix, images, labels) for mix in (pair(images), Mix.clean(images), three)]
    sheet = contact_sheet(sections, task(channels=channels), rows=8)
    assert sheet.mode == "RGB"
    assert sheet.width >= 2 * MARGIN + 7 * 128
    assert at(sheet, 6, denormalise(three.images, task(channels=channels))[3])


@pytest.mark.parametrize(
    ("kind", "label", "expected"),
    [
        ("class", torch.tensor(2), "cat"),
        ("soft", torch.tensor([0.1, 0.7, 0.2, 0.0]), "bee (0.70)"),
        ("multi_label", torch.tensor([1.0, 0.0, 1.0, 0.0]), "ant, cat"),
        ("multi_label", torch.zeros(4), "no label"),
        ("value", torch.tensor([1.5, -20.0]), "1.5, -20"),
    ],
)
def test_labels_in_words(kind: LabelKind, label: Tensor, expected: str) -> None:
    assert label_text(label, task(kind, names=NAMES)) == expected


def test_names_that_cannot_be_drawn_are_told_on_one_line() -> None:
    odd = task(names=("two\nlines", "bell\x07", "by\udce9te", " "))
    assert [label_text(torch.tensor(index), odd) for index in range(4)] == ["two lines", "bell?", "by?te", "class 3"]
    images, labels = batch()
    contact_sheet([section(pair(images), images, labels)], odd)


@pytest.mark.parametrize(
    ("size", "shown"),
    [((32, 32), (128, 128)), ((28, 28), (140, 140)), ((224, 224), (224, 224)), ((512, 256), (256, 128))],
)
def test_shown_size(size: tuple[int, int], shown: tuple[int, int]) -> None:
    picture = torch.arange(256, dtype=torch.uint8)[torch.arange(3 * size[0] * size[1]) % 251].view(3, *size)
    image = fitted(picture)
    assert (image.height, image.width) == shown
    if shown[0] % size[0] == 0:  # every pixel is a square of equal pixels
        factor = shown[0] // size[0]
        enlarged = picture.permute(1, 2, 0).numpy().repeat(factor, 0).repeat(factor, 1)
        assert np.array_equal(np.asarray(image), enlarged)


def test_long_names_stay_in_their_column() -> None:
    images, labels = batch()
    names = ("an extraordinarily long name of a class that no column can hold",) * 4
    short, long = (
        contact_sheet([section(pair(images), images, labels)], task(names=given), rows=1)
        for given in (("x",) * 4, names)
    )
    assert short.size == long.size
    gap = np.asarray(long)[:, MARGIN + 128 + 2 : MARGIN + 128 + GAP - 2]
    text_rows = slice(-40, None)
    assert (gap[text_rows] == 255).all()
