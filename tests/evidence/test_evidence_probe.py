"""The probe looks without touching, and computes each thing once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixcore.errors import MixcoreError
from mixcore.evidence.memo import Memo
from mixcore.evidence.probe import SALIENCY, Probe, saliency_needs, saliency_stages
from mixcore.networks.network import Network
from mixcore.options import Saliency
from mixcore.types import Targets

CLASSES = 5


def criterion(logits: Tensor, targets: Targets) -> Tensor:
    return F.cross_entropy(logits, targets.dense(CLASSES))


def resnet(**options: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=CLASSES, **options)


def vit(**options: object) -> nn.Module:
    torch.manual_seed(0)
    settings = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2, **options}
    return timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, **settings)


def convnext() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("convnext_atto", num_classes=CLASSES, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))


def swin() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        num_classes=CLASSES,
        img_size=32,
        patch_size=4,
        window_size=4,
        embed_dim=8,
        num_heads=(1, 2),
        depths=(1, 2),
    )


def probe_of(module: nn.Module, **declared: Any) -> Probe:
    network = Network(module, **declared)
    return Probe(network, {}, criterion, nullcontext)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 3, 1])


def snapshot(module: nn.Module) -> tuple[Any, ...]:
    return (
        {name: tensor.clone() for name, tensor in module.state_dict().items()},
        [part.training for part in module.modules()],
        [parameter.grad for parameter in module.parameters()],
        torch.get_rng_state(),
        torch.is_grad_enabled(),
    )


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Nothing about the network, its gradients or the global generator may differ afterwards."""
    before = snapshot(module)
    yield
    after = snapshot(module)
    assert before[0].keys() == after[0].keys()
    for name, tensor in before[0].items():
        torch.testing.assert_close(after[0][name], tensor, rtol=0, atol=0, msg=name)
    assert before[1] == after[1]
    assert all(a is b for a, b in zip(before[2], after[2], strict=True))
    assert torch.equal(before[3], after[3])
    assert before[4] == after[4]


def test_looking_touches_nothing(images, labels) -> None:
    module = resnet(drop_rate=0.5).train()
    module.layer1.eval()
    probe = probe_of(module, stages=(1, -1))
    sources = ("input_grad", "feature", "class_activation", "spectral_residual", "fine_grained")
    with untouched(module):
        output = probe.look(images, stages=(1,))
        pooled = output.pooled
        probe.class_activation(images, labels)
        for name in sources:
            probe.saliency(name, images, labels)
    assert not output.logits.requires_grad
    module.eval()
    torch.testing.assert_close(output.logits, module(images), rtol=0, atol=0)
    torch.testing.assert_close(pooled, module.forward_head(output.features, pre_logits=True), rtol=0, atol=0)


def test_another_way_through_the_network_touches_nothing(images) -> None:
    module = resnet(drop_rate=0.5).train()
    module.layer1.eval()
    probe = probe_of(module)
    with untouched(module), probe.looking() as seen:
        assert seen is module
        assert not module.layer2.training
        first = module.maxpool(module.act1(module.bn1(module.conv1(images))))
    assert not first.requires_grad
    with probe.looking(train=True, grad=True):
        assert module.layer2.training
        assert not module.layer1.training, "what was frozen stays frozen"
        assert module.conv1(images).requires_grad
    with pytest.raises(MixcoreError, match="no part 'k'"), probe.looking(network="k"):
        pass


def test_what_is_pooled_later_has_no_graph_either(images) -> None:
    module = convnext().train()
    assert not probe_of(module).look(images).pooled.requires_grad
    assert probe_of(module).look(images, grad=True).pooled.requires_grad


def test_modes_come_back_after_an_exception(images) -> None:
    module = resnet().train()
    probe = probe_of(module)
    with untouched(module), pytest.raises(RuntimeError):
        probe.look(images[:, :1])


def test_a_look_in_train_mode_moves_batch_norm_and_can_have_a_graph(images) -> None:
    module = resnet().eval()
    probe = probe_of(module)
    output = probe.look(images, train=True, grad=True)
    assert int(module.bn1.num_batches_tracked) == 1
    assert not any(part.training for part in module.modules())
    gradients = torch.autograd.grad(output.logits.sum(), module.parameters())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("ask", ["input_gradient", "class_activation", "input_grad", "feature"])
def test_evidence_in_train_mode_is_that_of_the_training_network(ask: str, images, labels) -> None:
    module = resnet().eval()
    probe = probe_of(module, stages=(-1,))
    called = getattr(probe, ask, None) or functools.partial(probe.saliency, ask)
    cold, warm = called(images, labels), called(images, labels, train=True)
    assert int(module.bn1.num_batches_tracked) == 1
    assert not any(part.training for part in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not torch.allclose(cold, warm)
    module.train()
    assert called(images, labels, train=True) is warm, "asked once, whatever the mode that it is in"
    assert called(images, labels) is cold


def test_train_mode_leaves_what_was_frozen_inside(images) -> None:
    module = resnet().train()
    module.layer1.eval()
    probe_of(module).look(images, train=True)
    assert int(module.bn1.num_batches_tracked) == 1
    assert int(module.layer1[0].bn1.num_batches_tracked) == 0


def test_parts_are_looked_at_by_name(images) -> None:
    part, network = Network(vit(), stages=(1,)), Network(resnet())
    probe = Probe(network, {"teacher": part}, criterion, nullcontext)
    output = probe.look(images, network="teacher", stages=(1,))
    assert output.stages[1].shape == (3, 24, 4, 4)
    with pytest.raises(MixcoreError, match=r"no part 'student'.*teacher"):
        probe.look(images, network="student")
    assert probe.model is network.module


@pytest.mark.parametrize("make", [resnet, vit, convnext, swin])
def test_the_input_gradient_is_that_of_the_run_s_loss(make, images, labels) -> None:
    module = make().train()
    probe = probe_of(module)
    with untouched(module):
        gradient = probe.input_gradient(images, labels)
    module.eval()
    leaf = images.clone().requires_grad_()
    F.cross_entropy(module(leaf), labels).backward()
    torch.testing.assert_close(gradient, leaf.grad)
    assert not images.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_input_gradient_under_autocast(dtype, images, labels) -> None:
    module = resnet().eval()
    autocast = functools.partial(torch.autocast, "cpu", dtype=dtype)
    exact = probe_of(module).input_gradient(images, labels)
    probe = Probe(Network(module, autocast=autocast), {}, criterion, autocast)
    gradient = probe.input_gradient(images, labels)
    assert gradient.dtype == torch.float32
    assert F.cosine_similarity(gradient.flatten(), exact.flatten(), 0) > 0.98
    with probe.autocast():
        assert torch.get_autocast_dtype("cpu") == dtype


def test_the_input_gradient_inside_foreign_hooks_and_frozen_networks(images, labels) -> None:
    module = resnet().eval()
    expected = probe_of(module).input_gradient(images, labels)
    module.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(probe_of(module).input_gradient(images, labels), expected)


def test_soft_labels_have_a_gradient_too(images, labels) -> None:
    module = resnet().eval()
    soft = F.one_hot(labels, CLASSES).float()
    ours = probe_of(module).input_gradient(images, soft)
    torch.testing.assert_close(ours, probe_of(module).input_gradient(images, labels))


def test_one_pass_gives_gradient_and_loss(images, labels) -> None:
    """Both equal a plain train-mode forward and backward, and statistics move once."""
    ours, plain = resnet().train(), resnet().train()
    gradient, loss = probe_of(ours).input_gradient_and_loss(images, labels)
    assert all(parameter.grad is None for parameter in ours.parameters())
    (2 * loss).backward()
    leaf = images.clone().requires_grad_()
    expected = F.cross_entropy(plain(leaf), labels)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, leaf.grad)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, 2 * theirs.grad)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, plain.get_buffer(name))


def test_the_probe_settles(images, labels) -> None:
    module = resnet().train()
    probe = probe_of(module)
    output = probe.look(images, train=True, grad=True)
    loss = probe.settle(F.cross_entropy(output.logits, labels), module.parameters())
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_the_criterion_is_the_run_s_loss(images, labels) -> None:
    probe = probe_of(resnet())
    logits = torch.randn(3, CLASSES, dtype=torch.float64)
    targets = Targets(labels=labels, sources=torch.arange(3)[:, None], weights=torch.ones(3, 1))
    torch.testing.assert_close(probe.criterion(logits, targets), F.cross_entropy(logits.float(), labels))


# --- class activation ------------------------------------------------------------------------------------------------


def test_class_activation_of_pooling_and_a_linear_classifier(images, labels) -> None:
    module = resnet(output_stride=8).train()
    found = probe_of(module).class_activation(images, labels)
    module.eval()
    features = module.forward_features(images)
    expected = torch.einsum("nc,nchw->nhw", module.fc.weight[labels], features)
    assert found.shape == (3, 4, 4)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)
    # without the bias, its mean is the logit
    logit = module(images).gather(1, labels[:, None])[:, 0] - module.fc.bias[labels]
    torch.testing.assert_close(found.mean((1, 2)), logit.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [convnext, swin, functools.partial(vit, global_pool="avg")])
def test_class_activation_is_grad_cam(make, images, labels) -> None:
    module = make().eval()
    images = torch.randn(3, 3, 64, 64) if make is convnext else images
    found = probe_of(module).class_activation(images, labels)
    raw = module.forward_features(images).detach().requires_grad_()
    (slope,) = torch.autograd.grad(module.forward_head(raw).gather(1, labels[:, None]).sum(), raw)
    if make is convnext:
        maps, slopes = raw, slope
    elif make is swin:
        maps, slopes = raw.permute(0, 3, 1, 2), slope.permute(0, 3, 1, 2)
    else:
        maps, slopes = (one[:, 1:].transpose(1, 2).unflatten(2, (4, 4)) for one in (raw, slope))
    expected = (slopes.mean((2, 3), keepdim=True) * maps).sum(1)
    torch.testing.assert_close(found / found[0, 0].numel() / found.shape[1], expected.detach(), rtol=1e-4, atol=1e-6)


def test_class_activation_is_refused_for_a_class_token(images, labels) -> None:
    with pytest.raises(MixcoreError, match="reads a class token"):
        probe_of(vit()).class_activation(images, labels)


# --- saliency --------------------------------------------------------------------------------------------------------


def test_every_saliency_is_a_map_that_is_not_negative(images, labels) -> None:
    module = vit(global_pool="avg")
    probe = probe_of(module, stages=saliency_stages("feature"), attention=True)
    shapes = {}
    for name in SALIENCY:
        found = probe.saliency(name, images, labels)
        assert bool((found >= 0).all()), name
        assert found.dtype == torch.float32
        assert not found.requires_grad
        shapes[name] = tuple(found.shape)
    assert shapes == {
        "input_grad": (3, 32, 32),
        "feature": (3, 4, 4),
        "class_activation": (3, 4, 4),
        "attention": (3, 4, 4),
        "spectral_residual": (3, 32, 32),
        "fine_grained": (3, 32, 32),
        "uniform": (3, 32, 32),
    }


def test_saliencies_are_what_they_say(images, labels) -> None:
    module = vit().eval()
    probe = probe_of(module, stages=(-1,), attention=True)
    gradient = probe.input_gradient(images, labels)
    torch.testing.assert_close(probe.saliency("input_grad", images, labels), gradient.pow(2).mean(1).sqrt())
    output = probe.look(images, stages=(-1,), attention=True)
    energy = probe.saliency("feature", images, labels)
    torch.testing.assert_close(energy, output.stages[-1].square().sum(1))
    assert bool((energy.flatten(1).std(1) / energy.flatten(1).mean(1) > 1e-3).all()), "taken before the final norm"
    torch.testing.assert_close(probe.saliency("attention", images, labels).flatten(1), output.attention[-1].row())


def test_attention_without_a_class_token_is_what_patches_receive(images, labels) -> None:
    probe = probe_of(swin().eval(), attention=True)
    received = probe.look(images, attention=True).attention[-1].received()
    torch.testing.assert_close(probe.saliency("attention", images, labels).flatten(1), received)


def test_needs_and_stages_of_saliencies() -> None:
    assert {name: saliency_needs(name) for name in SALIENCY} == {
        "input_grad": frozenset(),
        "feature": {"stages"},
        "class_activation": {"class_activation"},
        "attention": {"attention"},
        "spectral_residual": frozenset(),
        "fine_grained": frozenset(),
        "uniform": frozenset(),
    }
    assert saliency_stages("feature") == (-1,)
    assert saliency_stages("input_grad") == ()


def test_every_method_looks_at_a_part_by_its_name(images, labels) -> None:
    student, teacher = resnet(), resnet()
    with torch.no_grad():
        teacher.fc.weight.mul_(2)
    teacher.requires_grad_(False).eval()
    part = Network(teacher, stages=(-1,))
    probe = Probe(Network(student, stages=(-1,)), {"teacher": part}, criterion, nullcontext)
    alone = Probe(part, {}, criterion, nullcontext)
    for ask in (
        lambda probe, **network: probe.input_gradient(images, labels, **network),
        lambda probe, **network: probe.class_activation(images, labels, **network),
        *(
            lambda probe, name=name, **network: probe.saliency(name, images, labels, **network)
            for name in ("input_grad", "feature", "class_activation", "fine_grained")
        ),
    ):
        own, of_part = ask(probe), ask(probe, network="teacher")
        torch.testing.assert_close(of_part, ask(alone), rtol=0, atol=0)
        assert ask(probe, network="teacher") is of_part
        assert own is not of_part
    assert not torch.equal(
        probe.input_gradient(images, labels), probe.input_gradient(images, labels, network="teacher")
    )
    with pytest.raises(MixcoreError, match="no part 'other'"):
        probe.saliency("input_grad", images, labels, network="other")


def test_a_saliency_of_an_option_is_asked_through_the_run(images, labels) -> None:
    held = Saliency("feature")
    asked = []

    def ask(saliency, images, labels):
        asked.append(saliency)
        return images.mean(1)

    probe = Probe(Network(resnet()), {}, criterion, nullcontext, ask=ask)
    assert torch.equal(probe.saliency(held, images, labels), images.mean(1))
    assert asked == [held]
    with pytest.raises(
        MixcoreError, match=r"'feature' chooses its network and its mode itself; leave out network= and train="
    ):
        probe.saliency(held, images, labels, network="teacher")
    with pytest.raises(MixcoreError, match="leave out network= and train="):
        probe.saliency(held, images, labels, train=True)
    with pytest.raises(MixcoreError, match="'feature' belongs to no run"):
        probe_of(resnet()).saliency(held, images, labels)


def test_an_unknown_saliency_is_refused(images, labels) -> None:
    with pytest.raises(MixcoreError, match="choose one of input_grad, feature"):
        probe_of(resnet()).saliency("grad_cam", images, labels)


def test_each_is_computed_once_for_a_batch(images, labels) -> None:
    module = resnet()
    forwards = []
    module.register_forward_pre_hook(lambda *_: forwards.append(1))
    module.conv1.register_forward_pre_hook(lambda *_: forwards.append(1))
    memo = Memo()
    network = Network(module)
    first, second = (Probe(network, {}, criterion, nullcontext, memo) for _ in range(2))
    saliency = first.saliency("input_grad", images, labels)
    assert second.saliency("input_grad", images, labels) is saliency
    second.input_gradient(images, labels)
    assert len(forwards) == 1
    # a batch that was written to since, and another batch, are computed anew
    images.mul_(2)
    assert second.saliency("input_grad", images, labels) is not saliency
    second.saliency("input_grad", images.clone(), labels)
    assert len(forwards) == 3
    Probe(network, {}, criterion, nullcontext).input_gradient(images, labels)
    assert len(forwards) == 4


def doubled(tensor: Tensor) -> Tensor:
    return 2 * tensor


def test_a_function_is_compiled_once_where_the_run_compiles_and_else_never(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def compile_once(function: Callable[..., Any]) -> Callable[..., Any]:
        made.append(function)
        return lambda *given: function(*given)

    monkeypatch.setattr(torch, "compile", compile_once)
    network = Network(resnet())
    plain = Probe(network, {}, criterion, nullcontext)
    assert plain.compiled(doubled) is doubled
    first, second = (Probe(network, {}, criterion, nullcontext, compile=True) for _ in range(2))
    assert first.compiled(doubled) is second.compiled(doubled) is not doubled
    assert made == [doubled]
    assert float(first.compiled(doubled)(torch.tensor(3.0))) == 6.0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_probe_of_a_compiled_network(images, labels, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    module = resnet().train()
    expected = probe_of(resnet()).input_gradient(images, labels)
    probe = probe_of(module, compile=True)
    with untouched(module):
        torch.testing.assert_close(probe.input_gradient(images, labels), expected)
