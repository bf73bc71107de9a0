"""Exports of a run that was just trained: other programs load them and get the run's logits."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
import timm
import torch
from torch import nn

import mixcore
from mixcore.cli.main import main
from mixcore.errors import ConfigError, MixcoreError
from mixcore.export.export import export
from mixcore.export.formats import write_timm
from mixcore.export.network import exported
from mixcore.run.folder import RunFolder
from mixcore.run.open import LoadedRun
from mixcore.run.resolve import load_config
from mixcore.run.run import run

CONFIG = """
[data]
name = "digits"
batch_size = 256
size = 8
[backbone]
name = "resnet10t"
[mix]
name = "mixup"
[optimizer]
lr = 0.05
[schedule]
epochs = 1
[train]
ema_decay = 0.5
[run]
device = "cpu"
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    folder = tmp_path_factory.mktemp("export")
    (folder / "digits.toml").write_text(CONFIG)
    run(load_config(folder / "digits.toml"), RunFolder(folder / "run"))
    return mixcore.load_run(folder / "run")


@pytest.fixture
def images(digits: LoadedRun) -> torch.Tensor:
    return next(iter(digits.loader("val").epoch(0))).images[:5]


@torch.no_grad()
def test_timm_loads_its_folder_and_gives_the_same_logits(
    digits: LoadedRun, images: torch.Tensor, tmp_path: Path
) -> None:
    export(digits, "timm", tmp_path / "out")
    expected = digits.model(images)
    by_path = timm.create_model(
        "resnet10t", num_classes=10, in_chans=1, checkpoint_path=str(tmp_path / "out" / "model.safetensors")
    )
    by_folder = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    for network in (by_path, by_folder):
        assert torch.equal(network.eval()(images), expected)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["pretrained_cfg"]["mean"] == [0.305]
    assert config["pretrained_cfg"]["input_size"] == [1, 8, 8]
    assert config["label_names"] == [str(digit) for digit in range(10)]
    assert not {"license", "origin_url", "test_input_size", "crop_pct"} & config["pretrained_cfg"].keys()


@torch.no_grad()
def test_the_averaged_weights_are_a_predictor_of_their_own(
    digits: LoadedRun, images: torch.Tensor, tmp_path: Path
) -> None:
    paths = export(digits, "safetensors", tmp_path / "out", predictor="ema")
    assert paths[0].name.startswith("model-")
    network = digits.bare_network()
    from safetensors.torch import load_file

    network.load_state_dict(load_file(paths[0]))
    assert torch.equal(network(images), digits.predictors["ema"][0](images))
    assert not torch.equal(network(images), digits.model(images))


def test_a_head_of_its_own_takes_the_classifiers_place(digits: LoadedRun, tmp_path: Path) -> None:
    head = nn.Linear(512, 10)
    headed = attrs.evolve(digits, predictors={**digits.predictors, "one": (digits.model, head)})
    chosen = exported(headed, "one")
    with torch.no_grad():
        torch.testing.assert_close(chosen.network(chosen.images), chosen.logits)
    assert torch.equal(chosen.network.get_classifier().weight, head.weight)
    with pytest.raises(ConfigError, match="does not fit in the place"):
        exported(attrs.evolve(headed, predictors={"one": (digits.model, nn.Linear(512, 7))}), "one")


@torch.no_grad()
def test_a_program_of_torch_takes_any_number_of_images(digits: LoadedRun, images: torch.Tensor, tmp_path: Path) -> None:
    export(digits, "pt2", tmp_path / "out")
    network = torch.export.load(tmp_path / "out" / "model.pt2").module()
    torch.testing.assert_close(network(images), digits.model(images))


@torch.no_grad()
def test_onnx_takes_any_number_of_images(digits: LoadedRun, images: torch.Tensor, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra mixcore[onnx] is not installed")
    export(digits, "onnx", tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(["logits"], {"input": images.numpy()})[0])
    torch.testing.assert_close(found, digits.model(images), rtol=1e-3, atol=1e-5)


def test_onnx_without_its_packages_says_what_to_type(
    digits: LoadedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixcore.export.formats.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'needs onnx, onnxscript, onnxruntime; type: pip install "mixcore\[onnx\]"'):
        export(digits, "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_timm_does_not_have_is_sent_to_safetensors(digits: LoadedRun, tmp_path: Path) -> None:
    network = timm.create_model("resnet10t", num_classes=10, in_chans=1)
    network.conv1 = nn.Conv2d(1, 64, 3, padding=1)
    changed = attrs.evolve(exported(digits), network=network)
    with pytest.raises(ConfigError, match=r"resnet10t does not take the weights of this ResNet.*--to safetensors"):
        write_timm(changed, tmp_path)
    with pytest.raises(ConfigError, match=r"Linear is no model of timm's factory; export the tensors alone"):
        write_timm(attrs.evolve(changed, network=nn.Linear(3, 2)), tmp_path)


def test_other_logits_leave_nothing(digits: LoadedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixcore.export.formats.save_file", lambda tensors, path: _save_doubled(tensors, path))
    with pytest.raises(MixcoreError, match="other logits than the run"):
        export(digits, "safetensors", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def _save_doubled(tensors: dict[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: 2 * tensor if name == "fc.weight" else tensor for name, tensor in tensors.items()}, path)


def test_the_card_holds_value_protocol_and_configuration(digits: LoadedRun, tmp_path: Path) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    export(digits, "safetensors", tmp_path / "out")
    card = huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md")
    summary = json.loads((digits.folder / "summary.json").read_text())
    (result,) = card.data.eval_results
    assert result.metric_value == pytest.approx(summary["value"], abs=1e-4)
    assert (result.metric_type, result.dataset_name) == ("accuracy", "digits")
    assert "last, seed 0" in result.metric_name
    text = card.text.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "again.toml").write_text(text)
    assert load_config(tmp_path / "again.toml").digest == summary["digest"]


def test_the_card_of_another_predictor_has_no_value_of_the_runs(digits: LoadedRun, tmp_path: Path) -> None:
    export(digits, "safetensors", tmp_path / "out", predictor="ema")
    assert "The run reports" not in (tmp_path / "out" / "README.md").read_text()


def test_the_command_refuses_what_is_there_and_unknown_predictors(
    digits: LoadedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine").write_text("mine")
    asked = ["export", str(digits.folder), "--to", "safetensors", "--out"]
    assert main([*asked, str(tmp_path / "kept")]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert main([*asked, str(tmp_path / "new"), "--predictor", "eam"]) == 2
    assert "this run has model, ema" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert main([*asked, str(tmp_path / "new")]) == 0
    assert "README.md" in capsys.readouterr().out
