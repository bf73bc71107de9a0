"""Co-Mixup, everything but the saliency pass: time and energy beside the reference algorithm, in one process.

The reference is the published implementation's algorithm, restated plainly: group by group and output by output, one
alpha-beta-swap graph cut in C++ (gco-wrapper) for each output and sweep, with its test for stopping early. Both get the
same saliency, positions, priors and starts; rounds alternate, each with new draws. Times are medians of processor time,
which a busy machine disturbs least, the ratio is the median of the rounds' ratios.

Energies are those of the problems of single outputs that come up on the way of ours, solved by both. They are compared
with the exact minimum at n = 2 and 4 (dynamic programming over the labels of the last n blocks), at n = 8 with the best
that was found by either, or by ours begun again from both results until nothing improves.

    python benchmarks/comixup.py [--rounds 9] [--problems 160] [--blocks 2 4 8] [--threads 1]

Saliency is the input gradient of a small network, trained here for a few steps, on crops at 32 pixels of the two
photographs that scikit-learn ships.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Iterator

import attrs
import gco
import mixcore_plugin_comixup.group
import numpy
import torch
import torch.nn.functional as F
from mixcore_plugin_comixup import (
    PairCosts,
    assemble,
    compatibility,
    in_the_batch,
    input_costs,
    peaks,
    share_blocks,
    solve,
)
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from mixcore.api import block_shares, dirichlet

SIZE, GROUPS, INPUTS, SWEEPS = 32, 5, 20, 4
BETA, GAMMA, THRES, ETA, OMEGA, ALPHA = 0.32, 1.0, 0.83, 0.05, 0.001, 2.0
RESOLUTION = 1e6
"""Steps of cost per unit in the integers of the graph cuts."""


@attrs.frozen(eq=False)
class Drawn:
    """One batch and all its draws."""

    images: Tensor
    saliency: Tensor
    prior: Tensor  # [G,I]
    start: Tensor  # [G,I,n,n]


@attrs.frozen(eq=False)
class Problem:
    """The labels of one output: `unary` [n,n,L]."""

    unary: Tensor
    costs: PairCosts
    current: Tensor
    found: Tensor

    def energy(self, labels: Tensor) -> float:
        table = self.costs.table.double()
        own = self.unary.double().gather(2, labels[..., None]).sum()
        return float(own + table[labels[1:], labels[:-1]].sum() + table[labels[:, 1:], labels[:, :-1]].sum())


# --- images and saliency ---------------------------------------------------------------------------------------------


class Photographs:
    """Random crops of two photographs, and the gradient of a network that learnt which half of which they are from."""

    def __init__(self, steps: int = 150) -> None:
        stacked = torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images().images])
        self.pixels = F.interpolate(stacked.permute(0, 3, 1, 2).float() / 255, scale_factor=0.25, mode="area")
        torch.manual_seed(0)
        self.network = nn.Sequential(
            *(nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4)),
        )
        optimizer = torch.optim.Adam(self.network.parameters(), lr=2e-3)
        rng = torch.Generator().manual_seed(1)
        for _ in range(steps):
            images, labels = self.crops(32, rng)
            optimizer.zero_grad()
            F.cross_entropy(self.network(images - 0.5), labels).backward()
            optimizer.step()

    def crops(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        height, width = (side - SIZE for side in self.pixels.shape[2:])
        which, tops, lefts = (torch.randint(end, (count,), generator=rng).tolist() for end in (2, height, width))
        places = list(zip(which, tops, lefts, strict=True))
        crops = [self.pixels[photo, :, top : top + SIZE, left : left + SIZE] for photo, top, left in places]
        return torch.stack(crops), torch.tensor([2 * photo + (left > width // 2) for photo, _, left in places])

    def draw(self, blocks: int, rng: torch.Generator) -> Drawn:
        images, labels = self.crops(GROUPS * INPUTS, rng)
        leaf = (images - 0.5).requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(self.network(leaf), labels), leaf)
        prior = dirichlet(ALPHA, GROUPS, INPUTS, rng).float()
        start = torch.randint(INPUTS, (GROUPS, INPUTS, blocks, blocks), generator=rng)
        return Drawn(images, gradient.square().mean(1).sqrt(), prior, start)


# --- the two sides ---------------------------------------------------------------------------------------------------


def ours(drawn: Drawn) -> tuple[Tensor, Tensor]:
    """Mixed images, and the label weights [N,S]."""
    groups, blocks = (GROUPS, INPUTS), drawn.start.shape[-1]
    shares = block_shares(drawn.saliency, blocks).unflatten(0, groups)
    affinity = compatibility(peaks(drawn.saliency, SIZE, SIZE).unflatten(0, groups), OMEGA)
    options = {"beta": BETA, "gamma": GAMMA, "thres": THRES, "niter": SWEEPS}
    shown = share_blocks(input_costs(shares, drawn.prior, ETA), affinity, drawn.start, **options)
    rows, _, masks = in_the_batch(shown, 0, INPUTS)
    return assemble(drawn.images, rows), masks.mean((2, 3))


def reference(drawn: Drawn) -> tuple[Tensor, Tensor]:
    """The same, one group and one output at a time."""
    blocks = drawn.start.shape[-1]
    pooled = F.avg_pool2d(drawn.saliency[:, None], SIZE // blocks)[:, 0]
    shares = (pooled / pooled.sum((1, 2), keepdim=True)).unflatten(0, (GROUPS, INPUTS)).numpy()
    windows = F.avg_pool2d(drawn.saliency[:, None], 8, 1)[:, 0]
    best = windows.flatten(1).argmax(1)
    places = torch.stack((best // windows.shape[2], best % windows.shape[2]), 1).view(GROUPS, INPUTS, 2).numpy()
    masks = []
    for group in range(GROUPS):
        prior, start = drawn.prior[group].numpy(), drawn.start[group].numpy()
        masks.append(reference_group(shares[group], places[group], prior, start))
    mask = torch.from_numpy(numpy.stack(masks)).flatten(0, 1).movedim(3, 1)  # [N,I,n,n]
    pixels = mask.repeat_interleave(SIZE // blocks, 2).repeat_interleave(SIZE // blocks, 3)
    grouped = drawn.images.unflatten(0, (GROUPS, INPUTS))
    mixed = torch.einsum("goihw,gichw->gochw", pixels.unflatten(0, (GROUPS, INPUTS)), grouped).flatten(0, 1)
    return mixed, mask.mean((2, 3))


def reference_group(shares: numpy.ndarray, places: numpy.ndarray, prior: numpy.ndarray, start: numpy.ndarray):
    """Masks [O,n,n,I] of one group."""
    inputs, blocks = shares.shape[:2]
    cells = blocks**2
    b, c, t = BETA / cells, GAMMA / cells, THRES * cells
    unary = (-shares - (ETA / cells) * numpy.log(prior + 1e-8)[:, None, None]).transpose(1, 2, 0)
    distance = numpy.abs(places[:, None] - places).sum(2)
    affinity = (1 - OMEGA) * numpy.eye(inputs) + OMEGA * distance * inputs / distance.sum()
    masks = numpy.eye(inputs, dtype=numpy.float32)[start]
    add = numpy.zeros((inputs, inputs))
    total = masks.sum((0, 1, 2))
    before = None
    for sweep in range(SWEEPS):
        for output in range(inputs):
            total = total - masks[output].sum((0, 1))
            use = affinity @ total
            priced = unary + numpy.where(use > t, 2 * c * use, 0) + c * add[output]
            masks[output] = reference_output(priced, masks[output], b, halves=sweep > 0)
            total = total + masks[output].sum((0, 1))
        value = reference_objective(unary, masks, b, c)
        if before is not None and abs(before - value) / abs(value) < 1e-6:
            break
        before = value
        if sweep == SWEEPS - 2:
            used = [numpy.flatnonzero(mask.sum((0, 1)) > 0).tolist() for mask in masks]
            for one in range(inputs):
                for other in range(one + 1, inputs):
                    if used[one] == used[other] and len(used[one]) > 1:
                        add[one, used[one][0]] = add[other, used[one][1]] = 1
    return masks


def reference_output(priced: numpy.ndarray, mask: numpy.ndarray, b: float, *, halves: bool) -> numpy.ndarray:
    inputs = priced.shape[2]
    shows = numpy.eye(inputs, dtype=numpy.float32)
    counts = mask.sum((0, 1))
    used = numpy.sort(numpy.argsort(-counts, kind="stable")[: min(3, int((counts > 0).sum()))])
    pairs = [(u, v) for i, u in enumerate(used) for v in used[i + 1 :]] if halves else []
    pairwise = 4 * (1 - numpy.eye(inputs + len(pairs)))
    for number, (u, v) in enumerate(pairs, inputs):
        priced = numpy.concatenate((priced, (priced[..., [u]] + priced[..., [v]]) / 2 - 5e-4), 2)
        shows = numpy.concatenate((shows, (shows[[u]] + shows[[v]]) / 2))
        pairwise[number, [u, v]] = pairwise[[u, v], number] = 1
    return shows[swapped(priced, pairwise, b / 4)]


def swapped(unary: numpy.ndarray, pairwise: numpy.ndarray, pull: float) -> numpy.ndarray:
    """Labels [n,n] by alpha-beta swaps; `pairwise` holds whole numbers.

    The library's integers are small: costs count from the least of a block, and one as far above it as 1, which all
    four neighbours together cannot make up for, is cut to that.
    """
    blocks = len(unary)
    costs = numpy.minimum(unary - unary.min(2, keepdims=True), 1)
    costs = numpy.ascontiguousarray((costs * RESOLUTION).round().astype(numpy.int32))
    weight = round(pull * RESOLUTION)
    down, right = (numpy.full(shape, weight, numpy.int32) for shape in ((blocks - 1, blocks), (blocks, blocks - 1)))
    cut = gco.cut_grid_graph(costs, pairwise.astype(numpy.int32), down, right, n_iter=-1, algorithm="swap")
    return cut.reshape(blocks, blocks)


def reference_objective(unary: numpy.ndarray, masks: numpy.ndarray, b: float, c: float) -> float:
    counts = masks.sum((1, 2))
    cuts = (numpy.diff(masks, axis=1) ** 2).sum() + (numpy.diff(masks, axis=2) ** 2).sum()
    return float((unary * masks).sum() + b / 2 * cuts + c * ((counts.sum(0) ** 2).sum() - (counts**2).sum()))


# --- energies --------------------------------------------------------------------------------------------------------


def problems(photographs: Photographs, blocks: int, count: int) -> list[Problem]:
    """So many of the problems that come up in three batches, at random."""
    met: list[Problem] = []

    def recorded(unary: Tensor, costs: PairCosts, current: Tensor) -> Tensor:
        labels = solve(unary, costs, current)
        met.extend(Problem(u, costs, c, found) for u, c, found in zip(unary, current, labels, strict=True))
        return labels

    rng = torch.Generator().manual_seed(100 + blocks)
    mixcore_plugin_comixup.group.solve = recorded
    for _ in range(3):
        ours(photographs.draw(blocks, rng))
    mixcore_plugin_comixup.group.solve = solve
    return [met[i] for i in torch.randperm(len(met), generator=rng)[:count].tolist()]


def swap_labels(problem: Problem) -> Tensor:
    pairwise = (problem.costs.table / problem.costs.pull * 4).round().numpy()
    return torch.from_numpy(swapped(problem.unary.numpy(), pairwise, problem.costs.pull / 4)).long()


def least_energy(problem: Problem) -> float:
    """The exact minimum: the state is the labels of the last n blocks, and one of them is replaced at a time."""
    unary, table = problem.unary, problem.costs.table
    blocks, _, labels = unary.shape
    state = unary[0, 0]
    for column in range(1, blocks):
        state = state[..., None] + table + unary[0, column]
    for row in range(1, blocks):
        for column in range(blocks):
            state = problem.costs.least(state.movedim(column, -1).contiguous()) + unary[row, column]
            state = state.movedim(-1, column)
            if column:
                state = state + table.view(*(labels if axis in (column - 1, column) else 1 for axis in range(blocks)))
    return float(state.min())


def best_known(problem: Problem, *found: Tensor) -> float:
    """The least energy of what was found, and of what our solver makes of it."""
    best = min(problem.energy(labels) for labels in found)
    for labels in found:
        while True:
            again = solve(problem.unary[None], problem.costs, labels[None])[0]
            if problem.energy(again) >= problem.energy(labels) - 1e-7:
                break
            labels = again
        best = min(best, problem.energy(labels))
    return best


def gaps(photographs: Photographs, blocks: int, count: int) -> Iterator[tuple[str, Tensor]]:
    """Energies above the least, for each side."""
    rows = []
    for problem in problems(photographs, blocks, count):
        theirs = swap_labels(problem)
        least = least_energy(problem) if blocks <= 4 else best_known(problem, problem.found, theirs)
        rows.append([problem.energy(labels) - least for labels in (problem.found, theirs)])
    yield from zip(("ours", "reference"), torch.tensor(rows).clamp(min=0).unbind(1), strict=True)


# --- the comparison --------------------------------------------------------------------------------------------------


def milliseconds(side, drawn: Drawn) -> tuple[float, float]:
    """Processor time, and the mean number of sources of an output."""
    start = time.process_time()
    _, weights = side(drawn)
    return 1e3 * (time.process_time() - start), float((weights > 0).sum(1).float().mean())


def compare(photographs: Photographs, blocks: int, rounds: int) -> None:
    rng = torch.Generator().manual_seed(blocks)
    rows = []
    for number in range(rounds + 1):
        drawn = photographs.draw(blocks, rng)
        row = [milliseconds(side, drawn) for side in (ours, reference)]
        if number:  # the first round warms up
            rows.append(row)
    for name, one in zip(("ours", "reference"), zip(*rows, strict=True), strict=True):
        times, sources = zip(*one, strict=True)
        print(f"  {name:9} {statistics.median(times):7.1f} ms, {statistics.mean(sources):.2f} sources per image")
    ratios = [theirs[0] / mine[0] for mine, theirs in rows]
    print(f"  {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--problems", type=int, default=160, help="of which energies are compared, per grid")
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 4, 8], choices=[2, 4, 8, 16])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{processor()}; torch {torch.__version__}, {arguments.threads} threads; {arguments.rounds} rounds, medians")
    photographs = Photographs()
    for blocks in arguments.blocks:
        print(f"\nn = {blocks}: {GROUPS} groups of {INPUTS} at {SIZE} px, {SWEEPS} sweeps")
        compare(photographs, blocks, arguments.rounds)
        for name, gap in gaps(photographs, blocks, arguments.problems):
            optimal = 100 * (gap < 2e-6).float().mean()
            told = f"mean {gap.mean():.1e}, worst {gap.max():.1e}, {optimal:.1f} % optimal"
            print(f"  {name:9} energy above the least: {told}")


if __name__ == "__main__":
    main()
