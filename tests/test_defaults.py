"""What torch's default dtype and device are in the user's program changes no bit of a mix or of a loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mixcore
from mixcore.discovery.catalogue import find, installed
from mixcore.discovery.load import load
from mixcore.step.step import TrainingStep
from mixcore.testing.fakes import tiny_network
from mixcore.types.mix import _pair_constants

SIZE = (16, 16)
VARIANTS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "comixup": (
        {"block_num": 8, "m_part": 4, "beta": 0.02, "thres_type": "soft"},
        {"block_num": -1, "saliency": "fine_grained", "clean_lam": 0.0},
    ),
    "cutmix": ({"per_sample": True, "correct_lam": False}, {"minmax": [0.2, 0.8]}, {"partner": "flip"}),
    "fmix": ({"per_sample": True, "spectrum": "isotropic"}, {"max_soft": 0.2, "reformulate": True}),
    "gridmix": ({"per_sample": True, "hole_aspect": [0.5, 2.0]}, {"lam_range": [0.1, 0.9]}),
    "mergemix": ({"switch_off": 0.0, "lam_scale": "gaussian", "saliency": "fine_grained"},),
    "mixpro": ({"switch_prob": 1.0}, {"switch_prob": 1.0, "cell": 7, "area": "cells"}),
    "mixup": ({"per_sample": True},),
    "mixup_cutmix": ({"mode": "elem"}, {"mode": "pair"}, {"mode": "half"}, {"cutmix_minmax": [0.2, 0.8]}),
    "puzzlemix": ({"adv_p": 1.0, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}, {"saliency": "fine_grained"}),
    "saliencymix": ({"saliency": "onoff8"}, {"per_sample_box": False}, {"saliency": "feature"}),
    "attentivemix": ({"saliency": "fine_grained", "grid": 7}, {"saliency": "fine_grained", "top_k": 6}),
    "tokenmix": ({"mask_type": "random", "switch_prob": 1.0}, {"ratio": "beta", "grid": 7, "switch_prob": 1.0}),
    "adautomix": ({"mix_samples": 2, "lam_concat": True, "att_norm": "batch"}, {"is_random": True, "lam_margin": 0.5}),
    "automix": ({"mask_schedule": "cosine_compounding", "upsample": ["nearest", "bilinear"], "lam_margin": 0.5},),
    "resizemix": (
        {"per_sample": True, "use_beta": True},
        {"per_sample": True, "interpolation": "bilinear"},
        {"box": "clip", "per_sample_pos": False},
    ),
    "samix": ({"no_repeat": True},),
    "smmix": ({"attn": "energy", "switch_prob": 1.0, "token_head": "separate"},),
    "smoothmix": ({"per_sample": True, "label_swap": True},),
}
"""Beside the defaults: the options that lead through other draws and other tensors."""
FETCHES: Mapping[str, dict[str, Any]] = {
    "attentivemix": {"saliency": "feature"},
    "mergemix": {"saliency": "feature"},
    "smmix": {"attn": "energy"},
    "supermix": {"teacher": tiny_network({"stages"}, 5, (16, 16), 3)},
}
"""Mixers whose defaults need attention, a teacher, or one that timm would fetch, and what stands in its place."""
MORE_THAN_A_BATCH = ("adautomix", "alignmix", "automix", "manifoldmix", "mergemix", "samix", "smmix")
"""Mixers that create_step alone gives."""
LABELS: Mapping[str, Any] = {
    "mixpro": {"name": "mixpro_labels", "source": "energy"},
    "tla": "weights",
    "tokenmix": {"name": "tokenmix_labels", "saliency": "feature"},
}
"""Label policies in place of those that a mixer suggests and that need a teacher of the task, or attention."""


def mixers() -> list[tuple[str, dict[str, Any]]]:
    """Every installed mixer by its name, with its defaults (or what stands in their place) and each of its variants."""
    claims = installed()
    ours = [name for name, (entry, *_) in claims.items() if entry.distribution.startswith("mixcore")]
    names = [name for name in sorted(ours) if getattr(load(find(name, claims)), "role", "") == "mix"]
    assert {"cutmix", "puzzlemix", "samix", "none"} <= set(names)
    return [(name, options) for name in names for options in (FETCHES.get(name, {}), *VARIANTS.get(name, ()))]


@contextmanager
def defaults(dtype: torch.dtype, device: str | None) -> Iterator[None]:
    """Torch's defaults, set as a user's program does."""
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def network() -> nn.Module:
    return tiny_network({"stages"}, 5, SIZE, 3, stages=3)


def batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(6, 3, *SIZE, generator=rng), torch.randint(5, (6,), generator=rng)


def step_of(name: str, options: Mapping[str, Any], model: nn.Module, **more: Any) -> TrainingStep:
    step = mixcore.create_step(
        model, mix={"name": name, **options}, num_classes=5, iterations=100, image_size=SIZE, **more
    )
    assert isinstance(step, TrainingStep)
    return step


def everything(name: str, options: Mapping[str, Any], images: Tensor, labels: Tensor, model: nn.Module) -> list[Tensor]:
    """What two calls of the mixer and of its whole step give, through both doors where both are open."""
    found: list[Tensor] = []
    if name not in MORE_THAN_A_BATCH:
        mixer = mixcore.create_mixer(name, num_classes=5, model=model, **options)
        for _ in range(2):
            mix = mixer(images, labels)
            found += [mix.images, mix.sources, mix.weights, mix.targets(labels).dense(5)]
            found += [] if mix.masks is None else [mix.masks]
    step = step_of(name, options, model, labels=LABELS.get(name))
    for _ in range(2):
        loss, report = step(images, labels, logging=True)
        found += [loss.detach(), report.mix.images, report.mix.weights, *report.losses.values()]
        step.after_step()
    return found


@pytest.mark.parametrize(("dtype", "device"), [(torch.float64, None), (torch.float32, "meta"), (torch.float64, "cpu")])
@pytest.mark.parametrize(("name", "options"), mixers(), ids=str)
def test_every_mixer_minds_no_defaults(
    name: str, options: dict[str, Any], dtype: torch.dtype, device: str | None
) -> None:
    images, labels = batch()
    expected = everything(name, options, images, labels, network())
    model = network()
    _pair_constants.cache_clear()  # what one program made is not what another one finds
    with defaults(dtype, device):
        found = everything(name, options, images, labels, model)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.dtype, ours.device) == (theirs.dtype, theirs.device)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("loss", ["bce", "bce_softmax", "decouplemix", "decouplemix_bce"])
@pytest.mark.parametrize("labels", ["weights", "area", "sumix"])
def test_every_loss_and_label_policy_minds_no_defaults(loss: str, labels: str) -> None:
    images, classes = batch()

    def value(model: nn.Module) -> Tensor:
        return step_of("cutmix", {}, model, loss=loss, labels=labels)(images, classes)[0].detach()

    expected, model = value(network()), network()
    with defaults(torch.float64, "meta"):
        found = value(model)
    assert (found.dtype, found.device) == (torch.float32, torch.device("cpu"))
    assert torch.equal(found, expected)
