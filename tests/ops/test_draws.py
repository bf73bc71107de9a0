"""Beta and Dirichlet draws against theory, partners as permutations."""

from __future__ import annotations

import math

import pytest
import torch

from mixcore.api import beta, beta_per_sample, dirichlet, draw_partners, happens


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 2.0])
def test_moments_of_beta(alpha):
    draws = beta_per_sample(alpha, 200_000, generator())
    assert draws.dtype == torch.float64
    assert draws.min() >= 0
    assert draws.max() <= 1
    assert draws.mean() == pytest.approx(0.5, abs=0.003)
    assert draws.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.01)


def test_beta_of_one_is_uniform():
    draws = beta_per_sample(1.0, 20_000, generator(1)).sort().values
    steps = torch.arange(1, 20_001) / 20_000
    distance = torch.maximum((steps - draws).abs().max(), (draws - steps + 1 / 20_000).abs().max())
    assert distance < 1.63 / math.sqrt(20_000)  # Kolmogorov-Smirnov at 1 %


def test_the_python_route_has_the_same_law():
    rng = generator(2)
    draws = torch.tensor([beta(0.2, rng) for _ in range(20_000)], dtype=torch.float64)
    assert draws.mean() == pytest.approx(0.5, abs=0.012)
    assert draws.var() == pytest.approx(1 / (4 * 1.4), rel=0.02)


@pytest.mark.parametrize(("first", "second"), [(2.0, 8.0), (0.3, 1.0), (1.0, 0.2)])
def test_beta_of_two_parameters(first, second):
    rng = generator(6)
    draws = torch.tensor([beta(first, rng, second) for _ in range(10_000)], dtype=torch.float64)
    total = first + second
    assert draws.mean() == pytest.approx(first / total, abs=0.01)
    assert draws.var() == pytest.approx(first * second / (total**2 * (total + 1)), rel=0.06)
    assert beta(first, generator(7), first) == beta(first, generator(7))
    with pytest.raises(ValueError, match="found 0"):
        beta(first, rng, 0)


def test_both_routes_make_the_same_number_of_the_same_draws():
    assert beta(0.3, generator(5)) == pytest.approx(beta_per_sample(0.3, 1, generator(5)).item(), rel=1e-12)


def test_no_mass_is_lost_where_alpha_is_tiny():
    draws = beta_per_sample(1e-6, 2_000, generator(3))
    assert set(draws.tolist()) == {0.0, 1.0}
    rng = generator(4)
    assert {beta(1e-6, rng) for _ in range(100)} == {0.0, 1.0}


@pytest.mark.parametrize(("alpha", "size"), [(0.1, 3), (2.0, 3), (2.0, 20)])
def test_moments_of_dirichlet(alpha, size):
    draws = dirichlet(alpha, 40_000, size, generator())
    assert draws.shape == (40_000, size)
    assert draws.dtype == torch.float64
    assert draws.min() >= 0
    torch.testing.assert_close(draws.sum(1), torch.ones(40_000, dtype=torch.float64))
    mean = torch.full((size,), 1 / size, dtype=torch.float64)
    torch.testing.assert_close(draws.mean(0), mean, atol=0.015 / size**0.5, rtol=0)
    variance = mean * (1 - mean) / (size * alpha + 1)
    torch.testing.assert_close(draws.var(0), variance, rtol=0.05, atol=0)
    covariance = -(mean[0] ** 2) / (size * alpha + 1)
    error = 4 * variance[0].item() / 40_000**0.5
    assert torch.cov(draws[:, :2].T)[0, 1] == pytest.approx(covariance.item(), abs=error)
    assert size > 3 or abs(covariance) > 5 * error


def test_dirichlet_of_tiny_alpha_gives_all_to_one():
    draws = dirichlet(1e-6, 500, 4, generator(7))
    assert (draws.amax(1) == 1).all()
    assert set(draws.argmax(1).tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan])
def test_beta_needs_a_positive_alpha(alpha):
    with pytest.raises(ValueError, match="alpha > 0"):
        beta(alpha, generator())
    with pytest.raises(ValueError, match="alpha > 0"):
        dirichlet(alpha, 2, 3, generator())


def test_happens_at_the_given_rate():
    rng = generator(6)
    assert sum(happens(0.3, rng) for _ in range(10_000)) == pytest.approx(3000, abs=150)
    assert all(happens(1.0, rng) for _ in range(10))
    assert not any(happens(0.0, rng) for _ in range(1000))


@pytest.mark.parametrize("rule", ["permutation", "flip", "derangement"])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_partners_are_a_permutation(rule, count):
    partner = draw_partners(rule, count, generator(count))
    assert partner.dtype == torch.int64
    assert sorted(partner.tolist()) == list(range(count))


def test_flip_reverses():
    assert draw_partners("flip", 5, generator()).tolist() == [4, 3, 2, 1, 0]


def test_a_derangement_has_no_fixed_point_and_favours_nobody():
    rng = generator(7)
    counts = torch.zeros(4, 4)
    for _ in range(3000):
        counts[torch.arange(4), draw_partners("derangement", 4, rng)] += 1
    assert counts.diagonal().sum() == 0
    assert counts[~torch.eye(4, dtype=torch.bool)].sub(1000).abs().max() < 130


def test_a_permutation_may_have_fixed_points():
    rng = generator(8)
    fixed = sum((draw_partners("permutation", 5, rng) == torch.arange(5)).sum().item() for _ in range(4000))
    assert fixed == pytest.approx(4000, abs=260)  # one per permutation on average


def test_global_generators_are_left_alone():
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    rng = generator()
    beta(0.2, rng), beta_per_sample(1.0, 5, rng), draw_partners("derangement", 5, rng), happens(0.5, rng)
    assert torch.equal(torch.rand(1), expected)
