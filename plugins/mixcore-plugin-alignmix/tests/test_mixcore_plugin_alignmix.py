"""AlignMix: the shipped contract, then the examples and invariants of its specification."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
from mixcore_plugin_alignmix import AlignMix, align, transport
from mixcore_plugin_alignmix.positions import Layout
from torch import nn

from mixcore.api import ConfigError
from mixcore.mixers import create_step
from mixcore.testing import MixerContract, TinyConvNet, Tripwire, run_example, tiny_vit


class TestContract(MixerContract):
    plugin = "alignmix"


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "alignmix"
    device = "cuda"
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractAligned(MixerContract):
    plugin = "alignmix"
    options = {"p_align": 1.0}
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractManifold(MixerContract):
    plugin = "alignmix"
    options = {"plain": "manifoldmix", "layers": [0, 1], "p_align": 0.0}
    left_out = ("two_processes",)


def vectors(*rows):
    """Sets of vectors of one channel: [N,n,1]."""
    return torch.tensor(rows, dtype=torch.float32)[:, :, None]


def by_definition(own, other, eps=0.1, max_iter=100, tol=0.1):
    """Steps 3 to 5 as they are written: (plan, rounds)."""
    cost = (own[:, :, None] - other[:, None]).square().sum(-1)
    rows = torch.zeros(cost.shape[:2])
    columns, marginal = torch.zeros_like(rows), math.log(1 / cost.shape[1] + 1e-8)

    def scores():
        return (rows[:, :, None] + columns[:, None] - cost) / eps

    for number in range(1, max_iter + 1):  # noqa: B007 - returned
        before = rows
        rows = eps * (marginal - scores().logsumexp(2)) + rows
        columns = eps * (marginal - scores().logsumexp(1)) + columns
        if (rows - before).abs().sum(1).mean() < tol:
            break
    return cost.shape[1] * scores().exp(), number


# --- the plan --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "other", "options", "expected"),
    [
        ((0, 10), (10, 0), {}, [[0, 1], [1, 0]]),
        ((0, 1), (0.2, 0.8), {}, [[0.9975, 0.0025], [0.0025, 0.9975]]),
        ((0, 1), (0, 0.1), {}, [[0.7471, 0.2856], [0.2529, 0.7144]]),
        ((0, 1), (0, 0.1), {"tol": 0.0, "max_iter": 1000}, [[0.7311, 0.2689], [0.2689, 0.7311]]),
    ],
)
def test_the_examples(own, other, options, expected):
    plan = transport(vectors(own), vectors(other), **options)
    torch.testing.assert_close(plan[0], torch.tensor(expected, dtype=torch.float32), atol=5e-5, rtol=0)


@pytest.mark.parametrize("tol", [0.1, 0.0])
def test_the_plan_is_that_of_the_early_stopped_loop(tol):
    own = torch.randn(6, 16, 32).relu()
    expected, rounds = by_definition(own, own.roll(1, 0), tol=tol)
    assert not tol or 1 < rounds < 100
    torch.testing.assert_close(transport(own, own.roll(1, 0), tol=tol), expected, atol=1e-3, rtol=1e-3)
    if tol:
        further = transport(own, own.roll(1, 0), tol=0.0)
        assert (further - expected).abs().max() > 1e-2, "the rounds that are frozen would have changed it"


def test_columns_sum_to_one_and_rows_come_near():
    own = torch.randn(4, 9, 8)
    plan = transport(own, own.flip(0), tol=0.0, max_iter=20)
    further = transport(own, own.flip(0), tol=0.0, max_iter=2000)
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(1), torch.full((4, 9), 1 + 9e-8), atol=1e-4, rtol=0)
    assert (further.sum(2) - 1).abs().max() < (plan.sum(2) - 1).abs().max() / 2


def test_a_permuted_partner_is_put_back():
    own = 10 * torch.eye(9)[None] + 0.1 * torch.randn(1, 9, 9)
    order = torch.randperm(9)
    other = own[:, order]
    plan = transport(own, other)
    for lam in (0.0, 0.3, 1.0):
        torch.testing.assert_close(align(own, other, plan, lam, to_own=True), own, atol=1e-4, rtol=0)
        torch.testing.assert_close(align(own, other, plan, lam, to_own=False), other, atol=1e-4, rtol=0)


def test_equal_vectors_give_the_mean():
    own, other = torch.ones(2, 4, 3), torch.full((2, 4, 3), 2.0)
    plan = transport(own, other)
    torch.testing.assert_close(plan, torch.full((2, 4, 4), 0.25), atol=1e-5, rtol=0)
    torch.testing.assert_close(align(own, other, plan, 0.25, to_own=True), torch.full((2, 4, 3), 1.75))


def test_the_mixed_features_of_the_third_example():
    own, other = vectors((0, 1)), vectors((0, 0.1))
    plan = transport(own, other, tol=0.0, max_iter=1000)
    to_own, to_other = (align(own, other, plan, 0.5, to_own=way)[0, :, 0] for way in (True, False))
    torch.testing.assert_close(to_own, torch.tensor([0.0134, 0.5366]), atol=5e-5, rtol=0)
    torch.testing.assert_close(to_other, torch.tensor([0.1345, 0.4155]), atol=5e-5, rtol=0)


def test_the_ends_of_the_ratio_give_the_features_themselves():
    own, other = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    plan = transport(own, other)
    assert torch.equal(align(own, other, plan, 1.0, to_own=True), own)
    assert torch.equal(align(own, other, plan, 0.0, to_own=False), other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zeros_and_single_positions_and_half_precision_give_numbers(dtype):
    for shape in ((1, 1, 4), (2, 9, 3)):
        plan = transport(torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype))
        assert plan.dtype == torch.float32
        assert plan.isfinite().all()
    large = torch.randn(2, 9, 64, dtype=dtype) * 30
    assert transport(large, large.flip(0)).isfinite().all()


# --- in a network ----------------------------------------------------------------------------------------------------

NETWORKS = {
    "maps": (lambda: TinyConvNet(5), 16),
    "resnet": (lambda: timm.create_model("resnet10t", num_classes=5), 64),
    "class token": (lambda: tiny_vit(5, (16, 16)), 16),
    "channels last": (
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224",
            num_classes=5,
            img_size=32,
            window_size=2,
            embed_dim=12,
            depths=(1, 1, 1, 1),
            num_heads=(1, 1, 2, 2),
        ),
        32,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("way", [True, False], ids=["to own", "to partner"])
def test_features_are_aligned_as_by_hand(name, way, monkeypatch):
    make, size = NETWORKS[name]
    torch.manual_seed(0)
    model = make()
    images, labels = torch.randn(4, 3, size, size), torch.tensor([0, 1, 2, 3])
    monkeypatch.setattr("mixcore_plugin_alignmix.plugin.happens", lambda share, rng: way if share == 0.5 else share > 0)
    plugin = AlignMix(p_align=1.0)
    step = create_step(model, mix=plugin, num_classes=5, iterations=10, image_size=(size, size)).eval()
    loss, report = step(images, labels)
    assert report.mix.stage == "features"
    lam, partner = report.mix.lam[0].item(), report.mix.partner

    features = model.forward_features(images)
    layout = Layout.of(model)
    own = layout.vectors(features)
    plan, _ = by_definition(own.detach(), own.detach()[partner])
    if way:
        mixed = lam * own + (1 - lam) * plan @ own[partner]
    else:
        mixed = lam * plan.transpose(1, 2) @ own + (1 - lam) * own[partner]
    prefix = lam * features[:, : layout.prefix] + (1 - lam) * features[partner][:, : layout.prefix]
    logits = model.forward_head(layout.restored(mixed, prefix, features))
    cross = nn.functional.cross_entropy
    expected = lam * cross(logits, labels) + (1 - lam) * cross(logits, labels[partner])
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    parameter = next(model.parameters())
    found, wanted = (torch.autograd.grad(one, parameter)[0] for one in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    assert torch.equal(model(images), model(images)), "nothing is mixed outside of the step"


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_layout_dtype_and_memory_format_are_kept(memory_format):
    features = torch.randn(2, 3, 4, 5).to(torch.bfloat16, memory_format=memory_format)
    layout = Layout(prefix=0, channels_last=False)
    back = layout.restored(layout.vectors(features).float(), features[:, :0], features)
    assert torch.equal(back, features)
    assert back.dtype == features.dtype
    assert back.is_contiguous(memory_format=memory_format)


def test_nothing_of_the_network_is_read_on_the_host():
    step = create_step(TinyConvNet(5), mix=AlignMix(p_align=1.0), num_classes=5, iterations=10, image_size=(8, 8))
    loss, _ = step(torch.randn(4, 3, 8, 8).as_subclass(Tripwire), torch.tensor([0, 1, 2, 3]).as_subclass(Tripwire))
    loss.backward()


def test_features_without_positions_are_refused():
    with pytest.raises(Exception, match=r"aligns positions of a map .* p_align = 0"):
        Layout(prefix=0, channels_last=False).vectors(torch.zeros(4, 8))


# --- draws -----------------------------------------------------------------------------------------------------------


def test_branches_and_directions_are_even():
    model = TinyConvNet(5)
    step = create_step(model, mix="alignmix", num_classes=5, iterations=1000, image_size=(8, 8))
    images, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    stages, ways = [], []
    for iteration in range(400):
        _, report = step(images, labels, iteration=iteration)
        stages.append(report.mix.stage)
        if report.mix.stage is not None:
            aligned = report.mix.transform.func
            cells = dict(zip(aligned.__code__.co_freevars, aligned.__closure__, strict=True))
            ways.append(cells["to_own"].cell_contents)
    assert set(stages) == {None, "features"}
    assert abs(len(ways) - 200) < 40, "four standard deviations"
    assert abs(sum(ways) - len(ways) / 2) < 2 * len(ways) ** 0.5


def test_plain_mixing_at_stages_draws_all_of_them():
    mix = AlignMix(plain="manifoldmix", layers=(0, 1, 2), p_align=0.25)
    assert mix.stages == (1, 2, "features")
    step = create_step(TinyConvNet(5), mix=mix, num_classes=5, iterations=1000, image_size=(8, 8))
    images, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    stages = [step(images, labels, iteration=iteration)[1].mix.stage for iteration in range(60)]
    assert set(stages) == {None, 1, 2, "features"}


def test_plain_mixing_alone_wants_no_stage():
    assert AlignMix(p_align=0.0).stages == ()
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
    step = create_step(model, mix=AlignMix(p_align=0.0), num_classes=5, iterations=10, image_size=(8, 8))
    loss, _ = step(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
    assert loss.isfinite()


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_plain_module_is_refused_with_a_way_out():
    with pytest.raises(ConfigError, match="as_backbone"):
        create_step(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), mix="alignmix", num_classes=5, iterations=1)


@pytest.mark.parametrize(
    "options",
    [{"alpha": -1.0}, {"prob": 1.5}, {"p_align": -0.1}, {"layers": (4,)}, {"eps": 0.0}, {"max_iter": 0}, {"tol": -0.1}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        AlignMix(**options)


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
    assert names["model"].get_classifier().weight.grad.abs().sum() > 0
