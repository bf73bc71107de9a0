from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from mixcore.errors import MixcoreError
from mixcore.evaluate.evaluate import evaluate
from mixcore.networks.modes import mode as mode_of
from mixcore.networks.network import Network
from mixcore.types import Task

CPU = torch.device("cpu")
TASK = Task(num_classes=6, in_channels=3, image_size=(8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)


class Net(nn.Module):
    """timm's three methods, and a count of its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 6)
        self.passes = 0

    def forward_features(self, images: Tensor) -> Tensor:
        self.passes += 1
        return self.norm(self.stem(images)).relu()

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = self.drop(features.mean((2, 3)))
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


class Batches:
    """Every `world`-th batch of a fixed set, starting with the rank's."""

    def __init__(self, images: Tensor, labels: Tensor, batch: int, rank: int = 0, world: int = 1) -> None:
        self.batches = list(zip(images.split(batch), labels.split(batch), strict=True))[rank::world]

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches[start:])


def images_and_labels(count: int = 53) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 8, 8, generator=rng), torch.randint(6, (count,), generator=rng)


def network(seed: int = 0) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Net()
        with torch.no_grad():
            net.norm.running_mean.uniform_(-1, 1)
            net.fc.weight.mul_(20)
    return net


def test_one_pass_per_network_serves_all_its_heads() -> None:
    net, other = network(), network(1)
    head = nn.Linear(8, 6)
    images, labels = images_and_labels()
    predictors = {"model": (net, None), "second": (net, head), "ema": (other, None)}
    found = evaluate(predictors, Batches(images, labels, 20), task=TASK, device=CPU, precision="fp32")
    assert (net.passes, other.passes) == (3, 3)
    assert list(found) == ["model", "second", "ema"]

    net.eval()
    with torch.no_grad():
        pooled = net.forward_head(net.forward_features(images), pre_logits=True)
        for name, logits in (("model", net.fc(pooled)), ("second", head(pooled))):
            assert found[name]["top1"] == pytest.approx(100 * (logits.argmax(1) == labels).float().mean().item())
            assert found[name]["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert found["model"]["count"] == 53
    assert found["model"] != found["ema"]


def test_a_compiled_network_is_evaluated_as_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def compile_by_name(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*given: Any, **named: Any) -> Tensor:
            called.append(function.__name__)
            return function(*given, **named)

        return run

    monkeypatch.setattr(torch, "compile", compile_by_name)
    net, other, head = network(), network(1), nn.Linear(8, 6)
    predictors = {"model": (net, None), "second": (net, head), "ema": (other, None)}
    told = {"task": TASK, "device": CPU, "precision": "fp32"}
    plain = evaluate(predictors, Batches(*images_and_labels(), 53), **told)
    assert called == []
    compiled = {one: Network(one, compile=True) for one in (net, other)}
    net.passes = 0
    found = evaluate(predictors, Batches(*images_and_labels(), 53), **told, compiled=compiled)
    assert found == plain
    assert called == ["forward_features", "forward_head", "forward_head", "forward_features", "forward_head"]
    assert net.passes == 1


def test_leaves_modes_buffers_and_generators_as_they_were() -> None:
    net, head = network().train(), nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 6)).train()
    net.norm.eval()  # frozen on purpose while the rest trains
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    images, labels = images_and_labels()
    predictors = {"model": (net, None), "second": (net, head)}
    first = evaluate(predictors, Batches(images, labels, 20), task=TASK, device=CPU, precision="fp32")
    assert net.training
    assert net.drop.training
    assert head[0].training
    assert not net.norm.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert first == evaluate(predictors, Batches(images, labels, 20), task=TASK, device=CPU, precision="fp32")


def test_modes_come_back_after_an_error() -> None:
    net = network().train()
    mode = mode_of([net], False)
    mode.__enter__()
    assert not net.drop.training
    error = RuntimeError("stop")
    assert not mode.__exit__(RuntimeError, error, None)
    assert net.training
    assert net.drop.training


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_runs_under_the_precision_of_the_run(precision: str, dtype: torch.dtype) -> None:
    net, seen = network(), []
    net.fc.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    found = evaluate(
        {"model": (net, None)}, Batches(*images_and_labels(), 20), task=TASK, device=CPU, precision=precision
    )
    assert set(seen) == {dtype}
    assert found["model"]["count"] == 53


class Confidence(nn.Module):
    """A metric of torchmetrics' shape: a module whose state is buffers, which computes a tensor."""

    def __init__(self, several: bool = False) -> None:
        super().__init__()
        self.several = several
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.total += preds.softmax(1).amax(1).sum()
        self.seen += len(target)

    def compute(self) -> Any:
        mean = self.total / self.seen
        return {"sure": mean, "unsure": 1 - mean} if self.several else mean


class Rows:
    """A metric that is no module and computes no number."""

    def update(self, logits: Tensor, labels: Tensor) -> None: ...

    def compute(self) -> Tensor:
        return torch.zeros(6)


def test_metrics_of_others_measure_every_predictor_by_itself() -> None:
    net, other = network(), network(1)
    images, labels = images_and_labels()
    predictors = {"model": (net, None), "ema": (other, None)}
    told = {"task": TASK, "device": CPU, "precision": "fp32"}
    given = {"confidence": Confidence(), "both": Confidence(several=True)}
    found = evaluate(predictors, Batches(images, labels, 20), **told, metrics=given)
    assert [list(numbers) for numbers in found.values()] == [["confidence", "sure", "unsure"]] * 2
    for name, own in (("model", net), ("ema", other)):
        own.eval()
        with torch.no_grad():
            expected = own(images).softmax(1).amax(1).mean().item()
        assert found[name]["confidence"] == pytest.approx(expected, rel=1e-5)
        assert found[name]["unsure"] == pytest.approx(1 - expected, rel=1e-5)
    assert given["confidence"].seen == 0, "the metric that was given is not written to"
    for wrong, said in (
        ({"rows": Rows()}, r"'rows' computed a tensor \[6\]"),
        ({"sure": Confidence(), "two": Confidence(several=True)}, "two metrics give 'sure'"),
    ):
        with pytest.raises(MixcoreError, match=said):
            evaluate(predictors, Batches(images, labels, 20), **told, metrics=wrong)


def test_counts_of_all_predictors_are_read_once() -> None:
    """What a metric sums stays on its device until the end, however many predictors and batches there are."""
    reads: list[int] = []
    real = Tensor.tolist
    predictors = {"model": (network(), None), "ema": (network(1), None)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "tolist", lambda self: reads.append(self.numel()) or real(self))
        evaluate(predictors, Batches(*images_and_labels(), 7), task=TASK, device=CPU, precision="fp32")
    assert reads == [10]


def _process(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        net = network()
        if rank == 1:  # BatchNorm statistics drift apart between processes; rank 0's are the run's
            net.norm.running_mean.add_(3.0)
        loader = Batches(*images_and_labels(), 7, rank, 2)  # 8 batches, the last of 4 images: 28 and 25 images
        found = evaluate({"model": (net, None)}, loader, task=TASK, device=CPU, precision="fp32")
        torch.save(found, f"{folder}/found{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.ddp
def test_two_processes_count_what_one_counts(tmp_path: Path) -> None:
    mp.start_processes(_process, (str(tmp_path),), nprocs=2, start_method="spawn")
    alone = evaluate(
        {"model": (network(), None)}, Batches(*images_and_labels(), 7), task=TASK, device=CPU, precision="fp32"
    )["model"]
    for rank in (0, 1):
        found = torch.load(tmp_path / f"found{rank}.pt", weights_only=True)["model"]
        for key in ("top1", "top5", "count"):
            assert found[key] == alone[key]
        assert found["loss"] == pytest.approx(alone["loss"], rel=1e-12)
    assert alone["count"] == 53


def test_torchmetrics_fit_as_they_are() -> None:
    torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics comes with lightning, a dev package")
    told = {"task": TASK, "device": CPU, "precision": "fp32"}
    loader, predictors = Batches(*images_and_labels(), 20), {"model": (network(), None)}
    own = evaluate(predictors, loader, **told)["model"]
    accuracy = {"num_classes": 6, "average": "micro"}
    single = torchmetrics.classification.MulticlassAccuracy(**accuracy)
    both = torchmetrics.MetricCollection(
        {
            "one": torchmetrics.classification.MulticlassAccuracy(**accuracy),
            "five": torchmetrics.classification.MulticlassAccuracy(**accuracy, top_k=5),
        }
    )
    found = evaluate(predictors, loader, **told, metrics={"accuracy": single, "both": both})["model"]
    assert set(found) == {"accuracy", "one", "five"}
    assert found["accuracy"] == found["one"] == pytest.approx(own["top1"] / 100)
    assert found["five"] == pytest.approx(own["top5"] / 100)
