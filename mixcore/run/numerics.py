"""How exactly this process computes: float32 products, cuDNN's choice of kernels, and whether a CUDA run repeats."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from mixcore.config.schema import TrainConfig
from mixcore.errors import ConfigError

__all__ = ["described_numerics", "numerics"]

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_REPEATING = (":4096:8", ":16:8")
"""Workspaces with which cuBLAS repeats its results."""


@contextmanager
def numerics(train: TrainConfig) -> Iterator[None]:
    """Inside, torch computes as [train] says, whatever it was told before; afterwards again as before.

    To be entered before anything runs on CUDA: cuBLAS reads its part of the environment once. Raises ConfigError where
    the environment contradicts `deterministic`.
    """
    with ExitStack() as restored:
        precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
        restored.callback(torch.set_float32_matmul_precision, precision)
        restored.callback(setattr, cudnn, "benchmark", cudnn.benchmark)
        torch.set_float32_matmul_precision(train.matmul)
        cudnn.benchmark = train.benchmark
        if train.deterministic:
            restored.enter_context(_repeating_workspace())
            restored.callback(setattr, cudnn, "deterministic", cudnn.deterministic)
            restored.callback(
                torch.use_deterministic_algorithms,
                torch.are_deterministic_algorithms_enabled(),
                warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
            )
            cudnn.deterministic = True
            torch.use_deterministic_algorithms(True)
        yield


@contextmanager
def _repeating_workspace() -> Iterator[None]:
    found = os.environ.get(_WORKSPACE)
    if found is not None and found not in _REPEATING:
        raise ConfigError(
            f"train.deterministic = true, but the environment says {_WORKSPACE}={found}, with which cuBLAS does not "
            f"repeat its results; leave the variable out (env -u {_WORKSPACE} mixcore run ...) or set it to "
            f"{_REPEATING[0]} or {_REPEATING[1]}"
        )
    os.environ.setdefault(_WORKSPACE, _REPEATING[0])
    try:
        yield
    finally:
        if found is None:
            os.environ.pop(_WORKSPACE, None)


def described_numerics() -> dict[str, Any]:
    """What is in force in this process, for environment.json."""
    return {
        "matmul": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
