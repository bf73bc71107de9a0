"""PuzzleMix, everything but the saliency pass: time and energy beside the reference algorithm, in one process.

The reference is the published implementation's algorithm, restated plainly: one alpha-beta-swap graph cut in C++ per
sample (gco-wrapper), then transport on whole cost matrices and a matrix product that moves the blocks, in its cheapest
form. Both get the same images, saliency, partners and ratio; rounds alternate, each with new draws; times are medians
of processor time, which a busy machine disturbs least. Energies are compared, image by image, with the exact minimum,
a maximum flow (scipy) on a graph of one node per block and level.

    python benchmarks/puzzlemix.py [--root FOLDER] [--rounds 7] [--sizes 32 224] [--exact 3] [--threads 1]

Natural images are crops of the two photographs that scikit-learn ships, or with --root the CIFAR images of a folder of
Parquet files (32 pixels only), with the input gradient of a small network trained here for a few steps. Random ones are
noise, with independent exponential saliency in every block.
"""

from __future__ import annotations

import argparse
import functools
import platform
import statistics
import time
from collections.abc import Callable

import gco
import numpy
import scipy.sparse
import torch
import torch.nn.functional as F
from mixcore_plugin_puzzlemix import Energy, assemble, boundaries, prior_costs, puzzle_energy, puzzle_masks
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from mixcore.api import beta, block_shares
from mixcore_plugins_builtin.data.parquet import Parquet

BATCH = {32: 100, 224: 32}
BLOCKS = (2, 4, 8, 16)
LABELS, BETA, GAMMA, ETA, PRICE, CELL = 3, 1.2, 0.5, 0.2, 0.8, 4
ONES = (1.0, 1.0, 1.0)

Batch = tuple[Tensor, Tensor]  # images [N,3,H,W] in [0,1], saliency [N,H,W]


# --- images and saliency ---------------------------------------------------------------------------------------------


def random_batch(size: int, rng: torch.Generator) -> Batch:
    """Noise, with exponential saliency that is independent in each block of the finest grid."""
    count, finest = BATCH[size], max(BLOCKS)
    saliency = -torch.rand(count, finest, finest, generator=rng).log()
    repeated = saliency.repeat_interleave(size // finest, 1).repeat_interleave(size // finest, 2)
    return torch.rand(count, 3, size, size, generator=rng), repeated


class Photographs:
    """Random crops of two photographs; the label says which half of which photograph."""

    classes = 4

    def __init__(self, size: int) -> None:
        self.size = size
        stacked = torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images().images])
        pixels = stacked.permute(0, 3, 1, 2).float() / 255
        self.pixels = pixels if size > 64 else F.interpolate(pixels, scale_factor=0.25, mode="area")

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        height, width = self.pixels.shape[-2:]
        which = torch.randint(2, (count,), generator=rng).tolist()
        tops = torch.randint(height - self.size + 1, (count,), generator=rng).tolist()
        lefts = torch.randint(width - self.size + 1, (count,), generator=rng).tolist()
        places = list(zip(which, tops, lefts, strict=True))
        crops = [self.pixels[photo, :, top : top + self.size, left : left + self.size] for photo, top, left in places]
        halves = [2 * photo + (left > (width - self.size) // 2) for photo, _, left in places]
        return torch.stack(crops), torch.tensor(halves)


class Cifar:
    """CIFAR images and their classes."""

    def __init__(self, root: str) -> None:
        data = Parquet(root=root).build_data()
        self.classes, self.images, self.labels = data.task.num_classes, data.train.images, data.train.labels

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(self.labels), (count,), generator=rng)
        return self.images[rows].float() / 255, self.labels[rows]


def trained_network(source: Photographs | Cifar, size: int, steps: int) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 5, stride=max(1, size // 64), padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, source.classes),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    rng = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images, labels = source.draw(32, rng)
        optimizer.zero_grad()
        F.cross_entropy(network(images - 0.5), labels).backward()
        optimizer.step()
    return network


def natural_batch(source: Photographs | Cifar, network: nn.Module, size: int, rng: torch.Generator) -> Batch:
    images, labels = source.draw(BATCH[size], rng)
    leaf = (images - 0.5).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(network(leaf), labels), leaf)
    return images, gradient.square().mean(1).sqrt()


# --- the two sides ---------------------------------------------------------------------------------------------------


def ours(images: Tensor, saliency: Tensor, partner: Tensor, lam: float, blocks: int) -> tuple[Tensor, Tensor, float]:
    """Mixed images, masks [N,n,n], and the seconds until the masks were there."""
    start = time.process_time()
    shares = block_shares(saliency, blocks)
    masks = puzzle_masks(images, partner, shares, lam, std=ONES)
    seconds = time.process_time() - start
    masks.mean((1, 2, 3))
    rows = torch.stack((torch.arange(len(images)), partner), 1)
    return assemble(images, rows, masks, torch.stack((shares, shares[partner])), PRICE), masks[:, 0], seconds


def reference(
    images: Tensor, saliency: Tensor, partner: Tensor, lam: float, blocks: int
) -> tuple[Tensor, Tensor, float]:
    """The same by one graph cut per sample and transport with whole matrices."""
    start = time.process_time()
    side = images.shape[-1] // blocks
    pooled = F.avg_pool2d(saliency[:, None], side)[:, 0]
    shares = pooled / pooled.sum((1, 2), keepdim=True)
    masks = cut_masks(images, shares, partner, lam, blocks)
    seconds = time.process_time() - start
    own = move_by_product(images, transport_plan(shares, masks > 0), blocks)
    other = move_by_product(images[partner], transport_plan(shares[partner], masks < 1), blocks)
    pixels = masks.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, None]
    masks.mean((1, 2))
    return pixels * own + (1 - pixels) * other, masks, seconds


def cut_masks(images: Tensor, shares: Tensor, partner: Tensor, lam: float, blocks: int) -> Tensor:
    side = images.shape[-1] // blocks
    cell = max(q for q in range(1, min(side, CELL) + 1) if side % q == 0)
    cells = F.avg_pool2d(images, cell)
    k = side // cell
    pull = BETA / (16 * blocks)

    def data_terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        last, first = a[:, :, k - 1 : -1 : k], b[:, :, k::k]
        down = (last - first).abs().mean(1).unflatten(2, (blocks, k)).mean(3)
        last, first = a[:, :, :, k - 1 : -1 : k], b[:, :, :, k::k]
        right = (last - first).abs().mean(1).unflatten(1, (blocks, k)).mean(2)
        return pull * GAMMA * down, pull * GAMMA * right

    theirs = cells[partner]
    terms = [data_terms(a, b) for a, b in ((cells, cells), (cells, theirs), (theirs, cells), (theirs, theirs))]
    keep, drop = shares[partner].clone(), shares.clone()
    for axis, (p11, p10, p01, p00) in enumerate(zip(*terms, strict=True)):
        upper, lower = (F.pad(p11 + p10, _pad(axis, 1)), F.pad(p11 + p01, _pad(axis, 0)))
        keep += (upper + lower) / 2
        drop += (F.pad(p01 + p00, _pad(axis, 1)) + F.pad(p10 + p00, _pad(axis, 0))) / 2
    down, right = (pull + (p10 + p01 - p11 - p00) / 2 for p11, p10, p01, p00 in zip(*terms, strict=True))

    top, scale = LABELS - 1, 1000 * blocks**2
    level = numpy.arange(LABELS, dtype=numpy.float32) / top
    distance = (level[:, None] - level) ** 2
    costs = [(m, ETA / blocks**2 * c) for m, c in zip(level.tolist(), prior_costs(lam, LABELS), strict=True)]
    unary = torch.stack([(1 - m) * drop + m * keep + c for m, c in costs], 3)
    unary, down, right = ((scale * x).int().numpy() for x in (unary, down, right))
    cuts = [
        gco.cut_grid_graph(unary[i], distance, down[i], right[i], n_iter=-1, algorithm="swap")
        for i in range(len(images))
    ]
    return torch.from_numpy(numpy.stack(cuts)).view(-1, blocks, blocks).float() / top


def _pad(axis: int, at_end: int) -> tuple[int, ...]:
    before_after = (0, 1) if at_end else (1, 0)
    return (0, 0, *before_after) if axis == 0 else before_after


def transport_plan(shares: Tensor, visible: Tensor) -> Tensor:
    """[N, places, blocks] 0/1: which block comes to each place."""
    count, blocks, _ = shares.shape
    places = blocks**2
    where = torch.stack(torch.meshgrid(torch.arange(blocks), torch.arange(blocks), indexing="ij"), -1).view(-1, 2)
    far = (where[:, None] - where).square().sum(-1).float() / (blocks - 1) ** 2
    cost = PRICE * far - shares.view(count, places, 1) * visible.view(count, 1, places)
    for _ in range(blocks):
        proposed = torch.zeros_like(cost).scatter_(2, cost.argmin(2, keepdim=True), 1)
        lowest, proposer = (proposed * cost).min(1, keepdim=True)
        accepted = torch.zeros_like(cost).scatter_(1, proposer, (lowest < 0).float())
        cost += proposed.sub_(accepted)
    plan = accepted.transpose(1, 2)
    return plan + torch.diag_embed(1 - plan.sum(2))


def move_by_product(images: Tensor, plan: Tensor, blocks: int) -> Tensor:
    side = images.shape[-1] // blocks
    patches = F.unfold(images, side, stride=side).transpose(1, 2)
    return F.fold((plan @ patches).transpose(1, 2), images.shape[-2:], side, stride=side)


# --- exact energies --------------------------------------------------------------------------------------------------


def energy_of(images: Tensor, saliency: Tensor, partner: Tensor, lam: float, blocks: int) -> Energy:
    """The energy in float64."""
    shares = block_shares(saliency, blocks)
    down, right = boundaries(images, partner, blocks, ONES, CELL)
    energy = puzzle_energy(shares, partner, down, right, prior_costs(lam, LABELS), beta=BETA, gamma=GAMMA, eta=ETA)
    return Energy(unary=energy.unary.double(), vertical=energy.vertical.double(), horizontal=energy.horizontal.double())


def exact_labels(energy: Energy) -> Tensor:
    """Labels [n,n,N] of least energy: a binary variable [label > a] per block and level, a minimum cut per sample."""
    return torch.stack([_cut_exactly(energy, sample) for sample in range(energy.unary.shape[3])], 2)


def _cut_exactly(energy: Energy, sample: int) -> Tensor:
    labels, blocks = energy.unary.shape[:2]
    top, places = labels - 1, blocks**2
    number = numpy.arange(places).reshape(blocks, blocks)
    first = numpy.concatenate((number[:-1].ravel(), number[:, :-1].ravel()))
    second = numpy.concatenate((number[1:].ravel(), number[:, 1:].ravel()))
    pull = torch.cat((energy.vertical[..., sample].flatten(), energy.horizontal[..., sample].flatten())).numpy()

    # R (l - l')² = R (l² - K l) + R (l'² - K l') + R · sum over levels a, b of |[l > a] - [l' > b]|
    around = numpy.bincount(first, pull, places) + numpy.bincount(second, pull, places)
    rise = energy.unary[..., sample].diff(dim=0).view(top, places).T.numpy()
    rise = rise + around[:, None] * (2 * numpy.arange(top) + 1 - top)
    node = 2 + numpy.arange(places * top).reshape(places, top)
    levels = [(a, b) for a in range(top) for b in range(top)]
    tails = [numpy.zeros(places * top, int), node.ravel(), node[:, 1:].ravel()]
    heads = [node.ravel(), numpy.ones(places * top, int), node[:, :-1].ravel()]
    limits = [numpy.maximum(-rise, 0).ravel(), numpy.maximum(rise, 0).ravel(), numpy.full(places * (top - 1), 1e3)]
    for a, b in levels:
        tails += [node[first, a], node[second, b]]
        heads += [node[second, b], node[first, a]]
        limits += [pull, pull]
    scale = 1e9 / max(limits[0].sum(), limits[1].sum())
    capacities = numpy.minimum(numpy.concatenate(limits) * scale, 2e9).round().astype(numpy.int32)
    size = 2 + places * top
    graph = scipy.sparse.csr_matrix((capacities, (numpy.concatenate(tails), numpy.concatenate(heads))), (size, size))
    residual = graph - maximum_flow(graph, 0, 1).flow
    residual.data = numpy.maximum(residual.data, 0)
    residual.eliminate_zeros()
    reached = numpy.zeros(size, bool)
    reached[breadth_first_order(residual, 0, return_predecessors=False)] = True
    return torch.from_numpy(reached[node].sum(1)).view(blocks, blocks)


# --- the comparison --------------------------------------------------------------------------------------------------


class Row:
    """What was measured of one kind of images on one grid."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[tuple[float, float]]] = {"ours": [], "reference": []}
        self.gaps: dict[str, list[Tensor]] = {"ours": [], "reference": []}
        self.plain: dict[str, list[Tensor]] = {"ours": [], "reference": []}

    def median(self, side: str) -> float:
        return statistics.median(whole for whole, _ in self.seconds[side])

    def told(self, side: str) -> str:
        until_masks = statistics.median(part for _, part in self.seconds[side])
        text = f"{1e3 * self.median(side):8.1f} ms (masks {1e3 * until_masks:6.1f})"
        if self.gaps[side]:
            gaps = torch.cat(self.gaps[side]).clamp(min=0)
            text += f"  gap {gaps.mean():7.1e} / {gaps.max():7.1e}, {100 * (gaps < 1e-7).float().mean():5.1f} % exact"
        return f"{text}  E {torch.cat(self.plain[side]).mean():.6f}"


def measure(draw: Callable[[torch.Generator], Batch], blocks: int, rounds: int, exact: int) -> Row:
    row, rng = Row(), torch.Generator().manual_seed(blocks)
    for number in range(rounds + 1):  # the first round warms up
        images, saliency = draw(rng)
        partner, lam = torch.randperm(len(images), generator=rng), beta(1.0, rng)
        energy = energy_of(images, saliency, partner, lam, blocks)
        least = energy.of(exact_labels(energy)) if 0 < number <= exact else None
        for side, function in (("ours", ours), ("reference", reference)):
            start = time.process_time()
            _, masks, until_masks = function(images, saliency, partner, lam, blocks)
            seconds = time.process_time() - start
            if number == 0:
                continue
            found = energy.of((masks * (LABELS - 1)).round().movedim(0, 2))
            row.seconds[side].append((seconds, until_masks))
            row.plain[side].append(found)
            if least is not None:
                row.gaps[side].append((found - least) / least)
    return row


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", help="folder with CIFAR as train-*.parquet and test-*.parquet, for 32 pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--exact", type=int, default=3, help="rounds whose energies are compared with the exact ones")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 224], choices=list(BATCH))
    parser.add_argument("--steps", type=int, default=150, help="training steps of the network that gives saliency")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{processor()}; torch {torch.__version__}, {arguments.threads} threads; {arguments.rounds} rounds, medians")
    print("gap: (E - least E) / least E, mean / worst per image; E: mean energy over all rounds")
    for size in arguments.sizes:
        source = Cifar(arguments.root) if arguments.root and size == 32 else Photographs(size)
        network = trained_network(source, size, arguments.steps)
        kinds: dict[str, Callable[[torch.Generator], Batch]] = {
            f"natural ({type(source).__name__.lower()})": functools.partial(natural_batch, source, network, size),
            "random": functools.partial(random_batch, size),
        }
        for kind, draw in kinds.items():
            print(f"\n{kind}, batch {BATCH[size]} at {size} px")
            rows = {blocks: measure(draw, blocks, arguments.rounds, arguments.exact) for blocks in BLOCKS}
            for blocks, row in rows.items():
                for side in ("ours", "reference"):
                    print(f"  n = {blocks:2}  {side:9} {row.told(side)}")
            sums = {side: sum(row.median(side) for row in rows.values()) for side in ("ours", "reference")}
            print(
                f"  all four  ours {1e3 * sums['ours']:.1f} ms, reference {1e3 * sums['reference']:.1f} ms: "
                f"{sums['reference'] / sums['ours']:.1f} times as fast"
            )


if __name__ == "__main__":
    main()
