"""docs/any_loop.md: every block runs as it stands, and trains; the frameworks' own checkpoints carry the mixer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader

import mixcore

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "any_loop.md").read_text()
PARTS = re.findall(r"^##+ ([^\n]*)\n(.*?)(?=^##+ |\Z)", PAGE, flags=re.S | re.M)
BLOCKS = [(heading, block) for heading, text in PARTS for block in re.findall(r"```python\n(.*?)```", text, flags=re.S)]
NAMES = [
    "bare",
    "workers",
    "timm",
    "lightning",
    "transformers",
    "companions",
    "step",
    "accumulated",
    "plain",
    "wrapped",
]
CODE = {name: block for name, (_, block) in zip(NAMES, BLOCKS, strict=True)}

# What these packages warn of when they train a toy on a machine without a GPU; none is about what the page does.
QUIET = [
    pytest.mark.filterwarnings(f"ignore:{start}")
    for start in (
        r"The '?\w+'? does not have many workers",
        r"The number of training batches",
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        r"The dirpath has changed",
        r"'pin_memory' argument is set as true but no accelerator",
    )
]


def quiet(function: Any) -> Any:
    for mark in QUIET:
        function = mark(function)
    return function


class Samples(torch.utils.data.Dataset[Any]):
    def __init__(self, named: bool) -> None:
        self.images, self.named = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)), named

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        if self.named:
            return {"pixel_values": self.images[index], "labels": index % 10}
        return self.images[index], index % 10


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in ("plain", "wrapped"):
        return torchvision.models.resnet18(num_classes=10)
    if name != "transformers":
        return timm.create_model("resnet10t", num_classes=10)
    transformers = pytest.importorskip("transformers", reason="the page's Trainer needs transformers, a dev package")
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate, a dev package")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        num_labels=10,
    )
    return transformers.ViTForImageClassification(config)


def run(name: str, code: str = "") -> dict[str, Any]:
    """The names of a block after it ran."""
    model = network(name)
    dataset = Samples(named=name == "transformers")
    names: dict[str, Any] = {
        "__name__": "any_loop",
        "torch": torch,
        "model": model,
        "dataset": dataset,
        "loader": DataLoader(dataset, batch_size=4),
        "device": torch.device("cpu"),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    exec(compile(code or CODE[name], "docs/any_loop.md", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the frameworks write their logs and checkpoints where they stand


def test_the_page_has_every_loop_under_its_own_heading() -> None:
    headings = [heading.lower() for heading, _ in BLOCKS]
    assert [heading.split()[0] for heading in headings[2:5]] == ["timm", "lightning", "hugging"]
    assert "create_mixer" in headings[0]
    assert "dataloader" in headings[1]
    assert all("create_step" in heading for heading in headings[6:])
    assert "augmentations" in headings[5]


def count_after(mixer: Any) -> int:
    return int(mixer.get_extra_state())


@quiet
def test_a_checkpoint_of_lightning_has_the_mixers_count(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="the page's LightningModule needs lightning, a dev package")
    names = run("lightning")
    (saved,) = tmp_path.rglob("*.ckpt")
    again = names["Classifier"](network("lightning"))
    again.load_state_dict(torch.load(saved, weights_only=True)["state_dict"])
    assert count_after(again.mixer) == count_after(names["trainer"].model.mixer) == 4
    lightning, loader = names["lightning"], names["loader"]
    lightning.Trainer(max_epochs=2, logger=False).fit(again, loader, ckpt_path=saved)
    assert count_after(again.mixer) == 8


@quiet
def test_the_trainer_of_transformers_resumes_the_mixers_count(tmp_path: Path) -> None:
    names = run("transformers")
    assert count_after(names["trainer"].model.mixer) == 8  # four steps of two batches each
    resumed = run("transformers", CODE["transformers"].replace("train()", 'train("out/checkpoint-2")'))
    assert count_after(resumed["trainer"].model.mixer) == 8
    assert resumed["trainer"].state.global_step == 4


@quiet
def test_accelerate_saves_step_and_mixer(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is a dev package")
    accelerator = accelerate.Accelerator(cpu=True)
    step = accelerator.prepare(mixcore.create_step(network("step"), mix="mixup", num_classes=10, iterations=9))
    mixer = mixcore.create_mixer("mixup", num_classes=10)
    accelerator.register_for_checkpointing(mixer)
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    step(images, labels)
    lam = [mixer(images, labels).lam for _ in range(2)][-1]
    accelerator.save_state(tmp_path / "saved")
    third = mixer(images, labels).lam
    step(images, labels)
    accelerator.load_state(tmp_path / "saved")
    assert int(step.get_extra_state()) == 1
    assert torch.equal(mixer(images, labels).lam, third)
    assert not torch.equal(third, lam)


@quiet
@pytest.mark.parametrize("name", NAMES)
def test_a_block_is_short_and_runs(name: str) -> None:
    assert len([line for line in CODE[name].splitlines() if line.strip()]) < 22
    if name == "lightning":
        pytest.importorskip("lightning", reason="the page's LightningModule needs lightning, a dev package")
    before = [parameter.detach().clone() for parameter in network(name).parameters()]
    names = run(name)
    changed = [not torch.equal(old, new) for old, new in zip(before, names["model"].parameters(), strict=True)]
    assert sum(changed) > len(changed) / 2, "the loop trained nothing"
