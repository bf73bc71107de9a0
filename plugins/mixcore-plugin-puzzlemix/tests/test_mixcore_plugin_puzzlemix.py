"""PuzzleMix: the examples and invariants of its specification, and the contract."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import attrs
import gco
import numpy
import pytest
import torch
from mixcore_plugin_puzzlemix import (
    Energy,
    PuzzleMix,
    assemble,
    boundaries,
    prior_costs,
    puzzle_energy,
    puzzle_masks,
    solve,
    solve_exactly,
    solve_relaxed,
)
from mixcore_plugin_puzzlemix.relaxed import turn

import mixcore
from mixcore.api import OptionValueError, block_shares, transport_blocks
from mixcore.errors import ConfigError
from mixcore.evidence import probe
from mixcore.testing import MixerContract, TinyConvNet

SALIENT = torch.tensor([[[0.7, 0.1], [0.1, 0.1]], [[0.1, 0.1], [0.1, 0.7]]])
SWAP = torch.tensor([1, 0])


class TestContract(MixerContract):
    plugin = "puzzlemix"
    own_pixels = False
    partner_pixels = False


@pytest.mark.slow
class TestContractWithoutTransport(MixerContract):
    plugin = "puzzlemix"
    options = {"transport": False, "saliency": "spectral_residual", "n_labels": 2, "beta": 0.1}
    left_out = ("two_processes",)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pairs(partner):
    return torch.stack((torch.arange(len(partner)), partner), 1)


def random_shares(count, blocks, seed=0, power=1):
    values = torch.rand(count, blocks, blocks, generator=seeded(seed)).log().neg() ** power
    return values / values.sum((1, 2), keepdim=True)


def smooth_pixels(count, size, seed=0):
    """Images [N,3,size,size] in [0,1] whose content is coarse, as photographs' is."""
    coarse = torch.rand(count, 3, 5, 5, generator=seeded(seed))
    fine = 0.2 * torch.rand(count, 3, size, size, generator=seeded(seed + 1))
    return 0.8 * torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1) + fine


def energy_of(images, partner, shares, lam, labels=3, beta=1.2, gamma=0.5, eta=0.2):
    down, right = boundaries(images, partner, shares.shape[1], (1.0,) * images.shape[1], 4)
    return puzzle_energy(shares, partner, down, right, prior_costs(lam, labels), beta=beta, gamma=gamma, eta=eta)


def some_energy(blocks, labels, count=12, lam=0.4, seed=0):
    images = smooth_pixels(count, 32, seed)
    partner = torch.randperm(count, generator=seeded(seed))
    return energy_of(images, partner, random_shares(count, blocks, seed), lam, labels)


def plain_energy(m, shares, images, partner, lam, labels, beta=1.2, gamma=0.5, eta=0.2, cell=4):
    """E of step 5 by loops, float64: m [N,n,n] in [0,1], images [N,C,H,W] in [0,1]."""
    blocks, side = m.shape[1], images.shape[-1] // m.shape[1]
    cells = torch.nn.functional.avg_pool2d(images.double(), cell)
    k, top = side // cell, labels - 1
    prior = prior_costs(lam, labels)
    pull = beta / (16 * blocks)
    totals = []
    for i, p in enumerate(partner.tolist()):
        a, b = cells[i], cells[p]
        own = {(r, c): shares[p, r, c].item() for r in range(blocks) for c in range(blocks)}
        lost = {(r, c): shares[i, r, c].item() for r in range(blocks) for c in range(blocks)}
        total = 0.0
        for r, c in own:
            for r2, c2 in ((r + 1, c), (r, c + 1)):
                if r2 == blocks or c2 == blocks:
                    continue
                if r2 > r:
                    first = [x[:, (r + 1) * k - 1, c * k : (c + 1) * k] for x in (a, b)]
                    second = [x[:, (r + 1) * k, c * k : (c + 1) * k] for x in (a, b)]
                else:
                    first = [x[:, r * k : (r + 1) * k, (c + 1) * k - 1] for x in (a, b)]
                    second = [x[:, r * k : (r + 1) * k, (c + 1) * k] for x in (a, b)]
                aa, ab, ba, bb = (pull * gamma * (f - s).abs().mean().item() for f in first for s in second)
                own[r, c] += (ab + aa) / 2
                own[r2, c2] += (ba + aa) / 2
                lost[r, c] += (ba + bb) / 2
                lost[r2, c2] += (ab + bb) / 2
                weight = max(pull + (ab + ba - aa - bb) / 2, 0)
                total += weight * (m[i, r, c] - m[i, r2, c2]).item() ** 2
        for r, c in own:
            share = m[i, r, c].item()
            total += (1 - share) * lost[r, c] + share * own[r, c] + eta / blocks**2 * prior[round(share * top)]
        totals.append(total)
    return torch.tensor(totals)


def least_by_enumeration(energy):
    labels, blocks, _, count = energy.unary.shape
    best = torch.full((count,), float("inf"))
    for choice in itertools.product(range(labels), repeat=blocks**2):
        best = torch.minimum(best, energy.of(torch.tensor(choice).view(blocks, blocks, 1).expand(-1, -1, count)))
    return best


# --- energy ----------------------------------------------------------------------------------------------------------


def test_example_c_boundary_differences():
    ramp = (torch.arange(16.0) / 16).view(1, 1, 4, 4)
    down, right = boundaries(torch.cat((ramp, 0 * ramp)), SWAP, 2, (1.0,), 1)
    assert down.own_own[..., 0].tolist() == [[0.25, 0.25]]
    assert right.own_own[..., 0].tolist() == [[0.0625], [0.0625]]
    assert down.own_partner[..., 0].tolist() == [[0.28125, 0.40625]]
    assert down.partner_partner[..., 1].tolist() == [[0.25, 0.25]]


@pytest.mark.parametrize(("blocks", "labels"), [(2, 3), (4, 2), (8, 3)])
def test_energy_is_that_of_the_specification(blocks, labels):
    images, partner, shares = smooth_pixels(4, 32), torch.tensor([2, 0, 3, 1]), random_shares(4, blocks)
    energy = energy_of(images, partner, shares, 0.3, labels)
    chosen = torch.randint(labels, (4, blocks, blocks), generator=seeded())
    expected = plain_energy(chosen / (labels - 1), shares, images, partner, 0.3, labels)
    torch.testing.assert_close(energy.of(chosen.movedim(0, 2)), expected.float(), rtol=1e-5, atol=1e-6)


def test_pixels_count_in_zero_to_one_whatever_the_normalisation():
    images, partner = smooth_pixels(4, 16), torch.tensor([1, 2, 3, 0])
    mean, std = torch.tensor([0.5, 0.4, 0.3]), (0.2, 0.3, 0.4)
    normal = (images - mean[:, None, None]) / torch.tensor(std)[:, None, None]
    plain = boundaries(images, partner, 4, (1.0,) * 3, 2)
    scaled = boundaries(normal, partner, 4, std, 2)
    for one, other in zip(plain, scaled, strict=True):
        for name, value in attrs.asdict(one).items():
            torch.testing.assert_close(value, getattr(other, name), rtol=1e-4, atol=1e-6)


def test_cells_are_the_largest_that_divide_the_blocks():
    images, partner = smooth_pixels(3, 28), torch.tensor([1, 2, 0])
    asked, divisor = (boundaries(images, partner, 2, (1.0,) * 3, q)[0].own_own for q in (4, 2))
    whole = boundaries(images, partner, 2, (1.0,) * 3, 14)[0].own_own
    assert torch.equal(asked, divisor)
    assert not torch.allclose(whole, divisor)


# --- solver ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "lam", "mask", "least"),
    [
        (3, 0.5, [[1, 0.5], [0.5, 0]], 0.645444),
        (3, 0.8, [[1, 1], [1, 0]], 0.702887),
        (2, 0.8, [[1, 1], [1, 0]], 0.588943),
    ],
)
@pytest.mark.parametrize("solver", [solve_exactly, lambda energy: solve_relaxed(energy, 100)])
def test_example_a(labels, lam, mask, least, solver):
    energy = energy_of(torch.full((2, 3, 4, 4), 0.5), SWAP, SALIENT, lam, labels)
    assert energy.horizontal[0, 0, 0].item() * (labels - 1) ** 2 == pytest.approx(0.0375)
    found = solver(energy)
    assert (found[..., 0] / (labels - 1)).tolist() == mask
    assert energy.of(found)[0].item() == pytest.approx(least, abs=1e-6)
    if lam == 0.5:
        assert energy.of(torch.full_like(found, 2))[0].item() == pytest.approx(1.277259, abs=1e-6)


@pytest.mark.parametrize(("blocks", "labels"), [(2, 3), (3, 2)])
def test_solvers_equal_enumeration(blocks, labels):
    energy = some_energy(4, labels)
    energy = Energy(
        unary=energy.unary[:, :blocks, :blocks] * 3,
        vertical=energy.vertical[: blocks - 1, :blocks],
        horizontal=energy.horizontal[:blocks, : blocks - 1],
    )
    least = least_by_enumeration(energy)
    torch.testing.assert_close(energy.of(solve_exactly(energy)), least)
    torch.testing.assert_close(energy.of(solve_relaxed(energy, 100)), least)


@pytest.mark.parametrize(("blocks", "labels"), [(2, 2), (2, 5), (4, 3), (8, 2), (8, 3), (16, 3), (8, 4)])
def test_no_constant_labelling_is_better(blocks, labels):
    energy = some_energy(blocks, labels, lam=0.9)
    found = solve(energy)
    assert set(found.unique().tolist()) <= set(range(labels))
    for level in range(labels):
        assert (energy.of(found) <= energy.of(torch.full_like(found, level)) + 1e-6).all()


@pytest.mark.parametrize("labels", [2, 3, 4])
def test_relaxed_solver_is_close_to_the_exact_one(labels):
    energy = some_energy(4, labels, count=64, seed=3)
    least, found = energy.of(solve_exactly(energy)), energy.of(solve_relaxed(energy, 40 if labels > 2 else 100))
    gap = (found - least) / least
    assert gap.mean() < 1e-5
    assert gap.max() < 1e-3


def test_forty_iterations_two_sweeps_and_the_extrapolation_are_needed_and_enough():
    images, partner = smooth_pixels(32, 32, 4), torch.randperm(32, generator=seeded(1))
    energy = energy_of(images, partner, random_shares(32, 16, 4, power=4), 0.4)
    found, longer = energy.of(solve(energy)), energy.of(solve_relaxed(energy, 500))
    assert ((found - longer) / longer).mean() < 1.5e-5


@torch.no_grad()
@pytest.mark.parametrize("labels", [2, 3])
def test_a_compiled_iteration_gives_the_same_labels(labels):
    """Traced whole, without a break; the compiler's own kernels only round differently."""
    compiled = torch.compile(turn, backend="aot_eager", fullgraph=True)
    energy = some_energy(4, labels)
    assert torch.equal(solve_relaxed(energy, 20, compiled), solve_relaxed(energy, 20))


@pytest.mark.parametrize("compiles", [True, False])
def test_the_iteration_is_compiled_where_the_run_is(monkeypatch, compiles):
    called: list[Any] = []

    def compile_by_name(function):
        def run(*given, **named):
            called.append(function.__name__)
            return function(*given, **named)

        return run

    monkeypatch.setattr(torch, "compile", compile_by_name)
    monkeypatch.setattr(torch.compiler, "disable", lambda hook: hook)
    monkeypatch.setattr(probe, "_compiled", functools.cache(probe._compiled.__wrapped__))  # not what others compiled
    images, labels = batch(size=32)
    mix = {"name": "puzzlemix", "saliency": "fine_grained"}
    step = mixcore.create_step(network(), mix=mix, num_classes=5, iterations=9, image_size=(32, 32), compile=compiles)
    for _ in range(8):  # some of them on narrow grids, which are solved exactly
        step(images, labels)
    assert called.count("turn") >= 40 * compiles
    assert ("turn" in called) is compiles


def swap_moves(energy):
    """Labels by alpha-beta swaps in C++, one call per sample, on the reference's rounded energy."""
    labels, blocks, _, count = energy.unary.shape
    scale = 1000 * blocks**2
    level = numpy.arange(labels)
    distance = ((level[:, None] - level) ** 2 / (labels - 1) ** 2).astype(numpy.float32)
    found = []
    for i in range(count):
        parts = (energy.unary[..., i].movedim(0, -1), energy.vertical[..., i], energy.horizontal[..., i])
        factors = (scale, scale * (labels - 1) ** 2, scale * (labels - 1) ** 2)
        unary, down, right = ((x * f).int().contiguous().numpy() for x, f in zip(parts, factors, strict=True))
        cut = gco.cut_grid_graph(unary, distance, down, right, n_iter=-1, algorithm="swap")
        found.append(torch.from_numpy(cut.reshape(blocks, blocks)))
    return torch.stack(found, 2)


@pytest.mark.parametrize("blocks", [2, 4, 8, 16])
@pytest.mark.parametrize("power", [1, 4])
def test_energy_is_no_worse_than_graph_cuts(blocks, power):
    count = 32
    images, partner = smooth_pixels(count, 32), torch.randperm(count, generator=seeded())
    energy = energy_of(images, partner, random_shares(count, blocks, 5, power), 0.37)
    ours, theirs = energy.of(solve(energy)), energy.of(swap_moves(energy))
    assert ours.mean() <= theirs.mean() + 1e-7
    assert ((ours - theirs) / theirs).max() < 1e-3


@pytest.mark.parametrize("blocks", [2, 4, 8])
def test_swapped_roles_turn_the_mask_round(blocks):
    images, shares = smooth_pixels(2, 32), random_shares(2, blocks)
    there = puzzle_masks(images, SWAP, shares, 0.3, std=(1.0,) * 3)
    back = puzzle_masks(images.flip(0), SWAP, shares.flip(0), 0.7, std=(1.0,) * 3)
    assert torch.equal(there, 1 - back)


def test_extreme_shares_pulls_and_ratios_are_solved():
    for lam, options in ((0.0, {}), (1.0, {}), (0.5, {"beta": 0.0}), (0.5, {"eta": 0.0}), (0.2, {"gamma": 3.0})):
        energy = energy_of(
            smooth_pixels(4, 32), torch.tensor([0, 2, 3, 1]), random_shares(4, 8, power=6), lam, **options
        )
        assert (energy.vertical >= 0).all()
        assert energy.of(solve_relaxed(energy, 40)).isfinite().all()
    energy = energy_of(smooth_pixels(4, 32), torch.tensor([1, 0, 3, 2]), random_shares(4, 8), 0.5, beta=0.0)
    torch.testing.assert_close(energy.of(solve_relaxed(energy, 40)), energy.unary.amin(0).sum((0, 1)))


# --- transport -------------------------------------------------------------------------------------------------------


def plain_transport(shares, visible, price):
    """Step 7 on whole matrices: N x N costs, proposals and acceptances."""
    count, blocks, _ = shares.shape
    places = blocks**2
    where = torch.stack(torch.meshgrid(torch.arange(blocks), torch.arange(blocks), indexing="ij"), -1).view(-1, 2)
    far = (where[:, None] - where).square().sum(-1) / (blocks - 1) ** 2
    cost = price * far - shares.view(count, places, 1) * visible.view(count, 1, places)
    for _ in range(blocks):
        proposed = torch.nn.functional.one_hot(cost.argmin(2), places).bool()
        lowest, proposer = cost.masked_fill(~proposed, float("inf")).min(1)
        accepted = (
            torch.nn.functional.one_hot(proposer, places).bool().transpose(1, 2) & (lowest < 0)[:, None] & proposed
        )
        cost = cost + (proposed & ~accepted)
    return torch.where(accepted.any(1), accepted.int().argmax(1), torch.arange(places))


def test_example_b():
    shares = torch.tensor([[[0.9, 0.05], [0.03, 0.02]]])
    visible = torch.tensor([[[False, True], [True, False]]])
    assert transport_blocks(shares, visible, 0.8).tolist() == [[0, 0, 2, 3]]


@pytest.mark.parametrize("blocks", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("price", [0.1, 0.8, 2.0])
def test_transport_equals_whole_matrices(blocks, price):
    for power in (0.3, 1, 3, 8):
        shares = random_shares(6, blocks, seed=blocks, power=power)
        visible = torch.rand(shares.shape, generator=seeded(7)) < 0.5
        assert torch.equal(transport_blocks(shares, visible, price), plain_transport(shares, visible, price))


@pytest.mark.parametrize("blocks", [2, 4, 8, 16])
def test_transport_sends_no_block_twice_and_saves_cost(blocks):
    shares = random_shares(20, blocks, power=2)
    visible = torch.rand(shares.shape, generator=seeded(1)) < 0.4
    source = transport_blocks(shares, visible, 0.8)
    assert blocks == 2 or (source != torch.arange(blocks**2)).any()
    for row, seen, share in zip(source, visible.flatten(1), shares.flatten(1), strict=True):
        senders = row[seen]
        assert senders.unique().numel() == senders.numel()
        assert share[senders].sum() >= share[seen].sum()


def test_dear_transport_stays():
    shares, visible = random_shares(50, 2, power=4), torch.rand(50, 2, 2, generator=seeded()) < 0.5
    assert torch.equal(transport_blocks(shares, visible, 1.01), torch.arange(4).expand(50, 4))


def test_nothing_moves_without_saliency_or_sight():
    shares = torch.zeros(3, 4, 4)
    shares[:, 1, 2] = 1
    for visible in (torch.zeros(3, 4, 4, dtype=torch.bool), torch.ones(3, 4, 4, dtype=torch.bool)):
        assert torch.equal(transport_blocks(shares, visible, 0.8), torch.arange(16).expand(3, 16))


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_transport_images_are_masked(memory_format, dtype):
    images = smooth_pixels(4, 8).to(dtype).to(memory_format=memory_format)
    partner = torch.tensor([1, 2, 3, 0])
    masks = torch.randint(3, (4, 1, 2, 2), generator=seeded()) / 2
    mixed = assemble(images, pairs(partner), masks)
    pixels = masks.repeat_interleave(4, 2).repeat_interleave(4, 3)
    expected = pixels * images.float() + (1 - pixels) * images[partner].float()
    torch.testing.assert_close(mixed, expected.to(dtype), rtol=1e-2, atol=1e-2 if dtype == torch.bfloat16 else 1e-6)
    assert mixed.is_contiguous(memory_format=memory_format)
    assert torch.equal(mixed[(pixels == 1).expand_as(mixed)], images[(pixels == 1).expand_as(mixed)])


@pytest.mark.parametrize("grid", [4, 8])
def test_with_transport_every_place_shows_a_block_of_its_image(grid):
    count, blocks, side = 5, 4, 16
    images = smooth_pixels(count, side)
    partner = torch.tensor([3, 4, 0, 2, 1])
    masks = torch.randint(3, (count, 1, blocks, blocks), generator=seeded()) / 2
    shares = random_shares(count, grid, power=4)
    mixed = assemble(images, pairs(partner), masks, torch.stack((shares, shares[partner])))
    fine = masks[:, 0].repeat_interleave(grid // blocks, 1).repeat_interleave(grid // blocks, 2)
    first = plain_transport(shares, fine > 0, 0.8)
    second = plain_transport(shares[partner], fine < 1, 0.8)
    step = side // grid
    for i, r, c in itertools.product(range(count), range(grid), range(grid)):

        def block(image, number):
            top, left = number // grid * step, number % grid * step
            return image[:, top : top + step, left : left + step]

        own = block(images[i], first[i, r * grid + c].item())
        other = block(images[partner[i]], second[i, r * grid + c].item())
        expected = fine[i, r, c] * own + (1 - fine[i, r, c]) * other
        torch.testing.assert_close(block(mixed[i], r * grid + c), expected)


def test_what_is_hidden_leaves_no_trace():
    images = smooth_pixels(2, 8)
    images[1, :, :4] = float("nan")
    masks = torch.tensor([[1.0, 1.0], [0.0, 0.5]]).expand(2, 1, 2, 2)
    mixed = assemble(images, pairs(SWAP), masks)
    assert torch.equal(mixed[0, :, :4], images[0, :, :4])
    assert torch.equal(mixed[0, :, 4:, :4], images[1, :, 4:, :4])


def test_own_partner_gives_the_image_back():
    images, own = smooth_pixels(4, 16), torch.arange(4)
    masks = puzzle_masks(images, own, random_shares(4, 8), 0.5, std=(1.0,) * 3)
    torch.testing.assert_close(assemble(images, pairs(own), masks), images)


def test_shares_sum_to_one_and_replace_what_is_unusable():
    saliency = torch.rand(4, 8, 8, generator=seeded())
    saliency[1] = 0
    saliency[2, 0, 0] = float("nan")
    shares = block_shares(saliency, 4)
    torch.testing.assert_close(shares.sum((1, 2)), torch.ones(4))
    assert (shares[1:3] == 1 / 16).all()
    assert shares[0, 0, 0].item() == pytest.approx((saliency[0, :2, :2].sum() / saliency[0].sum()).item())
    assert block_shares(saliency[:1], 16).shape == (1, 16, 16)


# --- plugin ----------------------------------------------------------------------------------------------------------


def network(seed=0):
    torch.manual_seed(seed)
    return TinyConvNet(5)


def batch(count=6, size=16):
    return smooth_pixels(count, size), torch.arange(count) % 5


def test_mask_lam_and_levels():
    mixer = mixcore.create_mixer("puzzlemix", num_classes=5, model=network(), max_log2_blocks=4)
    images, labels = batch(size=32)
    grids = set()
    for _ in range(25):
        mix = mixer(images, labels)
        grids.add(mix.masks.shape[-1])
        torch.testing.assert_close(mix.lam, mix.masks.mean((1, 2, 3)))
        assert set(mix.masks.unique().tolist()) <= {0.0, 0.5, 1.0}
    assert grids == {2, 4, 8, 16}


def test_only_grids_that_divide_the_image():
    mixer = mixcore.create_mixer("puzzlemix", num_classes=5, saliency="fine_grained")
    images, labels = batch(size=28)
    assert {mixer(images, labels).masks.shape[-1] for _ in range(12)} == {2, 4}
    with pytest.raises(OptionValueError, match="even sides"):
        mixer(*batch(size=15))


def test_shares_follow_the_drawn_ratio():
    images, labels = batch(64)
    lams = {}
    for alpha in (0.05, 200.0):
        mixer = mixcore.create_mixer("puzzlemix", num_classes=5, model=network(), alpha=alpha)
        lams[alpha] = torch.stack([mixer(images, labels).lam.mean() for _ in range(12)])
    assert lams[200.0].std() < 0.05 < 0.15 < lams[0.05].std()


def test_alpha_zero_leaves_the_batch():
    images, labels = batch()
    mix = mixcore.create_mixer("puzzlemix", num_classes=5, model=network(), alpha=0.0)(images, labels)
    assert torch.equal(mix.images, images)
    assert (mix.lam == 1).all()


def spots(count=6, size=32):
    """Dark noise with one small bright square in each image, somewhere."""
    images = 0.1 * torch.rand(count, 3, size, size, generator=seeded(1))
    for image, (top, left) in zip(
        images, torch.randint(size - 4, (count, 2), generator=seeded(2)).tolist(), strict=True
    ):
        image[:, top : top + 4, left : left + 4] = torch.rand(3, 4, 4, generator=seeded(top))
    return images


def test_finer_blocks_move_with_t_size():
    images, labels = spots(), torch.arange(6) % 5
    options = {"num_classes": 5, "saliency": "fine_grained", "max_log2_blocks": 1, "beta": 0.2}
    coarse, fine = (mixcore.create_mixer("puzzlemix", t_size=size, **options) for size in (-1, 3))
    pairs = [(coarse(images, labels), fine(images, labels)) for _ in range(10)]
    assert all(torch.equal(one.masks, other.masks) for one, other in pairs)
    assert any(not torch.equal(one.images, other.images) for one, other in pairs)
    assert PuzzleMix(t_size=3)._moved_blocks(32, 32, 2) == 16
    assert PuzzleMix(t_size=16)._moved_blocks(32, 32, 2) == 2
    assert PuzzleMix(t_size=4)._moved_blocks(32, 48, 2) == 2


def test_clean_term_comes_settled_and_scaled():
    images, labels = batch()
    model = network()
    step = mixcore.create_step(
        model, mix={"name": "puzzlemix", "clean_lam": 0.5}, num_classes=5, iterations=10, image_size=(16, 16)
    )
    loss, report = step(images, labels)
    loss.backward()
    with_clean = [p.grad.clone() for p in model.parameters()]
    again = network()
    clean = torch.nn.functional.cross_entropy(again(images), labels)
    torch.testing.assert_close(report.losses["puzzlemix/clean"], 0.5 * clean.detach())
    mixed = report.losses["mix"]
    torch.testing.assert_close(report.loss, mixed + 0.5 * clean.detach())
    rows = report.targets.dense(5)
    # the mixed view on the same network, in the same mode
    (0.5 * clean + torch.nn.functional.cross_entropy(again(report.mix.images), rows)).backward()
    for ours, plain in zip(with_clean, again.parameters(), strict=True):
        torch.testing.assert_close(ours, plain.grad, rtol=1e-3, atol=1e-5)


def test_adversarial_noise_stays_small_and_in_range():
    images, labels = batch(size=16)
    plain = {"num_classes": 5, "max_log2_blocks": 2, "transport": False, "seed": 3}
    noisy = mixcore.create_mixer("puzzlemix", model=network(), adv_p=1.0, adv_eps=8.0, **plain)(images, labels)
    pixels = noisy.masks.repeat_interleave(16 // noisy.masks.shape[-1], 2)
    pixels = pixels.repeat_interleave(16 // noisy.masks.shape[-1], 3)
    expected = pixels * images + (1 - pixels) * images[noisy.partner]
    changed = (noisy.images - expected).abs()
    assert 0 < changed.max() <= 8 / 255 + 1e-6
    assert noisy.images.min() >= 0
    assert noisy.images.max() <= 1


def test_noise_climbs_the_loss():
    from mixcore_plugin_puzzlemix.adversarial import add_noise, adversarial_noise, uniform_noise

    images, _ = batch()
    mean, std = (torch.tensor([value] * 3)[:, None, None] for value in (0.4, 0.25))
    normal = (images - mean) / std
    noise = uniform_noise(normal, mean, std, 10 / 255, seeded())
    assert noise.abs().max() <= 10 / 255
    assert 0.02 < noise.abs().mean() * 255 / 10 < 0.6
    gradient = torch.randn(images.shape, generator=seeded())
    full = adversarial_noise(noise, gradient, 10 / 255, 1.0)
    assert full.abs().max() <= 10 / 255
    assert ((full - noise) * gradient >= -1e-6).all()
    assert torch.allclose(adversarial_noise(noise, gradient, 10 / 255, 0.25), full / 4)
    pixels = add_noise(normal, full, mean, std) * std + mean
    torch.testing.assert_close(pixels, (images + full).clamp(0, 1), rtol=0, atol=1e-6)


def test_refusals_say_what_would_work():
    for options, text in (
        ({"saliency": "feature", "clean_lam": 1.0}, "input_grad"),
        ({"saliency": "spectral_residual", "adv_p": 0.1}, "input_grad"),
        ({"n_labels": 1}, "n_labels"),
        ({"t_size": 0}, "t_size"),
        ({"t_eps": 0.0}, "t_eps"),
        ({"std": [0.2, 0.0, 0.2]}, "std"),
    ):
        with pytest.raises(ConfigError, match=text):
            mixcore.create_mixer("puzzlemix", num_classes=5, model=network(), **options)
    mixer = mixcore.create_mixer("puzzlemix", num_classes=5, model=network(), std=[0.2])
    with pytest.raises(OptionValueError, match="one number per channel"):
        mixer(*batch())


def test_any_saliency_arranges_the_puzzle():
    tables = ("feature", {"name": "teacher_class_probability", "teacher": network()})
    masks = [
        mixcore.create_mixer("puzzlemix", num_classes=5, model=network(), saliency=table)(*batch(), iteration=2).masks
        for table in tables
    ]
    assert masks[0].shape == masks[1].shape
    assert not torch.equal(*masks)
