"""What a run writes about an epoch, and about itself at the end."""

from __future__ import annotations

import math
import resource
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mixcore.config.schema import EvalConfig
from mixcore.evaluate.metrics import headline
from mixcore.evaluate.protocol import median, protocol_result
from mixcore.run.resolve import Loaded
from mixcore.train.state import TrainingState
from mixcore.types import Task

__all__ = ["epoch_record", "identity", "is_better", "summarise"]

_VERSIONS = ("mixcore", "torch", "torchvision", "timm", "plugins")


def epoch_record(
    epoch: int,
    learning_rate: float,
    means: Mapping[str, float],
    metrics: Mapping[str, Mapping[str, float]],
    predictor: str,
    task: Task,
) -> dict[str, Any]:
    """The line of metrics.jsonl for `epoch` (from 0, written from 1), under TensorBoard's tags.

    `means` by tag over the epoch's iterations; `metrics` by predictor, of which `predictor` gives val/top1 (or what
    the task's kind of labels is measured by) and every other one val/top1/<name>.
    """
    main, _ = headline(task)
    own = {f"val/{name}": value for name, value in metrics[predictor].items() if name != "count"}
    every = {f"val/{main}/{name}": values[main] for name, values in metrics.items()}
    return {"epoch": epoch + 1, "train/lr": learning_rate, **dict(sorted(means.items())), **own, **every}


def is_better(value: float, best: Mapping[str, float] | None, *, higher_is_better: bool) -> bool:
    """Whether an epoch's value beats the best so far; one that is not finite never does."""
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    return value > best["value"] if higher_is_better else value < best["value"]


def identity(loaded: Loaded, environment: Mapping[str, Any], state: TrainingState) -> dict[str, Any]:
    """What summary.json says of which run this is: what it repeats, what with, on what; `environment` as described."""
    return {
        "digest": loaded.digest,
        "experiment": loaded.experiment,
        "seed": loaded.config.seed,
        "data": state.data,
        "versions": {name: environment[name] for name in _VERSIONS},
        "device": environment["device"],
        "processes": environment["processes"],
    }


def summarise(
    records: Sequence[Mapping[str, Any]],
    config: EvalConfig,
    predictor: str,
    task: Task,
    state: TrainingState,
    images: int,
    device: torch.device,
) -> dict[str, Any]:
    """summary.json from the `records` of all epochs; `images` were trained on per epoch, over all processes.

    `best` is None where no epoch had a finite value.
    """
    main, higher = headline(task)
    read = [record[f"val/{main}"] for record in records]
    values = [math.nan if value is None else value for value in read]  # JSON has no NaN
    result = protocol_result(config.protocol, values, higher_is_better=higher, allow_partial=True)
    finite = [value for value in values if math.isfinite(value)]
    best = (max if higher else min)(finite) if finite else None
    seconds = {name: round(value, 3) for name, value in state.seconds.items()}
    trained = state.seconds["train"]
    return {
        "protocol": config.protocol,
        "predictor": predictor,
        "metric": main,
        "value": result.value,
        "partial": result.partial,
        "best": None if best is None else {"epoch": values.index(best) + 1, "value": best},
        "last": values[-1],
        "median_last_10": median(values[-10:]),
        "epochs": len(values),
        "parameters": sum(p.numel() for p in state.step.model.parameters()),
        "trained_parameters": sum(p.numel() for group in state.optimizer.param_groups for p in group["params"]),
        "seconds": seconds,
        "images_per_second": round(images * len(values) / trained, 1) if trained else None,
        "peak_memory_bytes": _peak_memory(device),
    }


def _peak_memory(device: torch.device) -> int:
    """Of the device's allocator on CUDA, else of this process; rank 0's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
