"""No iteration but the first waits for a copy from the host: shown on torch's meta device, without an accelerator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mixcore
from mixcore.testing.fakes import tiny_network

META, SIZE = torch.device("meta"), (16, 16)
SHOWN = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.7"), reason="torch 2.6 does not show such a constant to a dispatch mode"
)


class HostCopies(TorchDispatchMode):
    """Notes every operation that would make the host wait for a device, were `meta` one."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        remote = [one for one in tensors if one.device == META]
        if name == "aten::lift_fresh" and remote:
            self.found.append("torch.tensor(..., device=)")
        if name == "aten::_to_copy" and not remote and kwargs.get("device") == META and not kwargs.get("non_blocking"):
            self.found.append(f"{name} from the host")
        if name == "aten::copy_" and tensors[0].device == META and tensors[1].device != META:
            self.found.append(f"{name} from the host")
        if remote and name in ("aten::nonzero", "aten::_local_scalar_dense", "aten::masked_select"):
            self.found.append(name)
        return func(*args, **kwargs)


@pytest.mark.parametrize(
    ("operation", "caught"),
    [
        pytest.param(lambda x: torch.tensor([1.0, 2.0], device=x.device), True, marks=SHOWN),
        pytest.param(lambda x: x.new_tensor([1.0, 2.0]), True, marks=SHOWN),
        (lambda x: torch.ones(2).to(x.device), True),
        (lambda x: x.copy_(torch.ones(2)), True),
        (lambda x: torch.ones(2).to(x.device, non_blocking=True), False),
        (lambda x: torch.full((2,), 1.0, device=x.device), False),
        (lambda x: torch.where(x > 0, 0.0, x) * 2.0, False),
    ],
)
def test_what_the_recorder_sees(operation: Callable[[Tensor], Tensor], caught: bool) -> None:
    x = torch.zeros(2, device=META)
    with HostCopies() as copies:
        operation(x)
    assert bool(copies.found) is caught


METHODS: Sequence[tuple[Any, Mapping[str, Any]]] = (
    ("none", {}),
    ("mixup", {}),
    ({"name": "mixup", "per_sample": True}, {}),
    ("cutmix", {"labels": "area"}),
    ({"name": "cutmix", "per_sample": True, "minmax": [0.2, 0.8]}, {"loss": "bce_softmax"}),
    ({"name": "mixup_cutmix", "mode": "elem"}, {"loss": {"name": "bce", "target_threshold": 0.2}}),
    ({"name": "mixup_cutmix", "mode": "pair"}, {"loss": {"name": "bce", "smoothing": 0.1}}),
    ("manifoldmix", {"loss": {"name": "decouplemix", "mode": "less"}}),
    ("saliencymix", {"loss": {"name": "decouplemix", "mode": "less"}}),
    ({"name": "saliencymix", "saliency": "onoff8"}, {"loss": "decouplemix_bce"}),
    ({"name": "saliencymix", "saliency": "spectral_residual"}, {}),
    ({"name": "attentivemix", "saliency": "feature"}, {}),
    ({"name": "attentivemix", "saliency": "fine_grained", "grid": 7}, {"labels": "area"}),
    ({"name": "puzzlemix", "clean_lam": 1.0}, {}),
    ({"name": "puzzlemix", "max_log2_blocks": 1}, {}),
    ("cmixup", {}),
    ("comixup", {}),
    ({"name": "comixup", "block_num": 2, "m_part": 4, "saliency": "feature", "clean_lam": 0.0}, {}),
    ("automix", {}),
    ("samix", {}),
    ("adautomix", {}),
    ({"name": "adautomix", "mix_samples": 2, "lam_concat": True, "att_norm": "batch"}, {}),
    ("cutmix", {"labels": "transmix"}),
    ("resizemix", {"labels": "area"}),
    ({"name": "resizemix", "per_sample": True, "interpolation": "bilinear"}, {}),
    ({"name": "resizemix", "box": "clip", "per_sample_pos": False}, {}),
    ("smoothmix", {}),
    ({"name": "smoothmix", "per_sample": True}, {"labels": "area"}),
    ("fmix", {}),
    ({"name": "fmix", "per_sample": True, "max_soft": 0.2}, {"labels": "area"}),
    ("gridmix", {}),
    ({"name": "gridmix", "per_sample": True}, {}),
    ("alignmix", {}),
    ({"name": "supermix", "teacher": tiny_network({"stages"}, 5, SIZE, 3)}, {}),
    ("saliencygrafting", {}),
    ("snapmix", {}),
    ({"name": "guidedmix", "prob": 1.0}, {"labels": "area"}),
    ({"name": "guidedmix", "prob": 1.0, "saliency": "input_grad", "clean_lam": 1.0, "distance": "cosine"}, {}),
    ({"name": "snapmix", "per_sample": True, "same_label": "double"}, {"labels": "area"}),
    ("cutmix", {"labels": "saliencygrafting_labels"}),
    ("cutmix", {"labels": "sumix"}),
    ({"name": "tokenmix", "switch_prob": 1.0}, {"labels": {"name": "tokenmix_labels", "saliency": "feature"}}),
    ("mixpro", {"labels": "mixpro_labels"}),
    ({"name": "mixpro", "switch_prob": 1.0, "cell": 7}, {"labels": {"name": "mixpro_labels", "source": "energy"}}),
    ("smmix", {}),
    ({"name": "smmix", "switch_prob": 1.0, "attn": "energy", "token_head": "separate"}, {}),
    ("tla", {"labels": "tla_labels"}),
    ("mergemix", {}),
    ({"name": "mergemix", "switch_off": 0.5, "lam_scale": "gaussian", "saliency": "merged_attention"}, {}),
)
ATTENDING = ("transmix", "mixpro_labels", "tla_labels", "mergemix", "smmix")
"""Methods that read attention."""


@pytest.mark.parametrize(("mix", "more"), METHODS, ids=str)
def test_no_method_waits_for_a_copy_from_its_second_iteration_on(mix: Any, more: Mapping[str, Any]) -> None:
    options = mix if isinstance(mix, dict) else {"name": mix}
    attends = {options["name"], str(more.get("labels"))} & set(ATTENDING) and options.get("attn") != "energy"
    needs = {"attention"} if attends else {"stages"}
    model = tiny_network(needs, 5, SIZE, 3, stages=3)
    step = mixcore.create_step(model.to(META), mix=mix, num_classes=5, iterations=100, image_size=SIZE, **more)
    optimizer = torch.optim.SGD(step.param_groups(lr=0.1), lr=0.1, momentum=0.9)
    images = torch.zeros(6, 3, *SIZE, device=META)
    labels = torch.zeros(6, dtype=torch.int64, device=META)
    for iteration in range(6):
        with HostCopies() as copies:
            loss, _ = step(images, labels, epoch=0, iteration=iteration)
            loss.backward()
            optimizer.step()
            step.after_step()
        if iteration:
            assert copies.found == []
