"""Co-Mixup: the examples and invariants of its specification, its solver beside the reference's, and the contract."""

from __future__ import annotations

import itertools
from pathlib import Path

import gco
import mixcore_plugin_comixup.group
import numpy
import pytest
import torch
from mixcore_plugin_comixup import (
    CoMixup,
    PairCosts,
    assemble,
    compatibility,
    counts_of,
    duplicates,
    groups_of,
    in_the_batch,
    input_costs,
    labels_of,
    offer_halves,
    peaks,
    penalty,
    share_blocks,
    solve,
    solve_by_chains,
    solve_two_by_two,
)

import mixcore
from mixcore.api import OptionValueError, block_shares, dirichlet
from mixcore.errors import ConfigError
from mixcore.testing import MixerContract, TinyConvNet, run_example

CPU = torch.device("cpu")


class TestContract(MixerContract):
    plugin = "comixup"


@pytest.mark.slow
class TestContractInSmallGroups(MixerContract):
    plugin = "comixup"
    options = {"m_part": 2, "block_num": 2, "saliency": "fine_grained", "clean_lam": 0.0, "beta": 0.02}
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractSoftOnAnyGrid(MixerContract):
    plugin = "comixup"
    options = {"m_part": 3, "block_num": -1, "thres_type": "soft", "set_resolve": False, "niter": 1}
    left_out = ("two_processes",)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- the method, plainly ---------------------------------------------------------------------------------------------


def plain_labels(unary, mask, halves):
    """Step 6d for one output: unaries [n,n,L], pair costs [L,L] in units of the pull, what each label shows [L,I]."""
    inputs = unary.shape[2]
    shows = numpy.eye(inputs)
    counts = mask.sum((0, 1))
    used = sorted(sorted(numpy.flatnonzero(counts > 0), key=lambda k: (-counts[k], k))[:3])
    pairs = list(itertools.combinations(used, 2)) if halves else []
    costs = 1 - numpy.eye(inputs + len(pairs))
    for number, (u, v) in enumerate(pairs, inputs):
        unary = numpy.concatenate((unary, (unary[..., [u]] + unary[..., [v]]) / 2 - 5e-4), 2)
        shows = numpy.concatenate((shows, (shows[[u]] + shows[[v]]) / 2))
        costs[number, [u, v]] = costs[[u, v], number] = 0.25
    return unary, costs, shows


def plain_energy(unary, costs, pull, labels):
    """Step 6e: unary [n,n,L], costs [L,L], labels [n,n]."""
    rows, columns = numpy.indices(labels.shape)
    cuts = costs[labels[1:], labels[:-1]].sum() + costs[labels[:, 1:], labels[:, :-1]].sum()
    return unary[rows, columns, labels].sum() + pull * cuts


def plain_objective(unary, masks, b, c):
    """F of step 6: unary [n,n,I], masks [O,n,n,I]."""
    counts = masks.sum((1, 2))
    cuts = (numpy.diff(masks, axis=1) ** 2).sum() + (numpy.diff(masks, axis=2) ** 2).sum()
    return (unary * masks).sum() + b / 2 * cuts + c * ((counts.sum(0) ** 2).sum() - (counts**2).sum())


def swap_moves(unary, costs, pull):
    """Labels [n,n] by alpha-beta swaps in C++ on whole numbers.

    The library's integers are small: costs count from the least of a block and end 1 above it, where all four
    neighbours together cannot make up for it.
    """
    blocks, scale = len(unary), 1e6
    whole = numpy.minimum(unary - unary.min(2, keepdims=True), 1) * scale
    whole = numpy.ascontiguousarray(whole.round().astype(numpy.int32))
    pairwise, weight = (4 * costs).round().astype(numpy.int32), round(pull * scale / 4)
    down, right = (numpy.full(shape, weight, numpy.int32) for shape in ((blocks - 1, blocks), (blocks, blocks - 1)))
    cut = gco.cut_grid_graph(whole, pairwise, down, right, n_iter=-1, algorithm="swap")
    return cut.reshape(blocks, blocks)


def least_energy(unary, costs, pull):
    """The exact minimum by dynamic programming: the state is the labels of the last n blocks."""
    table = (pull * torch.from_numpy(costs)).float()
    unary = torch.from_numpy(unary).float()
    blocks, _, labels = unary.shape
    kin = [label for label in range(labels) if (costs[label] == 0.25).any()]

    def replaced(state):
        """min over the last digit of state + table, for each digit in its place."""
        found = torch.minimum(state, state.amin(-1, keepdim=True) + pull)
        for label in kin:
            near = (state[..., kin] + table[kin, label]).amin(-1)
            found[..., label] = torch.minimum(found[..., label], near)
        return found

    state = unary[0, 0]
    for column in range(1, blocks):
        state = state[..., None] + table + unary[0, column]
    for row in range(1, blocks):
        for column in range(blocks):
            state = (replaced(state.movedim(column, -1)) + unary[row, column]).movedim(-1, column)
            if column:
                shape = [labels if axis in (column - 1, column) else 1 for axis in range(blocks)]
                state = state + table.view(shape)
    return float(state.min())


# --- settings --------------------------------------------------------------------------------------------------------


def drawn(groups=2, inputs=6, blocks=4, seed=0, power=2.0):
    """Costs of blocks, compatibility and a start of groups whose saliency is peaked and coarse."""
    rng = seeded(seed)
    saliency = (-torch.rand(groups * inputs, 8, 8, generator=rng).log()) ** power
    saliency = torch.nn.functional.interpolate(saliency[:, None], size=32, mode="bilinear")[:, 0]
    shares = block_shares(saliency, blocks).unflatten(0, (groups, inputs))
    affinity = compatibility(peaks(saliency, 32, 32).unflatten(0, (groups, inputs)), 0.001)
    unary = input_costs(shares, dirichlet(2.0, groups, inputs, rng).float(), 0.05)
    return unary, affinity, torch.randint(inputs, (groups, inputs, blocks, blocks), generator=rng)


def met_problems(monkeypatch, *args, **options):
    """(unary, costs, current, found) of every solve of a whole optimisation, one group each."""
    met = []

    def recorded(unary, costs, current):
        found = solve(unary, costs, current)
        met.extend((u, costs, c, f) for u, c, f in zip(unary, current, found, strict=True))
        return found

    monkeypatch.setattr(mixcore_plugin_comixup.group, "solve", recorded)
    share_blocks(*args, **options)
    return met


def energy_of(problem, labels):
    unary, costs = problem[:2]
    return plain_energy(unary.double().numpy(), costs.table.double().numpy(), 1.0, labels.numpy())


def reduced(problem):
    """Without the labels that are blocked: unary [n,n,L], costs [L,L] in units of the pull, as the reference has it."""
    unary, costs = problem[:2]
    kept = (unary < 500).all(1).all(0)
    return unary[..., kept].numpy(), (costs.table[kept][:, kept] / costs.pull).double().numpy()


EXAMPLE = torch.tensor([[[0.7, 0.1], [0.1, 0.1]], [[0.1, 0.1], [0.1, 0.7]]])


def example_masks(choice):
    return numpy.eye(2)[numpy.array(choice).reshape(2, 2, 2)]


# --- the examples ----------------------------------------------------------------------------------------------------


def test_example_a():
    unary = input_costs(EXAMPLE[None], torch.ones(1, 2), 0.0)
    torch.testing.assert_close(unary, -EXAMPLE[None].permute(0, 2, 3, 1))
    plain = unary[0].double().numpy()
    choices = list(itertools.product(range(2), repeat=8))
    values = {choice: plain_objective(plain, example_masks(choice), 0.08, 0.25) for choice in choices}
    ordered = sorted(values, key=values.get)
    assert [values[choice] for choice in ordered[:3]] == pytest.approx([-2.0, -2.0, -0.44])
    assert set(ordered[:2]) == {(0,) * 4 + (1,) * 4, (1,) * 4 + (0,) * 4}
    # all starts at once, each a group of its own; the threshold is 0 and nothing else is alike, as in F
    starts = torch.tensor(choices).view(256, 2, 2, 2)
    shown = share_blocks(unary.expand(256, -1, -1, -1), torch.eye(2).expand(256, -1, -1), starts, thres=0.0, niter=1)
    assert torch.equal(shown[:, :, 0], shown[:, :, 1]), "no halves in the first sweep"
    for start, found in zip(choices, map(tuple, shown[:, :, 0].flatten(1).tolist()), strict=True):
        first = min(values[one + start[4:]] for one in itertools.product(range(2), repeat=4))
        assert values[found[:4] + start[4:]] == pytest.approx(first)
        second = min(values[found[:4] + other] for other in itertools.product(range(2), repeat=4))
        assert values[found] == pytest.approx(second)
        assert values[found] <= values[start] + 1e-6
    assert values[tuple(shown[0, :, 0].flatten().tolist())] == pytest.approx(-2.0), "from two outputs of input 1"


def test_example_b():
    unary = input_costs(EXAMPLE[None], torch.ones(1, 2), 0.0)
    start = torch.randint(2, (1, 2, 2, 2), generator=seeded())
    shown = share_blocks(unary, torch.eye(2)[None], start, gamma=0.0, niter=1)[0, :, 0]
    masks = numpy.eye(2)[shown.numpy()]
    assert plain_objective(unary[0].double().numpy(), masks, 0.08, 0.0) == pytest.approx(-2.88)
    least = min(
        plain_objective(unary[0].double().numpy(), example_masks(c), 0.08, 0.0)
        for c in itertools.product(range(2), repeat=8)
    )
    assert least == pytest.approx(-2.88)
    for output in shown:
        assert (output[0, 0], output[1, 1]) == (0, 1)
        cuts = (output[0] != output[1]).sum() + (output[:, 0] != output[:, 1]).sum()
        assert cuts == 2


def test_example_c():
    unary = torch.zeros(1, 2, 2, 4)
    unary[0, 0, 0] = torch.tensor([-0.2, 0.3, -0.1, 0.4])
    counts = torch.tensor([[2.0, 0.0, 2.0, 0.0]])
    costs = PairCosts.with_halves(4, 0.08, CPU)
    found, offered = offer_halves(unary, counts, costs)
    names = [tuple(sorted(pair)) for pair in offered[0].t().tolist()]
    half = names.index((0, 2))
    assert found[0, 0, 0, half].item() == pytest.approx(-0.1505)
    for name, label in ((name, label) for label, name in enumerate(names) if found[0, 0, 0, label] < 500):
        expected = 0.0 if label == half else 0.02 if name in ((0, 0), (2, 2)) else 0.08
        assert costs.table[half, label].item() == pytest.approx(expected)
    assert sorted(name for label, name in enumerate(names) if found[0, 0, 0, label] < 500) == [
        (0, 0),
        (0, 2),
        (1, 1),
        (2, 2),
        (3, 3),
    ]


# --- labels and what they cost ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [2, 3, 7])
@pytest.mark.parametrize("variety", [1, 2, 3, 7])
def test_labels_are_those_of_the_specification(inputs, variety):
    rng = seeded(inputs)
    for _ in range(10):
        unary = torch.rand(3, 4, 4, inputs, generator=rng)
        current = torch.randint(min(variety, inputs), (3, 2, 4, 4), generator=rng)
        current[0, 1] = current[0, 0]
        counts = counts_of(current, inputs)
        costs = PairCosts.with_halves(inputs, 0.02, CPU)
        found, offered = offer_halves(unary, counts, costs)
        for group in range(3):
            masks = (numpy.eye(inputs)[current[group, 0]] + numpy.eye(inputs)[current[group, 1]]) / 2
            assert masks.sum((0, 1)).tolist() == counts[group].tolist()
            expected, pairwise, shows = plain_labels(unary[group].double().numpy(), masks, halves=True)
            mine = numpy.eye(inputs)[offered[group]].mean(0)
            usable = numpy.flatnonzero(found[group, 0, 0].numpy() < 500)
            order = [next(label for label in usable if (mine[label] == row).all()) for row in shows]
            assert sorted(order) == usable.tolist()
            numpy.testing.assert_allclose(found[group].numpy()[..., order], expected, atol=1e-6)
            numpy.testing.assert_allclose(costs.table.numpy()[order][:, order], 0.02 * pairwise, atol=1e-8)


def test_the_table_and_the_least_over_it_agree():
    for costs in (PairCosts.without_halves(5, 0.3, CPU), *(PairCosts.with_halves(i, 0.3, CPU) for i in (2, 3, 8))):
        assert torch.equal(costs.table, costs.table.t())
        values = torch.rand(50, len(costs.table), generator=seeded())
        torch.testing.assert_close(costs.least(values), (values[:, :, None] + costs.table).amin(1))


def test_what_is_shown_has_a_label():
    inputs, costs = 5, PairCosts.with_halves(5, 0.02, CPU)
    current = torch.tensor([[[[3, 3], [1, 4]], [[3, 1], [1, 4]]], [[[0, 2], [2, 0]], [[0, 2], [2, 3]]]])
    _, offered = offer_halves(torch.zeros(2, 2, 2, inputs), counts_of(current, inputs), costs)
    labels = labels_of(current, offered, costs)
    told = offered.gather(2, labels.flatten(1)[:, None].expand(-1, 2, -1)).view_as(current)
    assert torch.equal(told.sort(1).values, current.sort(1).values)
    # six inputs are shown: the half of the two least used has no label, and is told by the first
    current = torch.tensor([[[0, 0, 0], [1, 1, 2], [2, 4, 0]], [[0, 0, 0], [1, 1, 2], [2, 3, 0]]])[None]
    _, offered = offer_halves(torch.zeros(1, 3, 3, inputs), counts_of(current, inputs), costs)
    assert offered[0, :, labels_of(current, offered, costs)[0, 2, 1]].tolist() == [4, 4]


def test_penalties_of_over_use():
    affinity = torch.tensor([[[0.9, 0.2], [0.2, 0.9]]])
    others = torch.tensor([[10.0, 1.0]])
    torch.testing.assert_close(penalty(others, affinity, 3.0, soft=False), torch.tensor([[9.2, 0.0]]))
    torch.testing.assert_close(penalty(others, affinity, 2.0, soft=True), torch.tensor([[7.2, 0.9]]))


def test_duplicates_are_made_dearer():
    counts = torch.zeros(5, 1, 4)
    for output, used in enumerate(([1, 3], [0], [1, 3], [0], [1, 2, 3])):
        counts[output, 0, used] = 1
    expected = torch.zeros(5, 1, 4)
    expected[0, 0, 1] = expected[2, 0, 3] = 1
    assert torch.equal(duplicates(counts), expected)
    counts[4] = counts[0]
    expected[2, 0, 1] = expected[4, 0, 3] = 1  # the second is the earlier one of the third
    assert torch.equal(duplicates(counts), expected)


def test_peaks_and_compatibility():
    saliency = torch.zeros(4, 32, 32)
    for image, (row, column) in zip(saliency, ((10, 3), (10, 20), (17, 3), (10, 3)), strict=True):
        image[row : row + 8, column : column + 8] = 1
    places = peaks(saliency, 32, 32)
    assert places.tolist() == [[10, 3], [10, 20], [17, 3], [10, 3]]
    distances = torch.tensor([[0, 17, 7, 0], [17, 0, 24, 17], [7, 24, 0, 7], [0, 17, 7, 0]])
    expected = 0.75 * torch.eye(4) + 0.25 * 4 * distances / distances.sum()
    torch.testing.assert_close(compatibility(places[None], 0.25)[0], expected)
    assert torch.equal(compatibility(places[None, [0, 3]], 0.25)[0], torch.eye(2))
    large = torch.zeros(1, 128, 128)
    large[0, 41:46, 100:104] = 1
    assert peaks(large, 128, 128).tolist() == [[5, 12]]
    assert peaks(large[:, ::8, ::8], 128, 128).shape == (1, 2)


# --- the solver ------------------------------------------------------------------------------------------------------


def test_two_by_two_blocks_are_solved_exactly():
    costs = PairCosts.with_halves(2, 0.3, CPU)
    unary = torch.rand(20, 2, 2, len(costs.table), generator=seeded())
    found = solve_two_by_two(unary, costs)
    for problem in zip(unary, itertools.repeat(costs), found, strict=False):
        least = min(energy_of(problem, torch.tensor(c).view(2, 2)) for c in itertools.product(range(5), repeat=4))
        assert energy_of(problem, problem[2]) == pytest.approx(least, abs=1e-6)


@pytest.mark.parametrize("blocks", [2, 3, 4, 5, 8])
def test_no_label_alone_and_no_labels_of_before_are_better(blocks, monkeypatch):
    for problem in met_problems(monkeypatch, *drawn(blocks=blocks)):
        unary, _, current, found = problem
        energy = energy_of(problem, found)
        assert energy <= energy_of(problem, current) + 1e-6
        for label in range(unary.shape[2]):
            assert energy <= energy_of(problem, torch.full_like(found, label)) + 1e-6


def test_labels_of_before_are_a_start_of_their_own():
    costs = PairCosts.without_halves(20, 0.3, CPU)
    unary = torch.rand(6, 8, 8, 20, generator=seeded())

    def energies(labels):
        return torch.tensor([energy_of((u, costs), found) for u, found in zip(unary, labels, strict=True)])

    found = solve_by_chains(unary, costs, torch.zeros(6, 8, 8, dtype=torch.long))
    better = found
    for _ in range(4):
        better = solve_by_chains(unary, costs, better)
    assert (energies(better) < energies(found) - 1e-3).any(), "begun again from its own result it goes on"
    assert (energies(solve_by_chains(unary, costs, better)) <= energies(better) + 1e-5).all()


def test_without_a_pull_every_block_is_labelled_by_itself():
    for costs in (PairCosts.without_halves(7, 0.0, CPU), PairCosts.with_halves(7, 0.0, CPU)):
        for side in (2, 3, 4, 8):
            unary = torch.rand(3, side, side, len(costs.table), generator=seeded())
            assert torch.equal(solve(unary, costs, torch.zeros(3, side, side, dtype=torch.long)), unary.argmin(3))


@pytest.mark.parametrize("blocks", [3, 4])
def test_a_line_is_the_best_beside_the_others(blocks):
    """Two lines of a grid: chains alternate until nothing improves, and then no change of one line does."""
    costs = PairCosts.with_halves(2, 0.1, CPU)
    unary = torch.rand(4, blocks, blocks, len(costs.table), generator=seeded(3))
    unary[..., 3:] = 1e3  # what has a label already
    found = torch.zeros(4, blocks, blocks, dtype=torch.long)
    for _ in range(5):
        found = solve_by_chains(unary, costs, found)
    for group, labels in enumerate(found):
        problem = (unary[group], costs)
        energy = energy_of(problem, labels)
        for line, choice in itertools.product(range(blocks), itertools.product(range(3), repeat=blocks)):
            other = labels.clone()
            other[line] = torch.tensor(choice)
            assert energy <= energy_of(problem, other) + 1e-6


def gaps_of(problems, least):
    """Energies above the least: of ours and of swap moves."""
    rows = []
    for problem in problems:
        unary, pairwise = reduced(problem)
        pull = problem[1].pull
        theirs = plain_energy(unary.astype(float), pairwise, pull, swap_moves(unary, pairwise, pull))
        rows.append((energy_of(problem, problem[3]), theirs, least(problem, unary, pairwise, pull)))
    ours, theirs, lowest = torch.tensor(rows).unbind(1)
    return (ours - lowest).clamp(min=0), (theirs - lowest).clamp(min=0)


@pytest.mark.parametrize(("blocks", "inputs"), [(2, 20), (4, 12)])
def test_energies_beside_the_reference_and_the_exact_minimum(blocks, inputs, monkeypatch):
    met = met_problems(monkeypatch, *drawn(groups=3, inputs=inputs, blocks=blocks))
    problems = [met[i] for i in torch.randperm(len(met), generator=seeded())[: 60 if blocks == 4 else 150]]
    ours, theirs = gaps_of(problems, lambda _, *problem: least_energy(*problem))
    assert ours.mean() < theirs.mean() / 4
    assert ours.max() <= theirs.max()
    assert (ours < 2e-6).float().mean() >= (0.9 if blocks == 4 else 1.0)
    assert (theirs < 2e-6).float().mean() < (ours < 2e-6).float().mean()


def test_energies_beside_the_reference_on_eight_blocks(monkeypatch):
    met = met_problems(monkeypatch, *drawn(groups=3, inputs=12, blocks=8))
    problems = [met[i] for i in torch.randperm(len(met), generator=seeded())[:100]]
    ours, theirs = gaps_of(problems, lambda problem, *_: energy_of(problem, problem[3]))
    assert (ours == 0).all()
    met = torch.tensor([energy_of(problem, problem[3]) for problem in problems])
    swaps = []
    for problem in problems:
        unary, pairwise = reduced(problem)
        pull = problem[1].pull
        swaps.append(plain_energy(unary.astype(float), pairwise, pull, swap_moves(unary, pairwise, pull)))
    assert met.mean() < torch.tensor(swaps).mean()
    assert theirs.max() > 0


def test_the_exact_minimum_is_that_of_enumeration():
    rng = seeded(5)
    for _ in range(3):
        unary = (0.2 * torch.rand(3, 3, 2, generator=rng)).double().numpy()
        mask = numpy.eye(2)[torch.randint(2, (3, 3), generator=rng).numpy()]
        unary, pairwise, _ = plain_labels(unary, mask, halves=True)
        every = itertools.product(range(3), repeat=9)
        least = min(plain_energy(unary, pairwise, 0.05, numpy.array(c).reshape(3, 3)) for c in every)
        assert least_energy(unary, pairwise, 0.05) == pytest.approx(least, abs=1e-6)


# --- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resolve", [True, False])
def test_problems_follow_the_reference_algorithm(resolve, monkeypatch):
    """The whole optimisation again in plain loops, with our labels taken over, gives every unary cost."""
    inputs, blocks = 5, 4
    unary, affinity, start = drawn(groups=1, inputs=inputs, blocks=blocks, seed=1)
    options = {"thres": 0.3, "gamma": 0.05, "niter": 3, "set_resolve": resolve}
    met = iter(met_problems(monkeypatch, unary, affinity, start, **options))
    b, c, t = 0.32 / 16, 0.05 / 16, 0.3 * 16
    costs, alike = unary[0].double().numpy(), affinity[0].double().numpy()
    masks = numpy.eye(inputs)[start[0].numpy()]
    total, add, resolved = masks.sum((0, 1, 2)), numpy.zeros((inputs, inputs)), 0
    for sweep in range(3):
        for output in range(inputs):
            total = total - masks[output].sum((0, 1))
            use = alike @ total
            priced = costs + numpy.where(use > t, 2 * c * use, 0) + c * add[output]
            priced, pairwise, shows = plain_labels(priced, masks[output], halves=sweep > 0)
            problem = next(met)
            mine, ours = reduced(problem)
            assert problem[1].pull == pytest.approx(b)
            assert mine.shape == priced.shape
            order = [
                min(range(len(shows)), key=lambda k: abs(mine[..., j] - priced[..., k]).sum())
                for j in range(len(shows))
            ]
            assert sorted(order) == list(range(len(shows)))
            numpy.testing.assert_allclose(mine, priced[..., order], atol=1e-5)
            numpy.testing.assert_allclose(ours, pairwise[order][:, order], atol=1e-6)
            kept = (problem[0] < 500).all(1).all(0).cumsum(0) - 1
            masks[output] = shows[order][kept[problem[3]].numpy()]
            total = total + masks[output].sum((0, 1))
        if resolve and sweep == 1:
            used = [numpy.flatnonzero(mask.sum((0, 1))).tolist() for mask in masks]
            for one, other in itertools.combinations(range(inputs), 2):
                if used[one] == used[other] and len(used[one]) > 1:
                    add[one, used[one][0]] = add[other, used[one][1]] = 1
                    resolved += 1
    assert resolved or not resolve, "nothing was tested of duplicates"


def test_groups_do_not_see_each_other():
    unary, affinity, start = drawn(groups=3, inputs=5)
    together = share_blocks(unary, affinity, start)
    for group in range(3):
        alone = share_blocks(unary[group : group + 1], affinity[group : group + 1], start[group : group + 1])
        assert torch.equal(together[group], alone[0])


def test_what_is_kept_from_spreading():
    """Without a price of likeness the best input wins everywhere; with it no input is in most outputs."""
    unary, affinity, start = drawn(groups=1, inputs=8, blocks=4)
    unary[..., 0] -= 0.02

    def outputs_with(**options):
        shown = share_blocks(unary, affinity, start, **options)[0]
        return (shown == 0).any(3).any(2).any(1).sum()

    assert outputs_with(gamma=0.0) == 8
    assert outputs_with() <= 3


# --- images ----------------------------------------------------------------------------------------------------------


def test_rows_sources_and_masks_tell_the_same():
    images = torch.rand(11, 3, 16, 24, generator=seeded())
    parts = groups_of(11, 4)
    assert parts == [(0, 2, 4), (8, 1, 3)]
    assert groups_of(3, 4) == [(0, 1, 3)]
    assert groups_of(8, 4) == [(0, 2, 4)]
    for first, groups, inputs in parts:
        shown = torch.randint(inputs, (groups, inputs, 2, 4, 4), generator=seeded(first))
        shown[:, 0, 1] = shown[:, 0, 0]
        rows, sources, masks = in_the_batch(shown, first, 4)
        mixed = assemble(images, rows)
        assert sources.tolist()[0][:2] == [first, first + 1]
        assert torch.equal(sources[:, 0], torch.arange(first, first + groups * inputs))
        assert set(masks.unique().tolist()) <= {0.0, 0.5, 1.0}
        assert (masks.sum(1) == 1).all()
        assert (
            (sources - first).div(inputs, rounding_mode="floor")
            == torch.arange(groups).repeat_interleave(inputs)[:, None]
        ).all()
        pixels = masks.repeat_interleave(4, 2).repeat_interleave(6, 3)
        expected = (pixels[:, :, None] * images[sources]).sum(1)
        torch.testing.assert_close(mixed, expected)
        pixel = [(row, column) for row in range(16) for column in range(24)]
        alone = [images[first + shown[0, 0, 0, row // 4, column // 6], :, row, column] for row, column in pixel]
        assert torch.equal(mixed[0], torch.stack(alone, 1).view(3, 16, 24)), "bits are kept where one image shows alone"


# --- plugin ----------------------------------------------------------------------------------------------------------


def network(seed=0):
    torch.manual_seed(seed)
    return TinyConvNet(5)


def spots(count=12, size=32):
    """Dark noise with one small bright square in each image, somewhere."""
    images = 0.05 * torch.rand(count, 3, size, size, generator=seeded(1))
    for image, (top, left) in zip(
        images, torch.randint(size - 6, (count, 2), generator=seeded(2)).tolist(), strict=True
    ):
        image[:, top : top + 6, left : left + 6] = torch.rand(3, 6, 6, generator=seeded(top))
    return images, torch.arange(count) % 5


def mixer(**options):
    return mixcore.create_mixer("comixup", num_classes=5, **{"saliency": "fine_grained", "clean_lam": 0.0, **options})


def test_masks_weights_and_images_agree():
    images, labels = spots()
    several = 0
    for iteration in range(5):
        mix = mixer(m_part=5, beta=0.1)(images, labels, iteration=iteration)
        masks = mix.masks_on(32, 32)
        assert mix.masks.shape == (12, 4, 4, 4)
        assert set(masks.unique().tolist()) <= {0.0, 0.5, 1.0}
        torch.testing.assert_close(masks.mean((2, 3)), mix.weights)
        torch.testing.assert_close(mix.weights.sum(1), torch.ones(12))
        groups = torch.tensor([0] * 5 + [1] * 5 + [2] * 2)
        assert (groups[mix.sources] == groups[:, None]).all()
        assert torch.equal(mix.sources[:, 0], torch.arange(12))
        assert (mix.weights[10:, 2:] == 0).all()
        torch.testing.assert_close(mix.images, (masks[:, :, None] * images[mix.sources]).sum(1))
        several = max(several, int((mix.weights > 0).sum(1).max()))
    assert several >= 3


def test_groups_of_one_are_left_as_they_are():
    images, labels = spots(5)
    mix = mixer(m_part=1)(images, labels)
    assert torch.equal(mix.images, images)
    assert (mix.lam == 1).all()
    assert (mix.masks == 1).all()
    mix = mixer(m_part=2)(images, labels)
    assert torch.equal(mix.images[4], images[4])
    assert mix.weights[4].tolist() == [1, 0]


def test_a_group_is_mixed_alike_beside_others():
    images, labels = spots(8)
    others = images.clone()
    others[4:] = images[4:].flip(0, 3)
    one, other = (mixer(m_part=4, beta=0.1)(batch, labels, iteration=3) for batch in (images, others))
    assert torch.equal(one.images[:4], other.images[:4])
    assert torch.equal(one.weights[:4], other.weights[:4])
    assert not torch.equal(one.weights[4:], other.weights[4:])


def test_every_option_changes_the_mix():
    images, labels = spots(16)
    plain = mixer(m_part=16, beta=0.1)(images, labels, iteration=2)
    for options in (
        {"block_num": 2},
        {"mixup_alpha": 0.05},
        {"beta": 0.3},
        {"gamma": 0.0},
        {"thres": 0.1},
        {"thres_type": "soft"},
        {"eta": 2.0},
        {"omega": 0.9},
        {"niter": 1},
        {"m_part": 8},
        {"saliency": "spectral_residual"},
    ):
        mix = mixer(**{"m_part": 16, "beta": 0.1, **options})(images, labels, iteration=2)
        assert not torch.equal(mix.images, plain.images), options


def test_set_resolve_parts_duplicates():
    """Where two outputs want the same two inputs, the last sweep tells them apart."""
    shares = torch.tensor([[3.0, 3, 1, 1], [1.0, 1, 3, 3]]).view(1, 2, 1, 4).expand(-1, -1, 4, -1) / 32
    unary = input_costs(shares, torch.ones(1, 2), 0.0)
    start = torch.randint(2, (1, 2, 4, 4), generator=seeded())
    plain, resolved = (
        share_blocks(unary, torch.eye(2)[None], start, thres=99.0, set_resolve=on)[0] for on in (False, True)
    )
    assert torch.equal(plain[0], plain[1])
    assert len(plain[0].unique()) == 2
    assert (resolved[0] == 1).all(), "its first input became dearer"
    assert (resolved[1] == 0).all(), "its second input became dearer"


def test_a_random_grid_divides_the_image():
    images, labels = spots(4, 24)
    sizes = {mixer(block_num=-1)(images, labels, iteration=i).masks.shape[-1] for i in range(20)}
    assert sizes == {2, 4, 8}


def test_the_clean_term_comes_settled_and_scaled():
    images, labels = spots(6, 16)
    model, again = network(), network()
    step = mixcore.create_step(
        model, mix={"name": "comixup", "clean_lam": 0.5}, num_classes=5, iterations=10, image_size=(16, 16)
    )
    loss, report = step(images, labels)
    clean = torch.nn.functional.cross_entropy(again(images), labels)
    torch.testing.assert_close(report.losses["comixup/clean"], 0.5 * clean.detach())
    torch.testing.assert_close(report.loss, report.losses["mix"] + 0.5 * clean.detach())
    loss.backward()
    rows = report.targets.dense(5)
    (0.5 * clean + torch.nn.functional.cross_entropy(again(report.mix.images), rows)).backward()
    for ours, plain in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-3, atol=1e-5)


def test_saliency_is_the_input_gradient_with_or_without_the_clean_term():
    images, labels = spots(8, 16)
    model = network().eval()  # without BatchNorm's batch both passes see the same network
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    mixes = [
        mixcore.create_mixer("comixup", num_classes=5, model=model, clean_lam=clean, beta=0.01)(images, labels)
        for clean in (0.0, 1.0)
    ]
    assert torch.equal(mixes[0].images, mixes[1].images)
    assert set(mixes[0].losses) == set()
    assert set(mixes[1].losses) == {"clean"}


def test_refusals_say_what_would_work():
    for options, text in (
        ({"saliency": "feature", "clean_lam": 1.0}, 'leave it at "input_grad", or set clean_lam = 0'),
        ({"block_num": 1}, "2 to 64 blocks a side, or -1"),
        ({"block_num": 0}, "block_num"),
        ({"m_part": 0}, "m_part"),
        ({"mixup_alpha": 0.0}, "mixup_alpha"),
        ({"thres_type": "firm"}, "thres_type"),
        ({"omega": 1.5}, "omega"),
        ({"niter": 0}, "niter"),
        ({"beta": -0.1}, "beta"),
        ({"gamma": float("inf")}, "gamma"),
    ):
        with pytest.raises(ConfigError, match=text):
            mixcore.create_mixer("comixup", num_classes=5, model=network(), **options)
    with pytest.raises(OptionValueError, match="block_num = 4 does not divide 30x32; set block_num to a divisor"):
        mixer()(torch.rand(4, 3, 30, 32), torch.arange(4))
    with pytest.raises(OptionValueError, match="2 does not divide 15x15"):
        mixer(block_num=-1)(torch.rand(4, 3, 15, 15), torch.arange(4))


def test_defaults_are_those_of_the_specification():
    plugin = CoMixup()
    found = (plugin.m_part, plugin.block_num, plugin.mixup_alpha, plugin.beta, plugin.gamma, plugin.thres)
    assert found == (20, 4, 2.0, 0.32, 1.0, 0.83)
    found = (plugin.thres_type, plugin.eta, plugin.omega, plugin.niter, plugin.set_resolve, plugin.clean_lam)
    assert found == ("hard", 0.05, 0.001, 4, True, 1.0)
    assert plugin.saliency.name == "input_grad"


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["targets"].shape == (8, 100)
    torch.testing.assert_close(names["targets"].sum(1), torch.ones(8))
