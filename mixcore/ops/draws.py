"""Random draws on the host, from the CPU generator that a hook receives as `rng`, and their way to the device.

Every draw is float64 on the CPU, so that it is the same whatever device the images are on.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Generator, Tensor

__all__ = ["beta", "beta_per_sample", "dirichlet", "happens", "send", "uniforms"]


def uniforms(*shape: int, rng: Generator) -> Tensor:
    """Uniform draws in [0, 1), float64 of the given shape."""
    return torch.rand(shape, dtype=torch.float64, device="cpu", generator=rng)


def happens(probability: float, rng: Generator) -> bool:
    """True with the given probability; 0 never, 1 always (without a draw)."""
    return probability >= 1 or uniforms(1, rng=rng).item() < probability


def _gamma_draws(alpha: float, count: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """`count` draws G of Gamma(alpha + 1, 1) and as many U, uniform in [0, 1), float64.

    G(alpha) has the law of G(alpha+1) · (1-U)^(1/alpha): its logarithm log G + log(1-U)/alpha does not underflow where
    alpha is small, as about 2 in 10,000 plain float32 draws do at alpha = 0.1.
    """
    if not alpha > 0:
        raise ValueError(f"Beta and Dirichlet draws need alpha > 0, found {alpha}; treat alpha = 0 as mixing off")
    # The only sampler of torch that takes both a shape and a generator is this private one.
    return torch._standard_gamma(_shapes(alpha + 1, count), generator=rng), uniforms(count, rng=rng)


@functools.lru_cache(maxsize=64)
def _shapes(shape: float, count: int) -> Tensor:
    """The parameter of `count` equal Gamma draws; read only, made once because a run asks for the same every time."""
    return torch.full((count,), shape, dtype=torch.float64, device="cpu")


def beta(alpha: float, rng: Generator, second: float | None = None) -> float:
    """One draw of Beta(alpha, alpha), or Beta(alpha, second), as a Python float in [0, 1]: reading it stalls nothing.

    Raises ValueError for a parameter that is not above 0.
    """
    if second is not None and second != alpha:
        pairs = [_gamma_draws(shape, 1, rng) for shape in (alpha, second)]
        (g1, u1), (g2, u2) = ((gamma.item(), draw.item()) for gamma, draw in pairs)
        difference = math.log(g1 / g2) + math.log(1 - u1) / alpha - math.log(1 - u2) / second
    elif alpha == 1:
        return uniforms(1, rng=rng).item()  # Beta(1, 1) is uniform
    else:
        gammas, draws = _gamma_draws(alpha, 2, rng)
        (g1, g2), (u1, u2) = gammas.tolist(), draws.tolist()
        # in Python, not in tensors: this runs every iteration, and each tensor operation costs more than the formula
        difference = math.log(g1 / g2) + math.log((1 - u1) / (1 - u2)) / alpha
    smaller = math.exp(-abs(difference))
    return (1.0 if difference > 0 else smaller) / (1.0 + smaller)


def beta_per_sample(alpha: float, count: int, rng: Generator) -> Tensor:
    """`count` independent draws of Beta(alpha, alpha), alpha > 0: [count] float64 on the CPU, in [0, 1]."""
    if alpha == 1:
        return uniforms(count, rng=rng)
    gammas, draws = _gamma_draws(alpha, 2 * count, rng)
    first, second = (gammas.log() + torch.log1p(-draws) / alpha).view(2, count)
    return torch.sigmoid(first - second)


def dirichlet(alpha: float, count: int, size: int, rng: Generator) -> Tensor:
    """`count` independent draws of Dirichlet(alpha, .., alpha) over `size` shares: [count,size] float64 on the CPU.

    alpha > 0. Rows sum to 1; where alpha is small all but one share may be 0.
    """
    gammas, draws = _gamma_draws(alpha, count * size, rng)
    return (gammas.log() + torch.log1p(-draws) / alpha).view(count, size).softmax(1)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The host tensor on `device`, without waiting: the copy to an accelerator starts from pinned memory."""
    if device.type == "cpu":
        return tensor
    if device.type == "cuda" and tensor.is_cpu:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
