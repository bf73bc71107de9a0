"""Plain modules in `create_step` under DistributedDataParallel: two gloo processes train one network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = """
import os, sys
import torch
import torch.distributed as dist
from torch import nn
import mixcore

rank, folder = int(sys.argv[1]), sys.argv[2]
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.fc = nn.Linear(16, 4)

    def forward(self, images):
        return self.fc(self.layer2(self.layer1(images)).mean((2, 3)))

def plain():
    torch.manual_seed(rank)  # wrapping makes the weights those of rank 0
    return Own()

def halved():
    return mixcore.as_backbone(plain(), features="layer2", classifier="fc", image_size=(32, 32))

def gradients(module):
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters() if parameter.grad is not None}

CASES = {
    "input gradients": (plain, "puzzlemix"),
    "named stage": (plain, {"name": "manifoldmix", "layers": [0, "layer1"]}),
    "numbered stage": (halved, {"name": "manifoldmix", "layers": [1, 2]}),
    "head": (halved, {"name": "automix", "stage": "layer2", "momentum": 0.5, "momentum_end": 0.5}),
}
result = {}
for name, (build, mix) in CASES.items():
    step, alone = (
        mixcore.create_step(build(), mix=mix, num_classes=4, iterations=9, image_size=(32, 32)) for _ in range(2)
    )
    joined = nn.parallel.DistributedDataParallel(step, find_unused_parameters=step.find_unused_parameters)
    optimizer = torch.optim.SGD(step.param_groups(lr=0.1), momentum=0.9)
    found = []
    for iteration in range(2):
        generator = torch.Generator().manual_seed(10 * iteration + rank)
        images = torch.rand(4, 3, 32, 32, generator=generator)
        labels = torch.randint(0, 4, (4,), generator=generator)
        for buffer in step.buffers():  # as DDP itself does it before a forward
            dist.broadcast(buffer, 0)
        alone.load_state_dict(step.state_dict())
        optimizer.zero_grad()
        alone.zero_grad()
        alone(images, labels, epoch=0, iteration=iteration)[0].backward()
        joined(images, labels, epoch=0, iteration=iteration)[0].backward()
        found.append((gradients(alone), gradients(step)))
        optimizer.step()
        step.after_step()
    result[name] = {"gradients": found, "parameters": dict(step.named_parameters())}
torch.save(result, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.ddp
def test_two_processes_train_one_network(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=240)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for case, found in first.items():
        for (own, joined), (other, joined_too) in zip(found["gradients"], second[case]["gradients"], strict=True):
            assert any(not torch.equal(own[name], other[name]) for name in own), "each process has images of its own"
            for name, gradient in joined.items():
                torch.testing.assert_close(joined_too[name], gradient, rtol=0, atol=0)
                mean = (own[name] + other[name]) / 2
                torch.testing.assert_close(gradient, mean, rtol=1e-4, atol=1e-6)
        for name, parameter in found["parameters"].items():
            torch.testing.assert_close(second[case]["parameters"][name], parameter, rtol=0, atol=0)
