"""Checks of a backbone: its logits, what it has of timm's interface, and that it keeps nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mixcore.networks.interface import has_interface, logits_of
from mixcore.networks.stages import stage_names
from mixcore.testing.expect import expect
from mixcore.testing.harness import Harness, NotApplicableError

__all__ = ["logits_fit_the_task", "no_memory", "timm_interface"]


def logits_fit_the_task(harness: Harness) -> None:
    """The network makes logits [M,K] of images, as a tensor or as an output with `.logits`."""
    model = harness.step().model.eval()
    images, _ = harness.batch(3)
    with torch.no_grad():
        logits = logits_of(model(images))
    expect(list(logits.shape) == [3, harness.task().num_classes], f"logits are {list(logits.shape)} of 3 images")


def timm_interface(harness: Harness) -> None:
    """What the network has of timm's interface agrees: its halves with the whole, its names with its modules."""
    model: Any = harness.step().model.eval()
    modules = dict(model.named_modules())
    stages = stage_names(model)
    for stage in stages:
        expect(stage in modules, f"feature_info names {stage!r}, which is no module of the network")
    if has_interface(model):
        _halves_agree(model, harness.batch(3)[0])
    elif not stages:
        raise NotApplicableError("a plain module: it has nothing of timm's interface, and offers nothing that needs it")


def _halves_agree(model: Any, images: Tensor) -> None:
    with torch.no_grad():
        features = model.forward_features(images)
        logits, pooled = model.forward_head(features), model.forward_head(features, pre_logits=True)
        whole = logits_of(model(images))
    expect(torch.allclose(logits, whole, atol=1e-4), "forward(x) is not forward_head(forward_features(x))")
    expect(isinstance(model.get_classifier(), nn.Module), "get_classifier gives no module")
    width = getattr(model, "head_hidden_size", None) or model.num_features
    expect(list(pooled.shape) == [3, width], f"the head's input is {list(pooled.shape)}, num_features says {width}")


def no_memory(harness: Harness) -> None:
    """In eval mode an image's logits do not depend on its neighbours, and the forward changes no buffer."""
    model = harness.step().model.eval()
    images, _ = harness.batch(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        together, alone = logits_of(model(images)), logits_of(model(images[:1]))
    expect(torch.allclose(together[:1], alone, atol=1e-4), "an image's logits depend on the other images of the batch")
    for name, value in model.state_dict().items():
        expect(torch.equal(value, before[name]), f"{name} changed in eval mode")
