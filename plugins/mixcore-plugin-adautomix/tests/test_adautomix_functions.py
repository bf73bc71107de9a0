"""AdAutoMix: the block, the mixing and the objective, against the numbers of the method, in float64 where exact."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mixcore_plugin_adautomix import (
    AdAutoMixBlock,
    SourcesDraw,
    combine,
    draw_sources,
    generator_objective,
    shares_of,
    similarity,
)
from torch import Tensor

FEATURES = torch.tensor([[[1, 0, 0, 1], [0, 1, 1, 0]], [[2, 0, 1, 0], [0, 2, 1, 0]]], dtype=torch.float64).view(
    2, 2, 2, 2
)
CONSTANT = torch.tensor([0.5, 1.5], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 2, 2)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"lam_concat": True},
    {"batch_norm": True},
    {"lam_concat": True, "batch_norm": True},
]


def rows(*sources: list[int]) -> tuple[Tensor, ...]:
    return tuple(map(torch.tensor, sources))


def call(lams: tuple[float, ...], *sources: list[int], **rest: Any) -> SourcesDraw:
    return SourcesDraw(lams=lams, sources=rows(*sources), **rest)


def random_block(channels: int, seed: int = 0, **options: Any) -> AdAutoMixBlock:
    made = AdAutoMixBlock(channels, **options).double()
    rng = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    return made


def masks(made: AdAutoMixBlock, features: Tensor, told: SourcesDraw, size: tuple[int, int] | None = None) -> Tensor:
    size = (features.shape[-2], features.shape[-1]) if size is None else size
    return made.shares(made.logits(made.project(features), told), size, told.upsample)


def example_block() -> AdAutoMixBlock:
    made = AdAutoMixBlock(2).double()
    for part, weight in ((made.query, [1, 0]), (made.key, [0, 1]), (made.value, [1, -1])):
        part.weight.data = torch.tensor(weight, dtype=torch.float64).view(1, 2, 1, 1)
    return made


def close(found: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=found.dtype), rtol=0, atol=5.1e-7)


# --- the block -------------------------------------------------------------------------------------------------------


def test_the_exact_example_of_two() -> None:
    found = masks(example_block(), FEATURES, call((0.3, 0.7), [0, 1], [1, 0]))
    close(found[0, 0], [0.522977, 0.5, 0.613516, 0.338582])
    close(found[0, 1], [1 - value for value in (0.522977, 0.5, 0.613516, 0.338582)])


def test_the_exact_example_of_three() -> None:
    found = masks(example_block(), torch.cat((FEATURES, CONSTANT)), call((0.2, 0.3, 0.5), [0], [1], [2]))
    close(found[0, 0], [0.380115, 0.422319, 0.500544, 0.272320])
    close(found[0, 1], [0.346715, 0.422319, 0.315317, 0.531977])
    close(found[0, 2], [0.273170, 0.155362, 0.184140, 0.195703])


def test_parameters_are_as_many_as_the_method_says() -> None:
    def count(channels: int, **options: Any) -> int:
        return sum(parameter.numel() for parameter in AdAutoMixBlock(channels, **options).parameters())

    assert count(256) == 66049
    assert count(256, lam_concat=True) == 2 * (257 * 128 + 128) + 257 + 1
    assert count(16, batch_norm=True) == 2 * (16 * 8 + 2 * 8) + 16 + 1, "no bias beside BatchNorm's own"


def test_masks_start_at_equal_shares() -> None:
    torch.manual_seed(0)
    found = masks(AdAutoMixBlock(256), torch.randn(4, 256, 8, 8).relu(), call((0.2, 0.3, 0.5), *3 * [[3, 1, 0, 2]]))
    torch.testing.assert_close(found, torch.full_like(found, 1 / 3), rtol=0, atol=0.01)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_masks_are_shares_and_a_block_of_zeros_gives_equal_ones(options: dict[str, Any]) -> None:
    made, told = random_block(2, **options), call((0.2, 0.3, 0.5), [0, 1], [1, 0], [1, 1], upsample="bilinear")
    found = masks(made, FEATURES, told, (4, 6))
    assert found.shape == (2, 3, 4, 6)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(2, 4, 6, dtype=torch.float64), rtol=0, atol=1e-12)
    assert found.std() > 0.01
    for parameter in made.parameters():
        parameter.data.zero_()
    assert (masks(made, FEATURES, told) == 1 / 3).all()


def test_the_block_sees_ratios_only_where_it_is_told_them() -> None:
    low, high = (call(lams, [0, 1], [1, 0], [1, 1]) for lams in ((0.1, 0.1, 0.8), (0.6, 0.3, 0.1)))
    for lam_concat in (False, True):
        made = random_block(2, lam_concat=lam_concat)
        assert torch.equal(masks(made, FEATURES, low), masks(made, FEATURES, high)) != lam_concat


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("samples", [2, 3, 4])
def test_another_order_of_the_images_is_another_order_of_the_masks(samples: int, options: dict[str, Any]) -> None:
    features = torch.randn(4, 6, 2, 3, dtype=torch.float64)
    made, lams = random_block(6, **options), (0.1, 0.2, 0.3, 0.4)[:samples]
    sources = [torch.randperm(4).tolist() for _ in range(samples)]
    found = masks(made, features, call(lams, *sources))
    for order in itertools.permutations(range(samples)):
        turned = call(tuple(lams[i] for i in order), *(sources[i] for i in order))
        torch.testing.assert_close(masks(made, features, turned), found[:, list(order)])


def test_equal_images_of_equal_ratio_are_mixed_to_themselves() -> None:
    image, features = torch.randn(1, 3, 4, 6), torch.randn(1, 4, 2, 3, dtype=torch.float64)
    told = call((1 / 3, 1 / 3, 1 / 3), [0], [0], [0], upsample="bilinear")
    found = masks(random_block(4, lam_concat=True), features, told, (4, 6))
    torch.testing.assert_close(found, torch.full_like(found, 1 / 3))
    torch.testing.assert_close(combine(told.rows(image), found.split(1, 1)), image)


def plain_masks(made: AdAutoMixBlock, features: Tensor, told: SourcesDraw, size: tuple[int, int]) -> Tensor:
    """The block as it is specified: every image on its own, all pairs of scores."""
    queries, keys, values = [], [], []
    for lam, source in zip(told.lams, told.sources, strict=True):
        seen = features[source]
        if made.lam_concat:
            seen = torch.cat((seen, torch.full_like(seen[:, :1], lam)), 1)
        queries.append(F.relu(made.query_norm(made.query(seen))).flatten(2))
        keys.append(F.relu(made.key_norm(made.key(seen))).flatten(2))
        values.append(made.value(seen))
    logits = []
    for i, query in enumerate(queries):
        others = [torch.einsum("ncp,ncs->nps", query, key) for j, key in enumerate(keys) if j != i]
        weights = (torch.stack(others).sum(0) / math.sqrt(query.shape[1])).softmax(-1)
        logits.append(torch.einsum("nps,ncs->ncp", weights, values[i].flatten(2)).view_as(values[i]))
    smooth = {"align_corners": False} if told.upsample == "bilinear" else {}
    return F.interpolate(torch.cat(logits, 1), size, mode=told.upsample, **smooth).softmax(1)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("samples", [2, 3, 4])
def test_the_shared_projection_gives_masks_and_gradients_of_the_plain_block(
    samples: int, options: dict[str, Any]
) -> None:
    features = torch.randn(4, 6, 2, 3, dtype=torch.float64)
    made = random_block(6, **options)
    lams = shares_of([0.3, 0.9, 0.2, 0.5][:samples])
    learns, serves = (
        call(lams, *(torch.randperm(4).tolist() for _ in range(samples)), upsample=mode)
        for mode in ("bilinear", "nearest")
    )
    learning, serving = made.masks(made.project(features), learns, serves, (4, 6))
    expected = [plain_masks(made, features, told, (4, 6)) for told in (learns, serves)]
    torch.testing.assert_close(learning, expected[0])
    torch.testing.assert_close(serving, expected[1].detach())
    assert not serving.requires_grad
    names = [name for name, _ in made.named_parameters()]
    gradients = [torch.autograd.grad(m.square().sum(), list(made.parameters())) for m in (learning, expected[0])]
    for name, found, wanted in zip(names, *gradients, strict=True):
        torch.testing.assert_close(found, wanted, msg=lambda m, n=name: f"{n}: {m}")
        if name == "value.bias":  # it shifts the logits of all images alike
            assert found.abs().max() < 1e-9
        elif name not in ("query.weight", "key.weight") or not options:
            assert found.abs().max() > 1e-9, name


def test_in_train_mode_batch_norm_hides_the_ratio_from_queries_and_keys() -> None:
    features = torch.randn(4, 6, 2, 3, dtype=torch.float64)
    made = random_block(6, lam_concat=True, batch_norm=True)
    made.value.weight.data[:, -1] = 0
    told = [call(lams, [0, 1, 2, 3], [3, 2, 1, 0]) for lams in ((0.1, 0.9), (0.5, 0.5))]
    torch.testing.assert_close(*(masks(made, features, one) for one in told))
    made.value.weight.data[:, -1] = 1
    far = [masks(made, features, one)[:, 0].logit() for one in told]
    torch.testing.assert_close(far[0] - far[1], torch.full_like(far[0], (0.1 - 0.9) - (0.5 - 0.5)))


# --- ratios and sources ----------------------------------------------------------------------------------------------


def draws(samples: int, seed: int = 0, alpha: float = 1.0, count: int = 5) -> tuple[SourcesDraw, SourcesDraw]:
    rng = torch.Generator().manual_seed(seed)
    return draw_sources(count, samples, alpha, ("bilinear",), rng, torch.device("cpu"))


@pytest.mark.parametrize("samples", [3, 4])
def test_more_than_two_share_their_ratios_and_not_their_permutations(samples: int) -> None:
    fixed = 0
    for seed in range(40):
        learns, serves = draws(samples, seed)
        assert learns.lams == serves.lams
        assert sum(learns.lams) == pytest.approx(1, abs=1e-12)
        permutations = [tuple(source.tolist()) for draw in (learns, serves) for source in draw.sources]
        assert len(permutations) == 2 * samples
        assert all(sorted(one) == [0, 1, 2, 3, 4] for one in permutations)
        assert len(set(permutations)) > samples, "independent of each other"
        fixed += (0, 1, 2, 3, 4) in permutations
    assert fixed < 20, "no source is the image itself by rule"


def test_ratios_are_betas_over_their_sum_and_no_dirichlet() -> None:
    """The largest of three uniform draws over their sum has the mean 3 ln(3/2) - ln 2; of Dirichlet(1,1,1) 11/18."""
    largest = [max(draws(3, seed, count=1)[0].lams) for seed in range(1500)]
    assert math.fsum(largest) / len(largest) == pytest.approx(3 * math.log(1.5) - math.log(2), abs=0.012)


def test_of_two_one_is_the_image_itself_and_each_has_its_ratio() -> None:
    learns, serves = draws(2)
    assert learns.lams != serves.lams
    for draw in (learns, serves):
        assert draw.lams[0] + draw.lams[1] == 1
        assert draw.sources[0].tolist() == [0, 1, 2, 3, 4]
    assert learns.sources[1].tolist() != serves.sources[1].tolist()


def test_draws_of_nothing_are_equal_shares() -> None:
    assert shares_of([0.0, 0.0, 0.0, 0.0]) == (0.25, 0.25, 0.25, 0.25)
    assert shares_of([0.0, 0.5, 0.5]) == (0.0, 0.5, 0.5)


def test_a_share_of_one_keeps_the_bits() -> None:
    images = torch.randn(4, 3, 4, 6)
    told = call((0.0, 1.0, 0.0), [0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 1, 1])
    assert torch.equal(combine(told.rows(images), told.lams), images.flip(0))
    whole = torch.zeros(4, 3, 4, 6)
    whole[:, 1] = 1
    assert torch.equal(combine(told.rows(images), whole.split(1, 1)), images.flip(0))


# --- the objective ---------------------------------------------------------------------------------------------------


def test_similarity_is_the_weighted_mean_of_cosines() -> None:
    logits, clean = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    sources, lams = rows([1, 2, 0], [0, 2, 1]), (0.25, 0.75)
    expected = 0.0
    for row in range(3):
        for source, lam in zip(sources, lams, strict=True):
            a, b = logits[row], clean[source[row]]
            expected += lam * (a @ b / (a.norm() * b.norm())).item() / 3
    assert similarity(logits, clean, sources, lams).item() == pytest.approx(expected, abs=1e-12)
    assert similarity(clean, clean, rows([0, 1, 2]), (1.0,)).item() == pytest.approx(1)


def test_the_adversarial_loss() -> None:
    loss, cosine = torch.tensor(2.0), torch.tensor(0.5)
    assert generator_objective(loss, cosine, 0.3, 1).item() == pytest.approx(-0.3 * 2 + 0.7 * 0.5)
    assert generator_objective(loss, cosine, 0.3, -1).item() == pytest.approx(-0.3 * 2 - 0.7 * 0.5)
