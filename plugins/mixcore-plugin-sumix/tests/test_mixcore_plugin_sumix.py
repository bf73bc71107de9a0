"""SUMix: the shipped contract, then the examples and invariants of its specification, with several mixers."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from mixcore_plugin_sumix import (
    SUMix,
    corrected_weights,
    distances,
    signed_terms,
    uncertainty_loss,
    unit_softmax,
)
from torch import nn

from mixcore.api import ConfigError
from mixcore.mixers import create_step
from mixcore.testing import PluginContract, TinyConvNet, Tripwire, run_example
from mixcore.testing.fakes import Bands

SIZE = (16, 24)
CLASSES = 5


class TestContract(PluginContract):
    role = "labels"
    plugin = "sumix"


@pytest.mark.slow
class TestContractExperimental(PluginContract):
    role = "labels"
    plugin = "sumix"
    options = {"semantic": "distance", "reduction": "per_sample", "gama": 1.0}


@pytest.mark.slow
class TestContractWithoutHead(PluginContract):
    role = "labels"
    plugin = "sumix"
    options = {"is_norm": False, "scale": 10.0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pair(own, partner, mixed, labels=(0, 1)):
    """Arguments of signed_terms for one pair."""
    clean = torch.tensor([[own, partner]], dtype=torch.float32)
    return torch.tensor([mixed], dtype=torch.float32), clean, torch.tensor([labels]), torch.tensor([[0, 1]])


def at_own(terms, classes):
    return terms.gather(2, classes[:, :, None])[:, :, 0]


def some_logits(count=30, sources=2, seed=0):
    """Logits of mixes and of sources, classes, and sources that are other rows, of weights that sum to 1."""
    rng = seeded(seed)
    mixed, clean = (
        2 * torch.randn(count, CLASSES, generator=rng),
        2 * torch.randn(count, sources, CLASSES, generator=rng),
    )
    classes = torch.randint(CLASSES, (count, sources), generator=rng)
    rows = (torch.arange(count)[:, None] + torch.arange(sources)) % count
    weights = torch.rand(count, sources, generator=rng)
    return mixed, clean, classes, rows, weights / weights.sum(1, keepdim=True)


# --- the examples ----------------------------------------------------------------------------------------------------


def test_the_first_example():
    mixed, clean, classes, sources = pair((2, 0, 0), (0, 2, 0), (1, 1, 0))
    terms = signed_terms(mixed, clean, classes, sources)
    assert terms[0, 0].tolist() == pytest.approx([0.351097, 0.771278, 0.530906], abs=1e-6)
    assert terms[0, 1].tolist() == pytest.approx([0.771278, 0.351097, 0.530906], abs=1e-6)
    for scale in (1.0, 10.0, 100.0):
        found = corrected_weights(torch.tensor([[0.3, 0.7]]), scale * at_own(terms, classes))
        assert found[0].tolist() == pytest.approx([0.3, 0.7], abs=1e-5)


@pytest.mark.parametrize(("scale", "lam"), [(1.0, 0.413272), (10.0, 0.029183), (100.0, 6.0e-16)])
def test_the_second_example(scale, lam):
    mixed, clean, classes, sources = pair((2, 0, 0), (0, 2, 0), (2, 0, 0))
    own = at_own(signed_terms(mixed, clean, classes, sources), classes)
    assert own[0].tolist() == pytest.approx([0.555778, 0.205325], abs=1e-6)
    found = corrected_weights(torch.tensor([[0.5, 0.5]]), scale * own)[0, 0].item()
    assert found == pytest.approx(lam, abs=5e-7 if lam > 1e-6 else 0, rel=1e-4 if lam > 1e-6 else 0.02)


def test_the_second_example_by_distance():
    mixed, clean, _, _ = pair((2, 0, 0), (0, 2, 0), (2, 0, 0))
    found = distances(mixed, clean)
    assert found[0].tolist() == pytest.approx([0, 0.962343], abs=1e-6)
    assert corrected_weights(torch.tensor([[0.5, 0.5]]), found)[0, 0].item() == pytest.approx(0.7236, abs=5e-5)


# --- the terms -------------------------------------------------------------------------------------------------------


def naive(mixed, clean, a, b, lam, scale):
    """Steps 3 and 4 of one pair as they are written, in float64."""
    p, p_p, p_mixed = clean[0].double().softmax(0), clean[1].double().softmax(0), mixed.double().softmax(0)
    p[b], p_p[a] = 0, 0
    terms = [(p_mixed - one).softmax(0) for one in (p, p_p)]
    terms = [one / one.norm() * scale for one in terms]
    w_a, w_b = lam * torch.exp(-terms[0][a]), (1 - lam) * torch.exp(-terms[1][b])
    return terms, w_a / (w_a + w_b)


@pytest.mark.parametrize("scale", [1.0, 6.0, 50.0])
def test_batches_equal_the_formula_pair_by_pair(scale):
    mixed, clean, classes, sources, weights = some_logits()
    assert (classes[:, 0] == classes[:, 1]).any(), "of one class too"
    terms = scale * signed_terms(mixed, clean, classes, sources)
    found = corrected_weights(weights, at_own(terms, classes))
    for row in range(30):
        a, b = classes[row].tolist()
        expected, lam = naive(mixed[row], clean[row], a, b, weights[row, 0].double(), scale)
        torch.testing.assert_close(terms[row], torch.stack(expected).float(), rtol=1e-4, atol=1e-5)
        assert found[row, 0].item() == pytest.approx(lam.item(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_weights_of_0_and_1_stay_and_no_scale_makes_them_undefined(scale):
    mixed, clean, classes, sources, weights = some_logits()
    weights[:10] = torch.tensor([1.0, 0.0])
    weights[10:20] = torch.tensor([0.0, 1.0])
    found = corrected_weights(weights, scale * at_own(signed_terms(mixed, clean, classes, sources), classes))
    assert torch.equal(found[:20], weights[:20])
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(1), torch.ones(30))
    if not scale:
        torch.testing.assert_close(found, weights)


@pytest.mark.parametrize("sources", [2, 3])
def test_exchanging_the_images_exchanges_the_weights(sources):
    mixed, clean, classes, rows, weights = some_logits(sources=sources)
    one = corrected_weights(weights, 7 * at_own(signed_terms(mixed, clean, classes, rows), classes))
    flipped = [tensor.flip(1) for tensor in (clean, classes, rows, weights)]
    other = corrected_weights(flipped[3], 7 * at_own(signed_terms(mixed, *flipped[:3]), flipped[1]))
    torch.testing.assert_close(other, one.flip(1))


def test_a_padded_pair_equals_the_pair():
    """Groups that mix fewer sources repeat the last one with weight 0."""
    mixed, clean, classes, rows, weights = some_logits()
    two = corrected_weights(weights, 7 * at_own(signed_terms(mixed, clean, classes, rows), classes))
    clean, classes, rows = (torch.cat((tensor, tensor[:, -1:]), 1) for tensor in (clean, classes, rows))
    padded = torch.cat((weights, torch.zeros(30, 1)), 1)
    three = corrected_weights(padded, 7 * at_own(signed_terms(mixed, clean, classes, rows), classes))
    torch.testing.assert_close(three, torch.cat((two, torch.zeros(30, 1)), 1))


@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_uncertainty_has_norm_1_and_pseudo_logits_lie_between_0_and_1(spread):
    values = spread * torch.randn(20, CLASSES, generator=seeded())
    found = unit_softmax(values)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(20))
    soft = values.softmax(1)
    torch.testing.assert_close(found, soft / soft.norm(dim=1, keepdim=True), rtol=1e-3, atol=1e-6)
    mixed, clean, classes, sources, _ = some_logits(count=20)
    pseudo = (-(found[:, None] + found[:, None] + 20 * signed_terms(mixed, clean, classes, sources))).exp()
    assert (pseudo > 0).all()
    assert (pseudo <= 1).all()


def test_the_uncertainty_loss_by_hand():
    mixed, clean, classes, sources, weights = some_logits(count=8)
    own, of_mix = unit_softmax(clean), unit_softmax(mixed)
    terms = 8 * signed_terms(mixed, clean, classes, sources)
    total = 0.0
    for row in range(8):
        for source in range(2):
            pseudo = torch.exp(-(own[row, source] + of_mix[row] + terms[row, source])).double()
            total += weights[row, source] * -pseudo.log_softmax(0)[classes[row, source]]
    found = uncertainty_loss(own, of_mix, terms, classes, weights)
    assert found.item() == pytest.approx(total.item() / 8, rel=1e-5)


# --- in a step -------------------------------------------------------------------------------------------------------


def batch(count=6, size=SIZE, classes=CLASSES):
    return torch.randn(count, 3, *size, generator=seeded(2)), torch.randint(classes, (count,), generator=seeded(3))


def network():
    torch.manual_seed(0)
    return TinyConvNet(CLASSES)


def step_of(model=None, mix="cutmix", labels="sumix", **rest):
    return create_step(
        model or network(), mix=mix, labels=labels, num_classes=CLASSES, iterations=50, image_size=SIZE, seed=3, **rest
    )


PER_IMAGE = {"name": "cutmix", "per_sample": True}


def by_hand(report, model, head, images, labels, *, gama, scale):
    """The whole loss with corrected weights per image, pair by pair, both forwards in train mode."""
    pooled = [model.forward_head(model.forward_features(one), pre_logits=True) for one in (images, report.mix.images)]
    (z, z_mixed), (u, u_mixed) = (
        [layer(one) for one in pooled] for layer in (model.fc, lambda x: nn.functional.normalize(head(x).softmax(1)))
    )
    total = 0.0
    for row, (own, partner) in enumerate(report.mix.sources.tolist()):
        a, b, lam = labels[own].item(), labels[partner].item(), report.mix.lam[row].item()
        terms, corrected = naive(z_mixed[row].detach(), z[[own, partner]].detach(), a, b, lam, scale)
        log_p = z_mixed[row].log_softmax(0)
        total = total - corrected.float() * log_p[a] - (1 - corrected.float()) * log_p[b]
        for source, label, weight, term in ((own, a, lam, terms[0]), (partner, b, 1 - lam, terms[1])):
            pseudo = torch.exp(-(u[source] + u_mixed[row] + term.float()))
            total = total - gama * weight * pseudo.log_softmax(0)[label]
    return total / len(report.mix.sources)


def test_the_loss_and_all_its_gradients_are_those_of_the_formula():
    model = network()
    step = step_of(model, PER_IMAGE, {"name": "sumix", "reduction": "per_sample", "gama": 0.7, "scale": 3.0})
    head = step.get_submodule("parts.sumix.uncertain")
    reference, twin = copy.deepcopy(model), copy.deepcopy(head)
    images, labels = batch()
    loss, report = step(images, labels, iteration=1)
    loss.backward()
    expected = by_hand(report, reference, twin, images, labels, gama=0.7, scale=3.0)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in ((model, reference), (head, twin)):
        for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_the_factor_is_by_default_the_images_of_the_batch():
    images, labels = batch()
    _, plain = step_of(mix=PER_IMAGE)(images, labels, iteration=1)
    _, told = step_of(mix=PER_IMAGE, labels={"name": "sumix", "scale": 6.0})(images, labels, iteration=1)
    torch.testing.assert_close(plain.loss, told.loss)
    _, other = step_of(mix=PER_IMAGE, labels={"name": "sumix", "scale": 60.0})(images, labels, iteration=1)
    assert abs(plain.loss - other.loss) > 1e-3
    distance = {"name": "sumix", "semantic": "distance"}
    _, one = step_of(mix=PER_IMAGE, labels=distance)(images, labels, iteration=1)
    _, same = step_of(mix=PER_IMAGE, labels={**distance, "scale": 1.0})(images, labels, iteration=1)
    torch.testing.assert_close(one.loss, same.loss)


def test_the_published_reduction_is_a_product_of_means():
    images, labels = batch()
    _, each = step_of(labels={"name": "sumix", "reduction": "per_sample"})(images, labels, iteration=1)
    step = step_of()
    reference = copy.deepcopy(step.model)
    _, mean = step(images, labels, iteration=1)
    lam = each.targets.weights[:, 0].mean()
    torch.testing.assert_close(mean.targets.weights, torch.stack((lam, 1 - lam)).expand(6, 2))
    assert each.targets.weights[:, 0].std() > 0.01
    logits = reference(mean.mix.images)
    parts = [nn.functional.cross_entropy(logits, labels[rows]) for rows in mean.mix.sources.unbind(1)]
    torch.testing.assert_close(mean.losses["mix"], lam * parts[0] + (1 - lam) * parts[1])


@pytest.mark.parametrize("reduction", ["batch_mean", "per_sample"])
def test_without_correction_and_uncertainty_it_is_cross_entropy_on_mixed_labels(reduction):
    images, labels = batch()
    plain, _ = step_of(labels="weights")(images, labels, iteration=1)
    off = {"name": "sumix", "gama": 0.0, "scale": 0.0, "reduction": reduction}
    found, report = step_of(labels=off)(images, labels, iteration=1)
    torch.testing.assert_close(found, plain)
    assert list(report.losses) == ["mix"]


def test_what_trains_what():
    """The classifier by the cross-entropy alone, the second head by its own loss alone, the backbone by both."""
    images, labels = batch()
    grads = {}
    for gama in (0.0, 0.5, 1.0):
        step = step_of(mix=PER_IMAGE, labels={"name": "sumix", "gama": gama})
        step(images, labels, iteration=1)[0].backward()
        grads[gama] = {name: one.grad for name, one in step.named_parameters()}
    assert not any("uncertain" in name for name in grads[0.0])
    for name, plain in grads[0.0].items():
        with_loss = grads[0.5][name]
        if ".fc." in name:
            assert torch.equal(with_loss, plain)
        else:
            assert (with_loss - plain).abs().max() > 1e-6, name
    for name in ("parts.sumix.uncertain.weight", "parts.sumix.uncertain.bias"):
        assert grads[0.5][name].abs().sum() > 0
        torch.testing.assert_close(grads[1.0][name], 2 * grads[0.5][name])


def test_without_the_second_head_the_logits_are_the_uncertainty():
    images, labels = batch()
    step = step_of(mix=PER_IMAGE, labels={"name": "sumix", "is_norm": False, "gama": 1.0})
    model = copy.deepcopy(step.model)
    _, report = step(images, labels, iteration=1)
    assert len(list(step.parameters())) == len(list(model.parameters())), "there is none"
    alone, mixed, classes = model(images), model(report.mix.images), labels[report.mix.sources]
    sources, weights = report.mix.sources, report.mix.weights
    terms = 6 * signed_terms(mixed, alone[sources], classes, sources)
    expected = uncertainty_loss(alone[sources], mixed, terms, classes, weights)
    torch.testing.assert_close(report.losses["sumix/uncertainty"], expected.detach(), rtol=1e-4, atol=1e-5)


def test_by_distance_the_nearer_image_weighs_more_and_all_classes_have_the_distance():
    images, labels = batch()
    chosen = {"name": "sumix", "semantic": "distance", "reduction": "per_sample", "gama": 1.0, "scale": 5.0}
    step = step_of(mix=PER_IMAGE, labels=chosen)
    model, head = copy.deepcopy(step.model), copy.deepcopy(step.get_submodule("parts.sumix.uncertain"))
    _, report = step(images, labels, iteration=1)
    sources, weights, classes = report.mix.sources, report.mix.weights, labels[report.mix.sources]
    alone, mixed = (model.forward_head(model.forward_features(x), pre_logits=True) for x in (images, report.mix.images))
    apart = 5 * (model.fc(mixed).softmax(1)[:, None] - model.fc(alone).softmax(1)[sources]).norm(dim=2).detach()
    expected = weights * torch.exp(-apart)
    torch.testing.assert_close(report.targets.weights, expected / expected.sum(1, keepdim=True))
    nearer = (report.targets.weights > weights) == (apart < apart.flip(1))
    assert nearer[weights[:, 0] * weights[:, 1] > 0].all()
    u, u_mixed = (nn.functional.normalize(head(x).softmax(1)) for x in (alone, mixed))
    pseudo = torch.exp(-(u[sources] + u_mixed[:, None] + apart[:, :, None]))
    each = -pseudo.log_softmax(2).gather(2, classes[:, :, None])[:, :, 0]
    torch.testing.assert_close(report.losses["sumix/uncertainty"], (weights * each).sum(1).mean().detach())


def test_two_forwards_in_train_mode_and_nothing_of_it_when_scoring():
    model = network()
    parameters, names = sum(p.numel() for p in model.parameters()), list(model.state_dict())
    step = step_of(model)
    norm = model.stage1[1]
    step(*batch(), iteration=1)
    assert norm.num_batches_tracked.item() == 2
    assert set(step.predictors()) == {"model"}
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert list(model.state_dict()) == names
    assert [group["name"] for group in step.param_groups()] == ["backbone", "sumix.uncertain"]
    saved = [name for name in step.saved_state() if "uncertain" in name]
    assert saved == ["parts.sumix.uncertain.weight", "parts.sumix.uncertain.bias"]


def test_clean_batches_keep_their_labels_and_train_the_second_head_without_another_forward():
    model = network()
    step = step_of(model, {"name": "cutmix", "probability": 0.0})
    loss, report = step(*batch())
    loss.backward()
    assert report.mixer is None
    assert report.targets.weights.tolist() == [[1.0]] * 6
    assert model.stage1[1].num_batches_tracked.item() == 1
    assert all(one.grad is not None for one in step.parameters()), "an idle parameter would stop several processes"


MIXERS = [
    "cutmix",
    "fmix",
    "saliencymix",
    "resizemix",
    "mixup",
    "manifoldmix",
    "automix",
    {"name": "cutmix", "per_sample": True, "group_size": 2},
    Bands(),
]


@pytest.mark.parametrize("mix", MIXERS, ids=str)
@pytest.mark.parametrize("loss", [None, "bce"])
def test_any_base_with_any_loss_and_nothing_read_on_the_host(mix, loss):
    torch.manual_seed(0)
    step = step_of(TinyConvNet(CLASSES, stages=3), mix, loss=loss)
    images, labels = batch()
    value, report = step(images.as_subclass(Tripwire), labels.as_subclass(Tripwire), iteration=1)
    value.backward()
    assert all(one.grad is None or torch.Tensor(one.grad).isfinite().all() for one in step.parameters())
    weights = torch.Tensor(report.targets.weights.as_subclass(torch.Tensor))
    torch.testing.assert_close(weights.sum(1), torch.ones(6))


def test_a_mix_that_counts_less_counts_less_in_the_uncertainty_too():
    found = []
    for weight in (1.0, 0.25):
        torch.manual_seed(0)
        step = step_of(TinyConvNet(CLASSES, stages=3), {"name": "automix", "mixed_weight": weight})
        found.append(step(*batch(), iteration=1)[1].losses["sumix/uncertainty"])
    torch.testing.assert_close(found[1], found[0] / 4)


def test_the_log_tells_how_far_weights_were_moved():
    images, labels = batch()
    labels_of = {"name": "sumix", "reduction": "per_sample"}
    _, report = step_of(mix=PER_IMAGE, labels=labels_of)(images, labels, iteration=1, logging=True)
    moved = (report.targets.weights - report.mix.weights).abs()[:, 0].mean()
    assert report.scalars["sumix/corrected_by"].item() == pytest.approx(moved.item(), rel=1e-4)
    assert moved > 1e-3


def test_a_large_factor_leaves_the_second_head_next_to_nothing():
    """As the page says: A is about scale / sqrt(classes), and the pseudo-logits, with their gradients, exp(-A) of 1."""
    images, labels = batch()
    found = {}
    for scale in (0.0, 20.0):
        step = step_of(mix=PER_IMAGE, labels={"name": "sumix", "scale": scale})
        step(images, labels, iteration=1)[0].backward()
        found[scale] = step.get_submodule("parts.sumix.uncertain").weight.grad.norm()
    assert 0.1 < -(found[20.0] / found[0.0]).log() / (20 / math.sqrt(CLASSES)) < 1.5


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_surveyed(monkeypatch):
    """Refusals leave out the plugins that would do, for whose names all that is installed is imported."""
    monkeypatch.setattr("mixcore.discovery.survey.LIMIT", 0)


@pytest.mark.usefixtures("nothing_surveyed")
def test_labels_that_are_no_classes_are_refused():
    with pytest.raises(ConfigError, match=r"sumix.* takes labels of kind class, and this task has soft labels"):
        step_of(label_kind="soft")


@pytest.mark.usefixtures("nothing_surveyed")
def test_networks_whose_head_is_not_apart_are_refused_unless_logits_will_do():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * math.prod(SIZE), CLASSES))
    with pytest.raises(ConfigError, match=r"sumix.* needs head of the backbone"):
        step_of(copy.deepcopy(plain))
    loss, _ = step_of(plain, labels={"name": "sumix", "is_norm": False})(*batch())
    assert loss.isfinite()


@pytest.mark.parametrize(
    "options", [{"gama": -1.0}, {"scale": -1.0}, {"semantic": "l2"}, {"reduction": "sum"}, {"scale": math.inf}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SUMix(**options)


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
    assert names["model"].get_classifier().weight.grad.abs().sum() > 0
