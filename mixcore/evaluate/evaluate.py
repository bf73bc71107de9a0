"""Evaluation of every predictor of a run on one set, each network run once per batch."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mixcore.autocast import PRECISIONS, autocast_of
from mixcore.data.loader import Loader
from mixcore.errors import MixcoreError
from mixcore.evaluate.metrics import add_up, default_metrics
from mixcore.networks.interface import Passes, logits_of
from mixcore.networks.modes import mode
from mixcore.networks.network import Network
from mixcore.types import Metric, Task

__all__ = ["Predictors", "evaluate"]

Predictors = Mapping[str, tuple[nn.Module, nn.Module | None]]
"""Name -> network and head; head None is the network's own, otherwise it maps pooled [N,D] to logits [N,K]."""


def evaluate(
    predictors: Predictors,
    loader: Loader,
    *,
    task: Task,
    device: torch.device,
    precision: str,
    compiled: Mapping[nn.Module, Network] | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> dict[str, dict[str, float]]:
    """Per predictor the numbers of its metrics, by name, over all processes.

    `metrics` are those that were not given a batch yet; every predictor gets a copy of each, on the device. A number
    goes by the metric's name; of one that computes several, each goes by its own. By default they are those of
    :data:`mixcore.evaluate.metrics.METRICS` for the task's kind of labels: accuracies in percent, which count every
    image that the loaders of all processes give, once. Raises MixcoreError for a metric that gives no number, or one
    that another gave already.

    All processes must call this together: buffers (BatchNorm statistics) are first made those of rank 0, and the sums
    are reduced at the end. `precision` is fp32, bf16 or fp16: what the networks run under; metrics see float32. A
    network that `compiled` knows runs as it does there, the others as they are. Parameters, buffers and the mode of
    every submodule are as before, generators untouched.
    """
    heads = _by_network(predictors)
    modules = [*heads, *(head for named in heads.values() for head in named.values() if head is not None)]
    wanted = default_metrics(task, device) if metrics is None else metrics
    measured = {name: {key: _own_copy(metric, device) for key, metric in wanted.items()} for name in predictors}
    _share_buffers(modules)
    with torch.no_grad(), mode(modules, False):
        for images, labels in loader.epoch(0):
            for network, named in heads.items():
                with autocast_of(PRECISIONS[precision], device):
                    outputs = _outputs(network, named, images, (compiled or {}).get(network))
                for name, logits in outputs.items():
                    own = logits.float()
                    for metric in measured[name].values():
                        metric.update(own, labels)
    add_up(metric for own in measured.values() for metric in own.values())
    return {name: _computed(own) for name, own in measured.items()}


def _own_copy(metric: Metric, device: torch.device) -> Metric:
    """One that sees a single predictor; what holds tensors has modules' `to`."""
    own = copy.deepcopy(metric)
    move = getattr(own, "to", None)
    return own if move is None else move(device)


def _computed(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """The numbers of one predictor, those of a metric with several under their own names."""
    found: dict[str, float] = {}
    for key, metric in metrics.items():
        value = metric.compute()
        for name, number in (value if isinstance(value, Mapping) else {key: value}).items():
            if name in found:
                raise MixcoreError(f"two metrics give {name!r}; name one of them otherwise")
            found[name] = _number(name, number)
    return found


def _number(name: str, value: Any) -> float:
    if isinstance(value, int | float):
        return value
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    shape = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise MixcoreError(f"the metric {name!r} computed {shape}; expected one number, or a mapping of numbers by name")


def _by_network(predictors: Predictors) -> dict[nn.Module, dict[str, nn.Module | None]]:
    """Networks in the order of their first predictor, each with its named heads."""
    networks: dict[nn.Module, dict[str, nn.Module | None]] = {}
    for name, (network, head) in predictors.items():
        networks.setdefault(network, {})[name] = head
    return networks


def _outputs(
    network: nn.Module, heads: Mapping[str, nn.Module | None], images: Tensor, compiled: Network | None
) -> dict[str, Tensor]:
    """Logits [N,K] per head of one network, from one pass over the images [N,C,H,W]."""
    own = all(head is None for head in heads.values())
    if own and compiled is None:
        return dict.fromkeys(heads, logits_of(network(images)))
    passes = Passes(network) if compiled is None else compiled.passes
    if own:
        return dict.fromkeys(heads, passes.logits(images))
    features = passes.first(images)
    pooled = passes.head(features, pre_logits=True)
    return {name: passes.head(features) if head is None else head(pooled) for name, head in heads.items()}


def _share_buffers(modules: Iterable[nn.Module]) -> None:
    """Give every process the buffers of rank 0: without SyncBN each has seen other batches."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    for buffer in {id(buffer): buffer for module in modules for buffer in module.buffers()}.values():
        dist.broadcast(buffer, 0)
