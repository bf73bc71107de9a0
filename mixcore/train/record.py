"""What a run writes about an epoch, and about itself at the end."""

from __future__ import annotations

import math
import resource
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mixcore.config.schema import EvalConfig
from mixcore.evaluate.metrics import headline
from mixcore.evaluate.protocol import protocol_result
from mixcore.train.state import TrainingState
from mixcore.types import Task

__all__ = ["epoch_record", "summarise"]


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


def summarise(
    records: Sequence[Mapping[str, Any]],
    config: EvalConfig,
    predictor: str,
    task: Task,
    state: TrainingState,
    images: int,
    device: torch.device,
) -> dict[str, Any]:
    """summary.json from the `records` of all epochs; `images` were trained on per epoch, over all processes."""
    main, higher = headline(task)
    read = [record[f"val/{main}"] for record in records]
    values = [math.nan if value is None else value for value in read]  # JSON has no NaN
    result = protocol_result(config.protocol, values, higher_is_better=higher, allow_partial=True)
    best = (max if higher else min)(values)
    seconds = {name: round(value, 3) for name, value in state.seconds.items()}
    trained = state.seconds["train"]
    return {
        "protocol": config.protocol,
        "predictor": predictor,
        "metric": main,
        "value": result.value,
        "partial": result.partial,
        "best": {"epoch": values.index(best) + 1, "value": best},
        "last": values[-1],
        "median_last_10": statistics.median(values[-10:]),
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
