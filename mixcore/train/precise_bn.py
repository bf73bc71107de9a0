"""BatchNorm statistics of the weights as they are, measured on training images before an evaluation.

While a network trains, its running statistics trail behind its weights. "Precise BatchNorm" (Wu and Johnson,
"Rethinking 'Batch' in BatchNorm", 2021, arXiv 2105.07576, section 3) puts the mean over several whole batches in their
place: of each batch's mean, and of each batch's variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mixcore.autocast import PRECISIONS, autocast_of
from mixcore.config.schema import RunConfig
from mixcore.data.loader import Loader
from mixcore.data.randomness import preserved_generators, seed_everywhere
from mixcore.errors import ConfigError
from mixcore.networks.modes import mode
from mixcore.rng import keyed_seed
from mixcore.train.agreement import Processes
from mixcore.train.state import TrainingState

__all__ = ["check_precise_bn", "measure_statistics"]


def check_precise_bn(config: RunConfig, network: nn.Module) -> None:
    """ConfigError where statistics are to be measured and the network keeps none."""
    if config.train.precise_bn and not _layers(network):
        raise ConfigError(
            f"train.precise_bn = {config.train.precise_bn}, but the network has no BatchNorm that keeps statistics; "
            "set it to 0"
        )


def measure_statistics(
    state: TrainingState, loader: Loader, config: RunConfig, processes: Processes, epoch: int
) -> None:
    """Measure the statistics of the trained network, and of its average, after `epoch` (from 0); all processes call it.

    On `train.precise_bn` training images over all processes, 0 for none: whole batches, at least one and at most an
    epoch, augmented but not mixed, in an order that no epoch of the run has. Networks are in train mode, dropout
    included. It follows from the weights, the seed and the epoch alone, so a resumed run measures the same.
    """
    wanted = config.train.precise_bn
    if not wanted:
        return
    networks = [state.step.model, *([] if state.ema is None else [state.ema.module])]
    measured = [_Statistics(network) for network in networks]
    batches = loader.epoch(state.epochs + epoch, 0, max(1, wanted // config.data.batch_size))
    device, dtype = processes.device, PRECISIONS[config.train.precision]
    with torch.no_grad(), preserved_generators(), mode(networks, True), _of_one_batch(networks):
        for number, batch in enumerate(batches):
            for one in measured:
                seed_everywhere(keyed_seed(config.seed, "precise_bn", epoch, number, processes.rank), device)
                with autocast_of(dtype, device):
                    one.network(batch.images)
                one.add(batch.images.shape[0])
    for one in measured:
        one.put(processes.world)


class _Statistics:
    """Sums of what the layers of a network found in each batch, which counts as often as it has images."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._kept = [tensor for layer in _layers(network) for tensor in _statistics(layer)]
        self._sums = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in self._kept]
        self._images = 0

    def add(self, images: int) -> None:
        """What the layers keep now is that of a batch of so many images."""
        torch._foreach_add_(self._sums, [tensor.double() for tensor in self._kept], alpha=images)
        self._images += images

    def put(self, world: int) -> None:
        """Let the layers keep the means over all batches of all processes."""
        total = torch.cat([*self._sums, self._sums[0].new_tensor([self._images])])
        if world > 1:
            dist.all_reduce(total)
        means = (total[:-1] / total[-1]).split([len(tensor) for tensor in self._kept])
        for kept, mean in zip(self._kept, means, strict=True):
            kept.copy_(mean)


def _layers(network: nn.Module) -> list[_BatchNorm]:
    return [one for one in network.modules() if isinstance(one, _BatchNorm) and one.running_mean is not None]


def _statistics(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None and layer.running_var is not None  # noqa: PT018
    return layer.running_mean, layer.running_var


@contextmanager
def _of_one_batch(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Layers keep the statistics of their last batch, and count none; afterwards they go on as before."""
    before = [
        (layer, layer.momentum, None if layer.num_batches_tracked is None else layer.num_batches_tracked.clone())
        for network in networks
        for layer in _layers(network)
    ]
    try:
        for layer, _, _ in before:
            layer.momentum = 1.0
        yield
    finally:
        for layer, momentum, counted in before:
            layer.momentum = momentum
            if counted is not None and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(counted)
