"""The probe under DistributedDataParallel: two gloo processes give the mean of the plain gradients."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

WORKER = """
import sys
import timm, torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from mixcore.networks.network import Network
from mixcore.evidence.probe import Probe
from mixcore.types import Targets

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)

class Step(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = timm.create_model("resnet10t", num_classes=4).double()
        self.network = Network(self.model)

    def forward(self, images, labels):
        criterion = lambda logits, targets: F.cross_entropy(logits, targets.labels)
        probe = Probe(self.network, {}, criterion, torch.no_grad)
        probe.input_gradient(images, labels)
        gradient, clean = probe.input_gradient_and_loss(images, labels)
        mixed = self.network.forward(images + 0.1 * gradient.sign()).logits
        return 0.5 * clean + F.cross_entropy(mixed, labels)

torch.manual_seed(100 + rank)
batches = [(torch.randn(4, 3, 32, 32).double(), torch.randint(0, 4, (4,))) for _ in range(2)]
bare = Step()
step = nn.parallel.DistributedDataParallel(bare)
with step.no_sync():
    (step(*batches[0]) / 2).backward()
(step(*batches[1]) / 2).backward()
gradients = {name: parameter.grad for name, parameter in bare.model.named_parameters()}
torch.save({"batches": batches, "gradients": gradients}, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def plain_gradients(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The same two iterations without a probe: ordinary losses, the input gradient by autograd."""
    import timm

    torch.manual_seed(0)
    model: nn.Module = timm.create_model("resnet10t", num_classes=4).double()
    for images, labels in batches:
        leaf = images.clone().requires_grad_()
        clean = F.cross_entropy(model(leaf).float(), labels)
        (gradient,) = torch.autograd.grad(clean, leaf, retain_graph=True)
        mixed = F.cross_entropy(model(images + 0.1 * gradient.sign()).float(), labels)
        ((0.5 * clean + mixed) / 2).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.ddp
def test_two_processes_agree_with_plain_gradients(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=240)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    expected = [plain_gradients(one["batches"]) for one in found]
    for name, first in found[0]["gradients"].items():
        torch.testing.assert_close(found[1]["gradients"][name], first, rtol=0, atol=0)
        mean = (expected[0][name] + expected[1][name]) / 2
        torch.testing.assert_close(first, mean, rtol=1e-5, atol=1e-8)
