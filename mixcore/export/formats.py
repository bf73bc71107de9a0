"""What an export can write, by name: each writes into a folder, reads it back and compares with the run."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor, nn

from mixcore.errors import ConfigError
from mixcore.export.network import Exported

__all__ = ["FORMATS", "Write"]

Write: TypeAlias = Callable[[Exported, Path], str]
"""Writes its files into a folder that is there and empty; gives the lines of Python that load them."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
ANY_BATCH = ({0: torch.export.Dim("batch")},)
"""The number of images may change, their size not."""
OWN_FACTS = frozenset(
    ("input_size", "fixed_input_size", "mean", "std", "num_classes", "first_conv", "classifier", "custom_load")
)
"""Of what timm's configuration says of weights, that which holds for these: its license, source and crops do not."""
SAFETENSORS_TO = "export the tensors alone with --to safetensors"


def write_timm(exported: Exported, folder: Path) -> str:
    """timm's folder: model.safetensors and config.json, for `timm.create_model` with checkpoint_path or from a hub.

    ConfigError for a network that timm's model of that name cannot take the weights of.
    """
    network, task, architecture = exported.network, exported.run.task, exported.architecture
    if architecture is None:
        raise ConfigError(f"{type(network).__name__} is no model of timm's factory; {SAFETENSORS_TO}")
    preprocessing = {
        "input_size": (task.in_channels, *task.image_size),
        "mean": task.mean,
        "std": task.std,
        "num_classes": task.num_classes,
    }
    described: dict[str, Any] = {"pretrained_cfg": preprocessing}
    if task.class_names and task.label_kind != "value":
        described["label_names"] = list(task.class_names)
    save_for_hf(network, str(folder), model_config=described, safe_serialization=True)
    arguments = {"num_classes": task.num_classes, "in_chans": task.in_channels, **_own_facts(folder / "config.json")}
    try:
        loaded = timm.create_model(architecture, checkpoint_path=str(folder / "model.safetensors"), **arguments)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"timm's {architecture} does not take the weights of this {type(network).__name__}, whose layers differ "
            f"from it ({str(error).splitlines()[0]}); {SAFETENSORS_TO}"
        ) from error
    exported.verify(f"timm's {architecture} with {folder.name}/model.safetensors", _run(loaded.eval(), exported.images))
    shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f'import timm\n\nnetwork = timm.create_model("{architecture}", checkpoint_path="model.safetensors", {shown})'


def _own_facts(file: Path) -> dict[str, Any]:
    """Take what holds for published weights alone out of timm's configuration `file`; gives the model's arguments."""
    config = json.loads(file.read_text())
    config["pretrained_cfg"] = {key: value for key, value in config["pretrained_cfg"].items() if key in OWN_FACTS}
    file.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    return dict(config.get("model_args", {}))


def write_safetensors(exported: Exported, folder: Path) -> str:
    """model-<hash>.safetensors, the network's tensors under its own names, for `[backbone] weights` and other programs.

    The hash is the first eight hexadecimal digits of the file's SHA-256.
    """
    plain = folder / "model.safetensors"
    save_file({name: tensor.contiguous().clone() for name, tensor in exported.network.state_dict().items()}, plain)
    file = plain.rename(folder / f"model-{hashlib.sha256(plain.read_bytes()).hexdigest()[:8]}.safetensors")
    network = exported.run.bare_network()
    network.load_state_dict(load_file(file))
    exported.verify(file.name, _run(network, exported.images))
    return f'from safetensors.torch import load_file\n\nnetwork.load_state_dict(load_file("{file.name}"))'


def write_pt2(exported: Exported, folder: Path) -> str:
    """model.pt2, a program of torch.export for any number of images."""
    program = torch.export.export(exported.network, (exported.images,), dynamic_shapes=ANY_BATCH)
    torch.export.save(program, folder / "model.pt2")
    loaded = torch.export.load(folder / "model.pt2").module()
    exported.verify("model.pt2", _in_two(lambda images: loaded(images), exported.images))
    return 'import torch\n\nnetwork = torch.export.load("model.pt2").module()'


def write_onnx(exported: Exported, folder: Path) -> str:
    """model.onnx for any number of images, `input` to `logits`. ConfigError with what to type where packages lack."""
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f'--to onnx needs {", ".join(missing)}; type: pip install "mixcore[onnx]"')
    import onnxruntime

    file = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own insides
        torch.onnx.export(
            exported.network,
            (exported.images,),
            file,
            input_names=["input"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=ANY_BATCH,
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def logits(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"input": images.numpy()})[0])

    exported.verify("model.onnx", _in_two(logits, exported.images))
    return (
        'import onnxruntime\n\nsession = onnxruntime.InferenceSession("model.onnx")\n'
        'logits = session.run(["logits"], {"input": images})[0]'
    )


FORMATS: Mapping[str, Write] = {
    "timm": write_timm,
    "safetensors": write_safetensors,
    "onnx": write_onnx,
    "pt2": write_pt2,
}


@torch.no_grad()
def _run(network: nn.Module, images: Tensor) -> Tensor:
    return network(images).float()


def _in_two(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Logits of two batches of different size, joined: what was traced holds for any number of images."""
    with torch.no_grad():
        return torch.cat([run(images[:1]), run(images[1:])])
