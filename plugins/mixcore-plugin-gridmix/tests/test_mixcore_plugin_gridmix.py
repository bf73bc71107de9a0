"""GridMix: the shipped contract, then the examples and invariants of its specification."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mixcore_plugin_gridmix import GridMix, gridmix, hole_lines, lattice_lam, lattices, windows

from mixcore.api import OptionValueError, uniforms
from mixcore.testing import MixerContract, run_example


class TestContract(MixerContract):
    plugin = "gridmix"


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "gridmix"
    device = "cuda"


@pytest.mark.gpu
class TestContractPerSampleOnCuda(MixerContract):
    plugin = "gridmix"
    options = {"per_sample": True}
    device = "cuda"
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractPerSample(MixerContract):
    plugin = "gridmix"
    left_out = ("two_processes",)
    options = {"per_sample": True, "lam_range": [0.1, 0.9], "hole_aspect": [0.5, 2.0], "n_holes": [20, 20]}


def generate(plugin: GridMix, images: torch.Tensor, seed: int = 0):
    return plugin.generate_mix(images=images, rng=torch.Generator().manual_seed(seed))


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def lattice_of(size, holes, area, aspect, cell, lam, places=(0.0, 0.0)) -> torch.Tensor:
    starts, sizes = windows(numbers(area), numbers(aspect), numbers(*places)[None], *size)
    return lattices(starts, sizes, torch.tensor([holes]), numbers(cell), numbers(lam))


# --- the examples ----------------------------------------------------------------------------------------------------

EXAMPLES = [  # image, holes, area, lam, places, rows and columns of holes, lam
    (8, 2, 1.0, 0.75, (0.0, 0.0), [0, 1, 4, 5], 0.75),
    (4, 2, 1.0, 0.0, (0.0, 0.0), [0, 2], 0.75),
    (8, 2, 0.6, 0.36, (0.5, 0.99), [1, 2, 4, 5], 0.75),
]


@pytest.mark.parametrize(("size", "holes", "area", "drawn", "places", "crossed", "lam"), EXAMPLES)
def test_examples_of_the_page(size, holes, area, drawn, places, crossed, lam):
    lattice = lattice_of((size, size), holes, area, 1.0, 1.0, drawn, places)
    images, partner = torch.randn(2, 3, size, size), torch.tensor([1, 0])
    images[1, 0, crossed[0], crossed[1]] = torch.inf
    mix = gridmix(images, partner, lattice)
    lines = torch.zeros(size)
    lines[crossed] = 1
    assert torch.equal(mix.mask[0, 0], 1 - torch.outer(lines, lines))
    assert torch.equal(mix.mask[1], mix.mask[0])
    assert mix.lam.tolist() == [lam, lam]
    assert torch.equal(mix.images, torch.where(mix.mask.bool(), images, images[partner]))


def test_a_hole_never_fills_its_cell_and_is_never_empty():
    for drawn in (0.0, 0.3, 0.7, 1.0):
        small = lattice_of((4, 4), 2, 1.0, 1.0, 1.0, drawn)
        assert torch.equal(small, lattice_of((4, 4), 2, 1.0, 1.0, 1.0, 0.0)), "the same for every lam"


# --- lattices --------------------------------------------------------------------------------------------------------


def hole_by_hole(lattice: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The holes of one lattice, each written on its own."""
    (top, rows, down, high), (left, columns, right, wide) = lattice.tolist()
    holes = torch.zeros(height, width, dtype=torch.bool)
    for y in range(0, rows, down):
        for x in range(0, columns, right):
            holes[top + y : top + min(y + high, rows), left + x : left + min(x + wide, columns)] = True
    return holes


def many(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    area, aspect, cell, lam, down, across = uniforms(6, count, rng=rng)
    starts, sizes = windows(0.5 + area / 2, 0.5 + 1.5 * aspect, torch.stack((down, across), 1), height, width)
    holes = torch.randint(1, 21, (count,), generator=rng)
    return lattices(starts, sizes, holes, 0.5 + cell, lam)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (9, 31), (40, 12)])
def test_lines_of_holes_are_those_that_a_loop_writes(height, width):
    found = many(200, height, width)
    rows, columns = hole_lines(found[:, 0], height), hole_lines(found[:, 1], width)
    lam = lattice_lam(found, height, width)
    for i in range(200):
        expected = hole_by_hole(found[i], height, width)
        assert torch.equal(rows[i, :, None] & columns[i], expected)
        assert lam[i].item() == pytest.approx(1 - expected.double().mean().item(), abs=1e-7)


def test_windows_lie_in_the_image_and_holes_in_their_cells():
    found = many(2000, 20, 33)
    start, size, pitch, hole = found.unbind(2)
    assert (start >= 0).all()
    assert (start + size <= torch.tensor([20, 33])).all()
    assert (pitch >= 2).all()
    assert (hole >= 1).all()
    assert (hole <= pitch - 1).all()
    assert size.amax(0).tolist() == [20, 33], "clamped to the image"


def test_a_window_larger_than_the_image_is_clamped():
    lattice = lattice_of((32, 32), 2, 1.0, 2.0, 1.0, 0.5, (0.9, 0.9))
    assert lattice[0, :, :2].tolist() == [[0, 32], [9, 22]]


def test_less_of_lam_never_leaves_more_of_the_image():
    previous = None
    for drawn in torch.linspace(1, 0, 30).tolist():
        lam = torch.cat([lattice_lam(lattice_of((32, 40), n, 0.8, 1.3, 0.7, drawn), 32, 40) for n in range(1, 20)])
        assert previous is None or (lam <= previous).all()
        previous = lam
    assert (previous < 1).all()
    assert (previous > 0).all()


def test_more_holes_than_the_window_has_room_for():
    assert lattice_of((7, 7), 20, 1.0, 1.0, 1.0, 0.5)[0, 1].tolist() == [0, 7, 3, 2]
    assert lattice_of((7, 7), 3, 1.0, 1.0, 1.0, 0.5)[0, 1].tolist() == [0, 7, 3, 2]


# --- the mixer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_sample", [False, True])
def test_mixed_images_and_lam_follow_the_mask(per_sample):
    images = torch.randn(7, 3, 18, 25)
    images[:, :, 3, 5] = torch.nan
    for seed in range(20):
        mix = generate(GridMix(per_sample=per_sample), images, seed)
        assert ((mix.mask == 0) | (mix.mask == 1)).all()
        torch.testing.assert_close(mix.mask.mean((1, 2, 3)), mix.lam, rtol=0, atol=1e-7)
        expected = torch.where(mix.mask.bool(), images, images[mix.partner])
        torch.testing.assert_close(mix.images, expected, rtol=0, atol=0, equal_nan=True)
        assert ((mix.lam > 0) & (mix.lam < 1)).all()
        for hidden in mix.mask[:, 0] == 0:
            assert torch.equal(hidden, hidden.any(1)[:, None] & hidden.any(0)), "rows by columns"
        assert (mix.lam.unique().numel() > 2) is per_sample


def drawn_lattices(count: int = 4000, size: int = 64, **options) -> torch.Tensor:
    """What a mixer with these options draws for so many square images."""
    return GridMix(**options)._draw_lattices(count, size, size, torch.Generator().manual_seed(0))


def test_the_number_of_holes_is_uniform_over_its_range():
    lattice = drawn_lattices(crop_area=1.0, crop_aspect=1.0, n_holes=(2, 6))
    pitches, counts = lattice[:, 1, 2].unique(return_counts=True)
    assert pitches.tolist() == [11, 13, 16, 22, 32]
    assert ((counts - 800).abs() < 100).all()


def test_windows_and_cells_have_the_shapes_that_the_options_say():
    lattice = drawn_lattices(crop_area=(0.2, 0.3), crop_aspect=(0.9, 1.2), hole_aspect=0.5, n_holes=(2, 2))
    high, wide = lattice[:, :, 1].double().unbind(1)
    area, aspect = high * wide / 64**2, high / wide
    assert area.max() <= 0.3
    assert 0.18 < area.min() < 0.21
    assert 0.85 < aspect.min() < 0.92
    assert 1.15 < aspect.max() <= 1.2
    down, across = lattice[:, :, 2].unbind(1)
    assert torch.equal(down, across // 2)
    starts = lattice[:, :, 0]
    assert (starts == 0).any(0).all()
    assert (starts.amax(0) > 30).all()


def test_lam_is_drawn_by_alpha_or_from_a_range():
    fixed = {"crop_area": 1.0, "crop_aspect": 1.0, "n_holes": (1, 1)}
    sides = drawn_lattices(alpha=0.0, lam_range=(0.36, 0.64), **fixed)[:, 0, 3]
    assert (sides.min(), sides.max()) == (38, 51), "64 pixels by the roots of 0.36 and 0.64"
    assert (sides.diff() != 0).any()
    ends = drawn_lattices(alpha=0.05, **fixed)[:, 0, 3]
    assert ((ends == 1) | (ends == 63)).double().mean() > 0.6
    assert ((ends == 1).double().mean() - (ends == 63).double().mean()).abs() < 0.2


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"prob": 0.0}])
def test_an_unmixed_batch_is_the_batch_itself(options):
    images = torch.randn(3, 3, 8, 8)
    mix = generate(GridMix(**options), images)
    assert mix.images is images
    assert mix.lam.tolist() == [1, 1, 1]
    assert (mix.masks_on(8, 8)[:, 0] == 1).all()


REFUSED = [
    {"alpha": -1.0},
    {"prob": 2.0},
    {"lam_range": (0.5, 0.5)},
    {"n_holes": (0, 4)},
    {"n_holes": (5, 4)},
    {"hole_aspect": 0.0},
    {"crop_area": (0.5, 1.5)},
    {"crop_aspect": (2.0, 0.5)},
]


@pytest.mark.parametrize("options", REFUSED, ids=str)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        GridMix(**options)


NO_ROOM = [((3, 1), {}), ((8, 8), {"crop_area": 0.01}), ((8, 8), {"crop_area": 0.5, "crop_aspect": 0.02})]


@pytest.mark.parametrize(("size", "options"), NO_ROOM)
def test_images_without_room_for_a_window_are_refused(size, options):
    message = rf"crop_area and crop_aspect in an image of {size[0]}x{size[1]} has \d+ rows and \d+ columns; a lattice"
    with pytest.raises(OptionValueError, match=message):
        generate(GridMix(**options), torch.zeros(2, 1, *size))


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["targets"].shape == (8, 100)
    torch.testing.assert_close(names["targets"].sum(1), torch.ones(8))
