"""Weights from a local file."""

from __future__ import annotations

import argparse
import logging
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mixcore.api import ConfigError, Task
from mixcore_plugins_builtin.backbones.timm_model import TimmBackbone


def build(weights: Path | None, *, classes: int = 10, model: str = "test_resnet") -> nn.Module:
    task = Task(num_classes=classes, in_channels=3, image_size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    return TimmBackbone(model=model, weights=None if weights is None else str(weights)).build_backbone(task)


@pytest.fixture
def state() -> dict[str, Tensor]:
    return build(None).state_dict()


@pytest.mark.parametrize("wrapping", ["bare", "state_dict", "model"])
def test_all_tensors_arrive(tmp_path: Path, state: dict[str, Tensor], wrapping: str) -> None:
    torch.save(state if wrapping == "bare" else {wrapping: state, "epoch": 3}, tmp_path / "w.pt")
    loaded = build(tmp_path / "w.pt").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in state.items())


def test_a_checkpoint_of_a_run_gives_its_network(tmp_path: Path, state: dict[str, Tensor]) -> None:
    step = {f"model.{name}": value for name, value in state.items()} | {"parts.mix.block.weight": torch.zeros(2)}
    torch.save({"format": 1, "step": step, "ema": None, "epoch": 3}, tmp_path / "best.pt")
    loaded = build(tmp_path / "best.pt").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in state.items())


def test_safetensors(tmp_path: Path, state: dict[str, Tensor]) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(state, tmp_path / "w.safetensors")
    assert torch.equal(build(tmp_path / "w.safetensors").state_dict()["fc.weight"], state["fc.weight"])


def test_a_classifier_of_other_classes_starts_anew_and_is_said(
    tmp_path: Path, state: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(state, tmp_path / "w.pt")
    with caplog.at_level(logging.INFO, "mixcore"):
        network = build(tmp_path / "w.pt", classes=7)
    loaded = network.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in state.items() if not name.startswith("fc."))
    assert network.get_parameter("fc.weight").shape[0] == 7
    assert any("has no classifier of this shape" in record.getMessage() for record in caplog.records)


def test_a_file_without_classifier_is_fine(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({name: value for name, value in state.items() if not name.startswith("fc.")}, tmp_path / "w.pt")
    assert build(tmp_path / "w.pt").get_parameter("fc.weight").shape[0] == 10


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.weights: no file .*absent\.pt"):
        build(tmp_path / "absent.pt")


@pytest.mark.parametrize("content", [b"", b"this is no checkpoint", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"w\.pt is no file of tensors"):
        build(tmp_path / "w.pt")


def test_arguments_beside_the_weights_are_no_hindrance(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=0.1)}, tmp_path / "w.pt")
    assert torch.equal(build(tmp_path / "w.pt").get_parameter("fc.weight"), state["fc.weight"])


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "w.pt")  # a pickled module, which could be anything
    with pytest.raises(ConfigError, match=r"holds Python objects \(torch\.nn\.modules\.linear\.Linear.*was not loaded"):
        build(tmp_path / "w.pt")


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"])
def test_timm_reads_no_weights_of_its_own(tmp_path: Path, option: str) -> None:
    """Some versions of timm unpickle what is named so: a file that would run code must not be opened."""
    path, told = tmp_path / "w.pt", tmp_path / "told"
    with path.open("wb") as file:
        pickle.dump(_Payload(told), file)
    value = str(path) if option in ("checkpoint_path", "cache_dir") else {"file": str(path)}
    task = Task(num_classes=10, in_channels=3, image_size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    backbone = TimmBackbone(model="test_resnet", options={option: value})
    with pytest.raises(ConfigError, match=rf"backbone\.options names {option}.*\[backbone\] weights"):
        backbone.build_backbone(task)
    assert not told.exists()


class _Payload:
    """Makes the file `path` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="holds no state dict"):
        build(tmp_path / "w.pt")


def test_weights_of_another_network(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"does not hold weights of this .*: .* is missing; .*; and \d+ more"):
        build(tmp_path / "w.pt", model="test_vit")


def test_one_tensor_of_another_shape(tmp_path: Path, state: dict[str, Tensor]) -> None:
    name = next(name for name in state if name.endswith("weight") and state[name].ndim == 4)
    state[name] = torch.zeros(1, 2, 3, 4)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=rf"{name} has shape \[1, 2, 3, 4\], expected"):
        build(tmp_path / "w.pt")
