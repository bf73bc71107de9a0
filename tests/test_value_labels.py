"""Values in place of classes: every installed mixer, label policy and loss trains on them, or is refused by name."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import mixcore
from mixcore.discovery.capabilities import check_task
from mixcore.errors import ConfigError, DataError
from mixcore.mixers.methods import step_plugins
from mixcore.testing import companions
from mixcore.testing.fakes import TinyConvNet, tiny_network
from mixcore.types import Task

METHODS = SimpleNamespace(**runpy.run_path(str(Path(__file__).resolve().parents[1] / "docs" / "build_methods.py")))
VALUES, SIZE, ROWS = 2, (32, 32), 8
TASK = Task(num_classes=VALUES, in_channels=3, image_size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3, label_kind="value")
NOT_FOR_VALUES = {
    "smmix": "regions learn their own class",
    "snapmix": "label weights that do not sum to 1",
    "mixpro_labels": "the likeness of predicted classes",
    "sumix": "predicted classes",
    "supermix": "a teacher's classes",
    "supermix_labels": "the same",
    "decouplemix": "classes compete",
    "decouplemix_bce": "the same",
    "soft_cross_entropy": "classes",
    "bce": "classes",
    "bce_softmax": "classes",
    "class_activation": "a class's logit",
    "class_activation_shifted": "the same",
    "teacher_class_activation": "the same",
    "teacher_class_probability": "the same",
}
PLAIN = {"mix": {"name": "mixup"}, "labels": {"name": "weights"}, "loss": {"name": "l1"}}
MASKED = {"mix": {"name": "cutmix"}, "loss": {"name": "l1"}}


pytestmark = pytest.mark.usefixtures("every_plugin_named")


def refusal(**chosen: Any) -> str | None:
    try:
        check_task(step_plugins(**chosen), TASK)
    except ConfigError as error:
        return str(error)
    return None


def train(**chosen: Any) -> None:
    """Two steps; what the loss is told is the weighted sum of the sources' values."""
    needs = {need for item in step_plugins(**chosen).selected for need in item.declared.needs}
    network = tiny_network(needs, VALUES, SIZE, 3, stages=3)
    step = mixcore.create_step(
        network,
        **chosen,
        num_classes=VALUES,
        iterations=100,
        image_size=SIZE,
        mean=TASK.mean,
        std=TASK.std,
        label_kind="value",
    )
    rng = torch.Generator().manual_seed(0)
    images, labels = torch.randn(ROWS, 3, *SIZE, generator=rng), 50 * torch.randn(ROWS, VALUES, generator=rng)
    optimizer = torch.optim.SGD(step.param_groups(), lr=1e-4)
    for iteration in range(2):
        loss, report = step(images.clone(), labels, iteration=iteration, **companions(step, images))
        assert loss.isfinite()
        targets = report.targets
        expected = (targets.weights[..., None] * labels[targets.sources]).sum(1)
        torch.testing.assert_close(targets.dense(VALUES), expected)
        assert not report.accuracies
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step.after_step()
    assert all(parameter.isfinite().all() for parameter in step.model.parameters())


def check_refused(found: str | None, name: str, instead: tuple[str, ...]) -> None:
    assert found is not None
    assert re.search(rf"\b{name}\b.* takes labels of kind .*, and this task has value labels", found)
    assert any(re.search(rf"\b{one}\b", found.partition("in place of")[2]) for one in instead), found


@pytest.mark.parametrize("mixer", METHODS.names("mix"))
def test_every_mixer_trains_on_values_or_is_refused(mixer: str) -> None:
    chosen = {**PLAIN, "mix": METHODS.table_of(mixer)}
    if mixer in NOT_FOR_VALUES:
        check_refused(refusal(**chosen), mixer, ("mixup", "cutmix"))
        return
    for held in (option for name, option in METHODS.holders() if name == mixer):
        if chosen["mix"].get(held, {}).get("name", "").startswith("teacher_class"):
            chosen["mix"][held] = "uniform"
    train(**chosen)


@pytest.mark.parametrize("policy", METHODS.names("labels"))
def test_every_label_policy_trains_on_values_or_is_refused(policy: str) -> None:
    chosen: dict[str, Any] = {**MASKED, "labels": METHODS.table_of(policy)}
    if policy in NOT_FOR_VALUES:
        check_refused(refusal(**chosen), policy, ("weights",))
        return
    if policy == "tokenmix_labels":  # by default a teacher's classifier says where the content is
        check_refused(refusal(**chosen), "teacher_class_probability", ("feature", "uniform"))
        chosen["labels"] = {"name": policy, "saliency": "uniform"}
    train(**chosen)


@pytest.mark.parametrize("loss", METHODS.names("loss"))
def test_every_loss_trains_on_values_or_is_refused(loss: str) -> None:
    chosen = {**PLAIN, "loss": {"name": loss}}
    if loss in NOT_FOR_VALUES:
        check_refused(refusal(**chosen), loss, ("l1",))
    else:
        train(**chosen)


@pytest.mark.parametrize("saliency", METHODS.names("saliency"))
def test_saliencies_of_a_class_are_refused(saliency: str) -> None:
    mixer = {"name": "saliencymix", "saliency": METHODS.saliency_for_trial(saliency)}
    found = refusal(**{**PLAIN, "mix": mixer})
    if saliency in NOT_FOR_VALUES:
        check_refused(found, saliency, ("feature", "uniform"))
    else:
        assert found is None


def test_a_loop_of_ones_own_is_told_what_its_labels_are() -> None:
    net = TinyConvNet(1)
    step = mixcore.create_step(net, mix="mixup", loss="bce", num_classes=1, iterations=2, image_size=(8, 8))
    with pytest.raises(DataError, match=r"label_kind='class'.*label_kind='soft' \(rows over classes\) or 'value'"):
        step(torch.randn(4, 3, 8, 8), torch.rand(4, 1))
    mixer = mixcore.create_mixer("mixup", num_classes=1)
    with pytest.raises(DataError, match=r"labels are float32 \[4\].*floating \[N,1\]: labels\[:, None\]"):
        mixer(torch.randn(4, 3, 8, 8), torch.rand(4))
