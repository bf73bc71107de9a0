"""Manifold Mixup: the shipped contract, then the examples and invariants of its specification."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from mixcore_plugin_manifoldmix import ManifoldMix
from torch import nn

from mixcore.api import ConfigError, blend_features
from mixcore.mixers import create_mixer, create_step
from mixcore.testing import MixerContract, TinyConvNet, Tripwire, make_step, run_example, tiny_vit


class TestContract(MixerContract):
    plugin = "manifoldmix"


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "manifoldmix"
    device = "cuda"
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractInside(MixerContract):
    plugin = "manifoldmix"
    options = {"layers": [1, 2], "alpha": 0.5}
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractInput(MixerContract):
    plugin = "manifoldmix"
    options = {"layers": [0]}
    left_out = ("two_processes",)


def mixed(features, order, lam):
    order = torch.tensor(order)
    return blend_features(features, order, order.argsort(), lam)


def generate(plugin, images, iteration=0, seed=0, may_overwrite=False):
    rng = torch.Generator().manual_seed(seed)
    return plugin.generate_mix(images=images, step=make_step(iteration=iteration, may_overwrite=may_overwrite), rng=rng)


# --- the examples ----------------------------------------------------------------------------------------------------


def test_the_first_example():
    h = torch.tensor([[[[1.0, 3], [5, 7]]], [[[0, 0], [0, 8]]]])
    expected = torch.tensor([[[[0.75, 2.25], [3.75, 7.25]]], [[[0.25, 0.75], [1.25, 7.75]]]])
    torch.testing.assert_close(mixed(h, [1, 0], 0.75), expected)


def test_the_second_and_third_example():
    h = torch.tensor([1.0, 2, 3]).view(3, 1, 1, 1).requires_grad_()
    out = mixed(h, [1, 2, 0], 0.5)
    assert out.flatten().tolist() == [1.5, 2.5, 2.0]
    (gradient,) = torch.autograd.grad(out.sum(), h)
    assert gradient.flatten().tolist() == [1, 1, 1]


@pytest.mark.parametrize("shape", [(5, 3, 4, 6), (5, 7, 8)])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_gradient_flows_to_both_as_torch_s_own_does(shape, lam):
    order = torch.tensor([2, 0, 1, 4, 3])
    features = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(shape, dtype=torch.float64)
    plain = lam * features + (1 - lam) * features[order]
    out = blend_features(features, order, order.argsort(), lam)
    torch.testing.assert_close(out, plain)
    own, expected = (torch.autograd.grad(one, features, upstream)[0] for one in (out, plain))
    torch.testing.assert_close(own, expected)
    torch.testing.assert_close(own[0], lam * upstream[0] + (1 - lam) * upstream[1])


def test_memory_format_and_dtype_are_kept_both_ways():
    features = torch.randn(4, 3, 5, 6).to(torch.bfloat16, memory_format=torch.channels_last).requires_grad_()
    out = mixed(features, [1, 2, 3, 0], 0.25)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(out, features, torch.ones_like(out))
    assert gradient.dtype == torch.bfloat16
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_a_gradient_that_is_one_number_for_all_pixels_is_spread():
    """A mean behind the stage hands back an expanded gradient, which has no memory of its own."""
    features = torch.randn(3, 2, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(mixed(features, [1, 2, 0], 0.25).sum(), features)
    torch.testing.assert_close(gradient, torch.ones_like(features))


# --- in a network ----------------------------------------------------------------------------------------------------


def resnet(model, x, layer, blend):
    x = model.maxpool(model.act1(model.bn1(model.conv1(x))))
    for number, stage in enumerate((model.layer1, model.layer2, model.layer3, model.layer4), 1):
        x = stage(x)
        x = blend(x) if number == layer else x
    return model.forward_head(x)


def cifar_resnet(model, x, layer, blend):
    return resnet(model, x, layer, blend)


def convnext(model, x, layer, blend):
    x = model.stem(x)
    for number, stage in enumerate(model.stages, 1):
        x = stage(x)
        x = blend(x) if number == layer else x
    return model.forward_head(model.norm_pre(x))


def vit(model, x, layer, blend):
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
    for number, block in enumerate(model.blocks, 1):
        x = block(x)
        x = blend(x) if number == layer else x
    return model.forward_head(model.norm(x))


def swin(model, x, layer, blend):
    x = model.patch_embed(x)
    for number, stage in enumerate(model.layers, 1):
        x = stage(x)
        x = blend(x) if number == layer else x
    return model.forward_head(model.norm(x))


def cifar_resnet18():
    from mixcore.discovery.catalogue import find, installed
    from mixcore.discovery.load import load
    from mixcore.testing import Harness, Subject

    task = Harness(Subject(plugin="none", image_size=(16, 16), num_classes=4)).step()._setup.task
    return load(find("cifar_resnet18", installed()))().build_backbone(task=task)


NETWORKS = {
    "resnet": (lambda: timm.create_model("resnet10t", num_classes=4), resnet, 32),
    "cifar_resnet": (cifar_resnet18, cifar_resnet, 16),
    "convnext": (
        lambda: timm.create_model("convnext_atto", num_classes=4, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)),
        convnext,
        32,
    ),
    "vit": (lambda: tiny_vit(4, (16, 16)), vit, 16),
    "swin": (
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224",
            num_classes=4,
            img_size=32,
            window_size=2,
            embed_dim=12,
            depths=(1, 1, 1, 1),
            num_heads=(1, 1, 2, 2),
        ),
        swin,
        32,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_mixing_inside_equals_mixing_the_map_by_hand(name):
    make, by_hand, size = NETWORKS[name]
    torch.manual_seed(0)
    model = make()
    depths = (0, 1, 2) if name == "vit" else (0, 1, 2, 3)
    images, labels = torch.randn(4, 3, size, size), torch.tensor([0, 1, 2, 3])
    for layer in depths:
        mix = {"name": "manifoldmix", "layers": [layer]}
        step = create_step(model, mix=mix, num_classes=4, iterations=10, image_size=(size, size)).eval()
        loss, report = step(images, labels, iteration=layer)
        lam, partner = report.mix.lam[0], report.mix.partner

        def blend(x, lam=lam, partner=partner):
            return lam * x + (1 - lam) * x[partner]

        logits = by_hand(model, blend(images) if layer == 0 else images, layer, blend)
        cross = nn.functional.cross_entropy
        expected = lam * cross(logits, labels) + (1 - lam) * cross(logits, labels[partner])
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
        parameter = next(model.parameters())
        found, wanted = (torch.autograd.grad(one, parameter)[0] for one in (loss, expected))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
        assert torch.equal(model(images), model(images)), "nothing is mixed outside of the step"


def test_at_the_input_it_is_mixup():
    images, labels = torch.randn(6, 3, 8, 8), torch.arange(6) % 5
    mix = generate(ManifoldMix(layers=(0,), alpha=1.0), images)
    assert mix.stage is None
    lam = mix.lam[0]
    torch.testing.assert_close(mix.images, lam * images + (1 - lam) * images[mix.partner])
    assert create_mixer("manifoldmix", num_classes=5, layers=[0])(images, labels).mask.shape == (6, 1, 1, 1)


def test_a_mixer_for_other_loops_says_where_to_find_the_whole_step():
    mixer = create_mixer("manifoldmix", num_classes=5, layers=[1], model=TinyConvNet(5))
    with pytest.raises(ConfigError, match=r"mixes inside the network, .* use mixcore.create_step"):
        mixer(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))


def test_it_mixes_once_per_training_forward_and_never_otherwise():
    calls = []
    model = TinyConvNet(5)
    step = create_step(model, mix=ManifoldMix(layers=(1,)), num_classes=5, iterations=10, image_size=(8, 8))
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    tap = model.stage2.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0].detach().clone()))
    _, report = step(images, labels)
    clean = model.stage1.train()(images)
    lam, partner = report.mix.lam[0], report.mix.partner
    torch.testing.assert_close(calls.pop(), lam * clean + (1 - lam) * clean[partner])
    assert not calls
    model(images)
    torch.testing.assert_close(calls.pop(), clean)
    tap.remove()

    def fail(module, inputs):
        raise RuntimeError("out of luck")

    tap = model.stage2.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        step(images, labels)
    tap.remove()
    model.stage2.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0].detach().clone()))
    model(images)
    torch.testing.assert_close(calls.pop(), clean)


def test_nothing_of_the_network_is_read_on_the_host_at_a_stage():
    step = create_step(
        tiny_vit(5, (8, 8)), mix=ManifoldMix(layers=(1,)), num_classes=5, iterations=10, image_size=(8, 8)
    )
    loss, _ = step(torch.randn(4, 3, 8, 8).as_subclass(Tripwire), torch.tensor([0, 1, 2, 3]).as_subclass(Tripwire))
    loss.backward()


def test_under_autocast_the_stage_keeps_its_dtype():
    model = TinyConvNet(5)
    seen = []
    model.stage2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    step = create_step(model, mix=ManifoldMix(layers=(1,)), num_classes=5, iterations=10, image_size=(8, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
        assert model.stage1(torch.randn(1, 3, 8, 8)).dtype == seen[0]


# --- draws -----------------------------------------------------------------------------------------------------------


def test_stages_are_drawn_evenly_and_alike_in_every_group():
    plugin, images = ManifoldMix(), torch.zeros(2, 1, 4, 4)
    stages = [generate(plugin, images, iteration, seed=iteration).stage for iteration in range(3000)]
    counts = [stages.count(stage) for stage in (None, 1, 2)]
    assert sum((count - 1000) ** 2 / 1000 for count in counts) < 13.8, f"{counts}: chi-square, p < 0.001"
    others = [generate(plugin, images, iteration, seed=iteration + 1).stage for iteration in range(50)]
    assert others == stages[:50], "the stage does not come from the group's own generator"


def test_a_group_that_sits_out_goes_with_one_that_mixes():
    step = create_step(
        TinyConvNet(5),
        mix={"name": "manifoldmix", "prob": 0.5, "group_size": 2},
        num_classes=5,
        iterations=50,
        image_size=(8, 8),
    )
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 5
    inside = 0
    for iteration in range(30):
        loss, report = step(images, labels, iteration=iteration)
        assert loss.isfinite()
        out = report.mix.lam == 1
        assert torch.equal(report.mix.images[out], images[out])
        inside += int(report.mix.stage is not None and 0 < out.sum() < 8)
    assert inside > 3, "some iterations had groups of both kinds at an inner stage"


def test_an_unmixed_batch_is_the_batch_itself():
    images = torch.randn(3, 3, 4, 4)
    for plugin in (ManifoldMix(alpha=0.0), ManifoldMix(prob=0.0)):
        mix = generate(plugin, images)
        assert mix.images is images
        assert mix.transform is None
        assert mix.lam.tolist() == [1, 1, 1]


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_stage_that_the_backbone_lacks_is_refused_with_those_it_has():
    with pytest.raises(ConfigError, match=r"wants stage 3, .* 1 \(stage1\), 2 \(stage2\); choose one of these in the"):
        create_step(TinyConvNet(5), mix={"name": "manifoldmix", "layers": [0, 3]}, num_classes=5, iterations=1)


def test_a_backbone_without_stages_is_refused_unless_only_the_input_is_mixed():
    model = TinyConvNet(5)
    del model.feature_info
    with pytest.raises(ConfigError, match=r"has stage 0 \(the input\) only"):
        create_step(model, mix="manifoldmix", num_classes=5, iterations=1)
    create_step(model, mix={"name": "manifoldmix", "layers": [0]}, num_classes=5, iterations=1)


@pytest.mark.parametrize(
    "options",
    [{"alpha": -1.0}, {"prob": 1.5}, {"layers": ()}, {"layers": (0, 4)}, {"layers": (-1,)}, {"layers": (1, 1)}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ManifoldMix(**options)


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
    assert names["model"].get_classifier().weight.grad.abs().sum() > 0
