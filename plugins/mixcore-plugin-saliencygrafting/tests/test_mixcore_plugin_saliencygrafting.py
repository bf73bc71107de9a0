"""Saliency Grafting: the shipped contract, then the examples and invariants of its specification."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
from mixcore_plugin_saliencygrafting import (
    FeatureMagnitude,
    SaliencyGrafting,
    SaliencyGraftingLabels,
    block_saliency,
    calibrated_weights,
    dividing_blocks,
    importance,
    saliencygrafting,
    salient_blocks,
    usual_blocks,
)

from mixcore.api import ConfigError, Mix, OptionValueError
from mixcore.mixers import create_mixer, create_step
from mixcore.testing import MixerContract, PluginContract, SaliencyContract, TinyConvNet, Tripwire, run_example
from mixcore.testing.fakes import Bands


class TestContract(MixerContract):
    plugin = "saliencygrafting"


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "saliencygrafting"
    device = "cuda"
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractInputGradient(MixerContract):
    plugin = "saliencygrafting"
    options = {"saliency": "input_grad", "n": 8, "p_fixed": 0.5}
    left_out = ("two_processes",)


class TestLabelsContract(PluginContract):
    role = "labels"
    plugin = "saliencygrafting_labels"


@pytest.mark.slow
class TestLabelsContractInputGradient(PluginContract):
    role = "labels"
    plugin = "saliencygrafting_labels"
    options = {"saliency": "input_grad", "n": 3, "norm": 1.0}


class TestMagnitudeContract(SaliencyContract):
    plugin = "feature_magnitude"


SOURCE = [[0.8, 0.4], [0.2, 0.1]]
DESTINATION = [[0.1, 0.1], [0.3, 0.9]]
SIZE = (16, 24)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def maps(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def random_maps(count, blocks, seed=0):
    values = torch.rand(count, blocks, blocks, generator=seeded(seed)) ** 3
    return values / values.amax((1, 2), keepdim=True)


def batch(count=6, size=SIZE, seed=2):
    return torch.randn(count, 3, *size, generator=seeded(seed)), torch.arange(count) % 5


def network():
    torch.manual_seed(0)
    return TinyConvNet(5)


def mixer(model=None, **options):
    return create_mixer("saliencygrafting", num_classes=5, model=model or network(), **options)


def step_of(model=None, *, mix="saliencygrafting", image_size=SIZE, **rest):
    return create_step(model or network(), mix=mix, num_classes=5, iterations=50, image_size=image_size, seed=3, **rest)


def pair_masks(own):
    """Masks [N,2,..] of the image itself and of its partner."""
    return torch.stack((own, 1 - own), 1)


# --- the examples ----------------------------------------------------------------------------------------------------


def test_example_a_which_blocks_are_salient():
    source = maps(SOURCE)
    shares = (source.flatten(1) / 0.2).softmax(1)[0]
    assert shares.tolist() == pytest.approx([0.8228, 0.1114, 0.0410, 0.0248], abs=5e-5)
    for temperature, kept in ((0.2, [1, 0, 0, 0]), (1.0, [1, 0, 0, 0]), (100.0, [1, 1, 0, 0])):
        assert salient_blocks(source, temperature).flatten().int().tolist() == kept


@pytest.mark.parametrize(
    ("grafted", "src", "own", "lam"),
    [
        ([[1, 0], [0, 0]], 0.867722, 0.994550, 0.534052),
        ([[1, 1], [0, 0]], 0.970142, 0.989071, 0.504831),
    ],
)
def test_examples_b_and_c_importance(grafted, src, own, lam):
    saliency = maps(DESTINATION, SOURCE)[None]
    masks = pair_masks(1 - maps(grafted))
    assert importance(saliency, masks)[0].tolist() == pytest.approx([own, src], abs=1e-6)
    weights = calibrated_weights(saliency, masks)[0].tolist()
    assert weights == pytest.approx([lam, 1 - lam], abs=1e-6)
    assert weights != pytest.approx([1 - sum(map(sum, grafted)) / 4, sum(map(sum, grafted)) / 4], abs=1e-3), "no area"


def test_example_d_uniform_saliency():
    masks = pair_masks(1 - maps([[0, 0], [1, 0]]))
    assert importance(torch.ones(1, 2, 2, 2), masks)[0].tolist() == pytest.approx([0.866025, 0.5], abs=1e-6)
    assert calibrated_weights(torch.ones(1, 2, 2, 2), masks)[0, 0].item() == pytest.approx(0.633975, abs=1e-6)


# --- which blocks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.02, 0.2, 1.0, 30.0])
def test_a_block_is_salient_from_the_soft_mean_on(temperature):
    saliency = random_maps(50, 4)
    scaled = saliency.double().flatten(1) / temperature
    least = temperature * (scaled.logsumexp(1) - math.log(16))
    expected = saliency.double() >= least[:, None, None]
    assert torch.equal(salient_blocks(saliency, temperature), expected)
    assert expected.flatten(1).any(1).all()


def test_lower_temperatures_keep_a_subset_from_the_mean_down_to_the_largest():
    saliency = random_maps(50, 4)
    kept = [salient_blocks(saliency, t) for t in (1e3, 10.0, 1.0, 0.2, 0.05, 1e-4)]
    for more, fewer in itertools.pairwise(kept):
        assert (more | ~fewer).all()
    assert torch.equal(kept[0], saliency >= saliency.mean((1, 2), keepdim=True))
    assert torch.equal(kept[-1], saliency == 1)
    assert kept[0].sum() > kept[3].sum() > kept[-1].sum()


@pytest.mark.parametrize("temperature", [1e-3, 0.2, 1e3])
@pytest.mark.parametrize("blocks", [2, 3, 7, 14])
def test_equal_blocks_are_all_kept(blocks, temperature):
    assert salient_blocks(torch.ones(2, blocks, blocks), temperature).all()


def test_the_threshold_in_multiples_of_the_mean():
    saliency = random_maps(50, 4)
    kept = [salient_blocks(saliency, 0.5, sigma).sum().item() for sigma in (0.0, 0.5, 1.0, 1.5)]
    assert kept[0] == 50 * 16
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == 4
    assert torch.equal(salient_blocks(saliency, 0.5, 1e6), saliency == 1), "the most salient one survives"


def test_saliency_comes_to_the_grid():
    fine = torch.rand(3, 8, 12, generator=seeded())
    pooled = fine.view(3, 4, 2, 4, 3).mean((2, 4))
    torch.testing.assert_close(block_saliency(5 * fine, 4), pooled / pooled.amax((1, 2), keepdim=True))
    same = random_maps(3, 4)
    torch.testing.assert_close(block_saliency(same, 4), same)
    (coarse,) = block_saliency(maps([[1, 0], [0, 0]]), 4)
    assert coarse[0].tolist() == pytest.approx([1, 0.75, 0.25, 0]), "between two positions it is interpolated"
    assert block_saliency(torch.rand(1, 1, 9), 4).shape == (1, 4, 4)


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan])
def test_a_map_that_says_nothing_is_taken_as_uniform(value):
    saliency = random_maps(2, 4)
    saliency[0] = value
    found = block_saliency(saliency, 4)
    assert (found[0] == 1).all()
    torch.testing.assert_close(found[1], saliency[1])


def test_grids_by_size():
    assert [usual_blocks(*size) for size in ((28, 28), (32, 48), (64, 64), (64, 33), (224, 224))] == [4, 4, 8, 8, 7]
    sizes = {(32, 32): 4, (64, 64): 8, (224, 224): 7, (16, 24): 4, (15, 9): 3, (96, 96): 8, (128, 128): 8, (7, 7): 7}
    assert {size: dividing_blocks(*size) for size in sizes} == sizes
    assert dividing_blocks(15, 8) == 1


# --- the mix ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saliency", ["feature", "fine_grained"])
def test_only_salient_blocks_of_the_partner_are_grafted(saliency):
    model = network()
    images, labels = batch(32)
    probed = {"feature": lambda: model.eval().forward_features(images).detach().square().sum(1)}
    mix = mixer(model, saliency=saliency, p_fixed=0.6)(images, labels)
    mask = mix.mask[:, 0]
    assert mask.shape == (32, 4, 4)
    assert set(mask.unique().tolist()) == {0, 1}
    pixels = mix.masks_on(*SIZE)[:, :1].bool()
    assert torch.equal(mix.images, torch.where(pixels, images, images[mix.partner]))
    torch.testing.assert_close(mix.lam, mask.mean((1, 2)))
    if saliency in probed:
        shares = (block_saliency(probed[saliency](), 4).flatten(1) / 0.2).softmax(1)
        salient = (shares >= 1 / 16).view(32, 4, 4)[mix.partner]
        assert not (mask == 0)[~salient].any()
        share = (mask == 0)[salient].float().mean().item()
        assert abs(share - 0.6) < 0.15, "each of them by its own draw"
        assert 0 < salient.float().mean() < 0.9


def test_a_chance_of_nothing_and_of_one():
    images, labels = batch(8)
    none = mixer(p_fixed=0.0)(images, labels)
    assert torch.equal(none.images, images)
    assert none.lam.tolist() == [1] * 8
    model = network()
    saliency = block_saliency(model.eval().forward_features(images).detach().square().sum(1), 4)
    whole = mixer(model, p_fixed=1.0)(images, labels)
    assert torch.equal(whole.mask[:, 0] == 0, salient_blocks(saliency, 0.2)[whole.partner])
    step = step_of(mix={"name": "saliencygrafting", "p_fixed": 0.0})
    assert (step(images, labels)[1].targets.weights == torch.tensor([1.0, 0.0])).all()


def test_the_chance_is_drawn_per_batch_and_the_blocks_per_image():
    images, labels = batch(64)
    mixing = mixer(saliency="uniform", alpha=2.0)
    shares = []
    for iteration in range(30):
        mask = mixing(images, labels, iteration=iteration).mask
        assert len({tuple(one.flatten().tolist()) for one in mask}) > 16
        shares.append(1 - mask.mean().item())
    # 64 x 16 blocks tell the chance to 0.016; Beta(2, 2) has deviation 0.224
    assert 0.13 < torch.tensor(shares).std().item() < 0.32
    fixed = [mixer(saliency="uniform", p_fixed=0.3)(images, labels, iteration=i).mask.mean().item() for i in range(5)]
    assert fixed == pytest.approx([0.7] * 5, abs=0.06)


def test_temperature_and_threshold_reach_the_mask():
    images, labels = batch(32)
    grafted = {
        name: (mixer(p_fixed=1.0, **options)(images, labels).mask == 0).sum().item()
        for name, options in {
            "usual": {},
            "cold": {"temperature": 1e-3},
            "all": {"sigma": 0.0},
        }.items()
    }
    assert grafted["cold"] == 32
    assert 32 < grafted["usual"] < grafted["all"]
    assert grafted["all"] == 32 * 16


def test_the_pure_function_takes_its_draws():
    images = batch(2, (4, 6))[0]
    images[1, 0, 0, 0] = torch.nan
    grafts = torch.tensor([[[1, 0], [0, 0]], [[0, 0], [0, 1]]], dtype=torch.bool)
    mix = saliencygrafting(images, torch.tensor([1, 0]), grafts)
    expected = images.clone()
    expected[0, :, :2, :3], expected[1, :, 2:, 3:] = images[1, :, :2, :3], images[0, :, 2:, 3:]
    torch.testing.assert_close(mix.images, expected, rtol=0, atol=0, equal_nan=True)
    assert mix.lam.tolist() == [0.75, 0.75]


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"prob": 0.0}])
def test_an_unmixed_batch_is_the_batch_itself(options):
    images, labels = batch(3)
    mix = mixer(**options)(images, labels)
    assert mix.images is images
    assert mix.lam.tolist() == [1, 1, 1]


# --- importance ------------------------------------------------------------------------------------------------------


def test_importance_lies_in_the_unit_interval_and_only_shares_matter():
    saliency, own = random_maps(40, 4).view(20, 2, 4, 4), (torch.rand(20, 4, 4, generator=seeded(1)) > 0.4).float()
    masks = pair_masks(own)
    found, weights = importance(saliency, masks), calibrated_weights(saliency, masks)
    for values in (found, weights):
        assert (values >= 0).all()
        assert (values <= 1).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(20))
    scales = torch.tensor([7.0, 0.01])[:, None, None]
    torch.testing.assert_close(calibrated_weights(saliency * scales, masks), weights)


def test_what_is_seen_and_what_is_hidden_of_one_image_add_up_in_squares():
    saliency, own = random_maps(20, 4), (torch.rand(20, 4, 4, generator=seeded(1)) > 0.4).float()
    found = importance(saliency[:, None].expand(-1, 2, -1, -1), pair_masks(own))
    torch.testing.assert_close(found.square().sum(1), torch.ones(20))
    plain = importance(saliency[:, None].expand(-1, 2, -1, -1), pair_masks(own), norm=1.0)
    torch.testing.assert_close(plain.sum(1), torch.ones(20))


@pytest.mark.parametrize("covered", [0, 3, 16])
def test_uniform_saliency_gives_roots_of_areas(covered):
    own = torch.ones(16)
    own[:covered] = 0
    f = covered / 16
    found = importance(torch.ones(1, 2, 4, 4), pair_masks(own.view(1, 4, 4)))[0].tolist()
    assert found == pytest.approx([math.sqrt(1 - f), math.sqrt(f)])


def test_masks_in_pixels_give_the_norm_over_pixels():
    saliency, own = random_maps(10, 4).view(5, 2, 4, 4), torch.rand(5, 16, 24, generator=seeded(1))
    own[:3] = (own[:3] > 0.4).float()
    spread = saliency.repeat_interleave(4, 2).repeat_interleave(6, 3)
    for norm in (1.0, 2.0, 3.0):
        flat = (spread * pair_masks(own)).flatten(2).norm(norm, dim=2)
        expected = flat / spread.flatten(2).norm(norm, dim=2)
        torch.testing.assert_close(importance(saliency, pair_masks(own), norm), expected)


def test_nothing_salient_in_sight_gives_the_areas():
    saliency = maps([[1, 0], [0, 0]], [[0, 0], [0, 1]])[None]
    masks = pair_masks(1 - maps([[1, 0], [1, 0]]))
    assert calibrated_weights(saliency, masks)[0].tolist() == [0.5, 0.5]
    masks = pair_masks(1 - maps([[1, 1], [1, 0]]))
    assert calibrated_weights(saliency, masks)[0].tolist() == [0.25, 0.75]


# --- the policy, with the masks of any mixer -------------------------------------------------------------------------


def policy_by_hand(report, model, images, blocks, map_of=lambda f: f.square().sum(1)):
    """Step 7 by its formula, image by image, on masks in pixels."""
    model.eval()
    saliency = block_saliency(map_of(model.forward_features(images).detach()), blocks)
    rows, columns = (size // blocks for size in images.shape[-2:])
    spread = saliency.repeat_interleave(rows, 1).repeat_interleave(columns, 2)
    mix, found = report.mix, []
    for row, sources in enumerate(mix.sources.tolist()):
        masks = mix.masks_on(*images.shape[-2:])[row]
        seen = [(spread[s] * mask).norm() / spread[s].norm() for s, mask in zip(sources, masks, strict=True)]
        found.append(torch.stack(seen) / sum(seen))
    return torch.stack(found)


def test_the_mixer_suggests_its_labels():
    model = network()
    images, labels = batch()
    _, report = step_of(model)(images, labels, iteration=1)
    torch.testing.assert_close(report.targets.weights, policy_by_hand(report, network(), images, 4))
    assert (report.targets.weights - report.mix.weights).abs().max() > 0.05
    for name in ("weights", "area"):
        _, plain = step_of(labels=name)(images, labels, iteration=1)
        torch.testing.assert_close(plain.targets.weights, report.mix.weights)


def test_mixer_and_labels_share_one_look():
    model, seen = network(), []
    model.stage1.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    step = step_of(model)
    step(*batch(), iteration=1)
    assert seen == [False, True], "by the mixer, in eval mode, then the forward of the mix"


MIXERS = [
    "cutmix",
    {"name": "cutmix", "per_sample": True, "group_size": 2},
    {"name": "puzzlemix", "max_log2_blocks": 3},
    {"name": "saliencygrafting", "saliency": "input_grad", "n": 8},
    Bands(),
]


@pytest.mark.parametrize("mix", MIXERS, ids=str)
def test_masks_of_any_mixer(mix):
    images, labels = batch()
    # in eval mode, so that the forward of the mix does not move the statistics that saliency depends on
    step = step_of(mix=mix, labels="saliencygrafting_labels").eval()
    loss, report = step(images, labels, iteration=2)
    # a mask in blocks is read on its own grid
    side = report.mix.masks.shape[-1]
    blocks = side if side < 16 else 4
    torch.testing.assert_close(report.targets.weights, policy_by_hand(report, network(), images, blocks))
    assert (report.targets.weights - report.mix.weights).abs().max() > 1e-3
    loss.backward()


@pytest.mark.parametrize("mix", ["saliencygrafting", "cutmix", Bands()], ids=str)
def test_nothing_is_read_on_the_host(mix):
    images, labels = batch()
    step = step_of(mix=mix, labels="saliencygrafting_labels", loss="bce")
    value, report = step(images.as_subclass(Tripwire), labels.as_subclass(Tripwire), iteration=1)
    value.backward()
    weights = torch.Tensor(report.targets.weights.as_subclass(torch.Tensor))
    torch.testing.assert_close(weights.sum(1), torch.ones(6))


def test_options_of_the_labels():
    images, labels = batch()
    weights = {}
    for name, options in {
        "usual": {},
        "grid": {"n": 8},
        "norm": {"norm": 1.0},
        "magnitude": {"saliency": "feature_magnitude"},
        "image": {"saliency": "fine_grained"},
    }.items():
        step = step_of(mix="cutmix", labels={"name": "saliencygrafting_labels", **options})
        weights[name] = step(images, labels, iteration=1)[1].targets.weights
    for name in ("grid", "norm", "magnitude", "image"):
        assert (weights[name] - weights["usual"]).abs().max() > 1e-4, name


def test_the_magnitude_of_features():
    step = step_of(
        mix={"name": "saliencygrafting", "saliency": "feature_magnitude"},
        labels={"name": "saliencygrafting_labels", "saliency": "feature_magnitude"},
    )
    images, labels = batch()
    _, report = step(images, labels, iteration=1)
    expected = policy_by_hand(report, network(), images, 4, map_of=lambda f: f.abs().sum(1))
    torch.testing.assert_close(report.targets.weights, expected)


def test_constant_masks_keep_their_weights():
    images, labels = batch()
    _, report = step_of(mix="mixup", labels="weights")(images, labels, iteration=1)
    (targets,) = {
        SaliencyGraftingLabels().mix_labels(mix=mix, images=images, labels=labels, probe=None).weights
        for mix in [report.mix]
    }
    assert targets is report.mix.weights
    clean = SaliencyGraftingLabels().mix_labels(mix=Mix.clean(images), images=images, labels=labels, probe=None)
    assert clean.weights.tolist() == [[1.0]] * 6


def test_looking_leaves_the_network_as_it_was():
    model = network()
    model(batch()[0]).sum().backward()
    model.get_classifier().eval()
    state = copy.deepcopy(model.state_dict())
    grads = {name: one.grad.clone() for name, one in model.named_parameters()}
    mixer(model)(*batch())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    for name, one in model.named_parameters():
        assert torch.equal(one.grad, grads[name])
    assert model.training
    assert not model.get_classifier().training


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_grid_that_does_not_divide_the_image_is_refused():
    with pytest.raises(OptionValueError, match=r"n = 5 does not divide images of 16x24.* such as n = 4"):
        mixer(n=5)(*batch())
    with pytest.raises(OptionValueError, match="images of 15x8, whose sides have no common divisor"):
        mixer()(*batch(size=(15, 8)))
    with pytest.raises(ConfigError, match="n = 5 does not divide images of 16x24"):
        step_of(mix={"name": "saliencygrafting", "n": 5})
    assert mixer()(*batch(size=(15, 9))).mask.shape == (6, 1, 3, 3)


def test_networks_and_mixers_that_lack_what_is_read_are_refused(monkeypatch):
    monkeypatch.setattr("mixcore.discovery.survey.LIMIT", 0)  # naming those that have one imports all that is installed
    model = network()
    del model.feature_info
    with pytest.raises(ConfigError, match="needs stages of the backbone"):
        step_of(model)
    with pytest.raises(ConfigError, match="needs a mixer that provides mask, and mixup does not"):
        step_of(mix="mixup", labels="saliencygrafting_labels")
    with pytest.raises(ConfigError, match="needs stages of the backbone"):
        step_of(
            model, mix={"name": "cutmix"}, labels={"name": "saliencygrafting_labels", "saliency": FeatureMagnitude()}
        )


@pytest.mark.parametrize(
    "options",
    [{"alpha": -1.0}, {"p_fixed": 1.5}, {"prob": 2.0}, {"n": 1}, {"temperature": 0.0}, {"sigma": -0.5}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SaliencyGrafting(**options)


@pytest.mark.parametrize("options", [{"n": 0}, {"norm": 0.5}])
def test_options_of_the_labels_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SaliencyGraftingLabels(**options)


def test_the_examples_of_the_readme_run():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
    assert names["targets"].shape == (8, 100)
