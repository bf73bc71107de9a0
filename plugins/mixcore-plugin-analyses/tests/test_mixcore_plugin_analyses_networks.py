"""Landscape, attribution, Fourier analysis, complexity, occlusion, corruption and the sheet, by their definitions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mixcore_plugin_analyses.attribution import Attribution, _of_positions, grad_cam, input_gradient, target_layer
from mixcore_plugin_analyses.complexity import Complexity
from mixcore_plugin_analyses.corruption import STANDARD, Corruption, summed_up
from mixcore_plugin_analyses.corruptions import GENERATED, SEVERITIES, _from_hsv, _to_hsv, corrupt
from mixcore_plugin_analyses.directions import cosine, normalised_like, principal, project, random_direction
from mixcore_plugin_analyses.fourier import Fourier, half_diagonal
from mixcore_plugin_analyses.landscape import Landscape, flat_width
from mixcore_plugin_analyses.mixed_samples import MixedSamples, nearest_mix
from mixcore_plugin_analyses.occlusion import Occlusion, occluded
from torch import Tensor, nn

from mixcore.api import ConfigError, Mix, Task, as_map
from mixcore.testing import Harness, NotApplicableError, Subject, TinyConvNet, ToyRun, checks_of, tiny_network
from mixcore.testing.checks_analysis import the_network_is_left


def progress(items: Any, total: int | None = None) -> Iterator[Any]:
    return iter(items)


def task(classes: int = 5, channels: int = 3, size: tuple[int, int] = (16, 24)) -> Task:
    return Task(
        num_classes=classes, in_channels=channels, image_size=size, mean=(0.5,) * channels, std=(0.2,) * channels
    )


def toy(needs: frozenset[str] = frozenset(), count: int = 6, size: tuple[int, int] = (16, 24)) -> ToyRun:
    rng = torch.Generator().manual_seed(0)
    model = tiny_network(needs, 5, size, 3).eval()
    return ToyRun(model=model, images=torch.randn(count, 3, *size, generator=rng), labels=torch.arange(count) % 5)


NAMES = ("attribution", "calibration", "complexity", "confusion", "corruption", "fgsm", "fourier", "landscape")
NAMES = (*NAMES, "mixed_samples", "occlusion", "ood", "pgd")
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "corruption": {"corruptions": ["gaussian_noise", "contrast"]},
    "fgsm": {"eps": [4.0]},
    "pgd": {"steps": 2},
    "landscape": {"points": 3},
    "mixed_samples": {"draws": 8},
    "occlusion": {"step": 0.5},
}


@pytest.mark.parametrize("name", NAMES)
def test_looking_changes_nothing(name: str) -> None:
    the_network_is_left(Harness(Subject(plugin=name, options=OPTIONS.get(name, {}))))


@pytest.mark.slow
@pytest.mark.parametrize("check", checks_of("analysis"))
@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str, check: str) -> None:
    try:
        checks_of("analysis")[check](Harness(Subject(plugin=name, options=OPTIONS.get(name, {}))))
    except NotApplicableError as reason:
        pytest.skip(str(reason))


class Bowl(nn.Module):
    """Two classes with logits such that the cross-entropy of class 0 is half the square of the weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        loss = (self.weight.square().sum() / 2).expand(len(images))
        # cross-entropy of class 0 against class 1 at logits (0, z) is log(1 + e^z)
        return torch.stack((torch.zeros_like(loss), loss.expm1().log()), 1)


def test_the_landscape_of_a_quadratic_loss_is_a_parabola(tmp_path: Path) -> None:
    """L(w + a d) = |w + a d|^2 / 2, with |d| = |w| by filter normalisation of a single filter."""
    weight = torch.tensor([[1.5, 0.5]])
    model = Bowl(weight.clone())
    run = ToyRun(model=model, images=torch.zeros(3, 1, 1, 1), labels=torch.zeros(3, dtype=torch.int64))
    numbers = Landscape(points=11, span=0.8, seed=3).analyse(model, run, tmp_path, progress)
    direction = random_direction({"weight": weight}, "filter", 3, 0)["weight"]
    assert float(direction.norm()) == pytest.approx(float(weight.norm()))
    line = numbers["line"]
    for alpha, loss in zip(line["alpha"], line["loss"], strict=True):
        assert loss == pytest.approx(float((weight + alpha * direction).square().sum() / 2), rel=1e-4)
    assert numbers["loss"] == pytest.approx(1.25, rel=1e-5)
    assert torch.equal(model.weight, weight), "the network is not touched"


def test_the_flat_width_of_a_parabola() -> None:
    at = [number / 100 for number in range(-100, 101)]
    assert flat_width(at, [4 * x * x + 1 for x in at], 1.5) == pytest.approx(2 * math.sqrt(0.125), abs=1e-3)
    assert flat_width(at, [1.0] * len(at), 1.5) == pytest.approx(2)
    assert flat_width([-1.0, 0.0, 1.0], ["not finite", 1.0, 2.0], 1.5) == pytest.approx(0.5)


def test_normalisations() -> None:
    weight, direction = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    by_filter = normalised_like(direction, weight, "filter")
    assert torch.allclose(by_filter.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
    assert torch.allclose(F.cosine_similarity(by_filter.flatten(1), direction.flatten(1)), torch.ones(4))
    assert torch.allclose(normalised_like(direction, weight, "layer").norm(), weight.norm())
    assert torch.allclose(normalised_like(direction, weight, "dfilter").flatten(1).norm(dim=1), torch.ones(4))
    assert torch.allclose(normalised_like(direction, weight, "dlayer").norm(), torch.tensor(1.0))
    assert torch.equal(normalised_like(direction, weight, "weight"), direction * weight)
    base = {"conv": weight, "bias": torch.ones(3)}
    assert not random_direction(base, "filter", 0, 0)["bias"].any()
    assert torch.equal(random_direction(base, "none", 0, 0)["bias"], base["bias"])
    assert abs(cosine(random_direction(base, "filter", 0, 0), random_direction(base, "filter", 0, 1))) < 0.9


def test_a_trajectory_on_a_line_is_explained_by_one_direction() -> None:
    base = {"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}
    way = torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    states = {epoch: {"weight": way * (3 - epoch), "bias": torch.ones(3) * epoch} for epoch in range(4)}
    pair, shares = principal(base, states)
    assert shares[0] == pytest.approx(1)
    assert abs(project(base, states[0], pair[0])) == pytest.approx(9)
    with pytest.raises(ConfigError, match="needs checkpoints of at least three epochs"):
        principal(base, {1: base, 2: base})


def test_kinds_of_landscapes(tmp_path: Path) -> None:
    run = toy()
    plane = Landscape(kind="plane", points=3, images=4).analyse(run.model, run, tmp_path, progress)
    assert np.array(plane["plane"]["loss"]).shape == (3, 3)
    line = Landscape(points=3, images=4).analyse(run.model, run, tmp_path, progress)
    assert plane["plane"]["loss"][1][1] == pytest.approx(line["loss"])
    path = Landscape(kind="trajectory", points=3).analyse(run.model, run, tmp_path, progress)
    assert path["path"]["epoch"] == [1, 2, 3]
    assert path["path"]["x"][-1] == pytest.approx(0, abs=1e-5)
    to = Landscape(points=3, to=1).analyse(run.model, run, tmp_path, progress)
    half = {name: value * 0.5 for name, value in run.model.state_dict().items() if value.is_floating_point()}
    logits = torch.func.functional_call(run.model, {n: half[n] for n, _ in run.model.named_parameters()}, run.images)
    assert to["line"]["loss"][-1] == pytest.approx(float(F.cross_entropy(logits, run.labels)), rel=1e-4)
    with pytest.raises(ConfigError, match="has no checkpoint of that epoch; it has: 1, 2, 3"):
        Landscape(points=3, to=9).analyse(run.model, run, tmp_path, progress)


def test_grad_cam_by_its_definition() -> None:
    run = toy()
    model = run.model
    assert isinstance(model, TinyConvNet)
    assert target_layer(model, run.images) == "stage2.1"
    maps = model.stage2[1](model.stage2[0](model.stage1(run.images))).detach().requires_grad_()
    logits = model.forward_head(model.stage2[2](maps))
    classes = logits.argmax(1)
    (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), maps)
    raw = (gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu().detach()
    raw = F.interpolate(raw, size=(16, 24), mode="bilinear", align_corners=False)[:, 0]
    low, high = raw.amin((1, 2), keepdim=True), raw.amax((1, 2), keepdim=True)
    found = grad_cam(model, "stage2.1", run.images, classes)
    assert torch.allclose(found, (raw - low) / (high - low), atol=1e-5)
    own = _of_positions(model, "stage2.1", run.images, classes)
    assert torch.allclose(F.interpolate(own, size=(16, 24), mode="bilinear", align_corners=False)[:, 0], raw, atol=1e-6)


class Residual(nn.Module):
    """A block that adds its shortcut to what its norm put out, and clips it, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3, 5)

    def forward(self, images: Tensor) -> Tensor:
        found = self.norm(self.conv(images))
        found += images
        return self.fc(found.relu_().mean((2, 3)))


def test_grad_cam_sees_the_layer_as_it_was_before_the_shortcut() -> None:
    torch.manual_seed(0)
    model, images, classes = Residual().eval(), torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    maps = model.norm(model.conv(images)).detach().requires_grad_()
    logits = model.fc((maps + images).relu().mean((2, 3)))
    (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), maps)
    wanted = (gradient.mean((2, 3), keepdim=True) * maps).sum(1).relu().detach()
    assert torch.allclose(_of_positions(model, "norm", images, classes)[:, 0], wanted, atol=1e-6)
    low, high = wanted.amin((1, 2), keepdim=True), wanted.amax((1, 2), keepdim=True)
    assert torch.allclose(grad_cam(model, "norm", images, classes), (wanted - low) / (high - low), atol=1e-5)


def test_input_gradients_by_their_definition() -> None:
    run = toy()
    images = run.images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(run.model(images).gather(1, run.labels[:, None]).sum(), images)
    wanted = gradient.abs().mean(1)
    low, high = wanted.amin((1, 2), keepdim=True), wanted.amax((1, 2), keepdim=True)
    assert torch.allclose(input_gradient(run.model, run.images, run.labels), (wanted - low) / (high - low), atol=1e-5)


def test_a_network_with_a_class_token_is_explained_before_its_last_attention(tmp_path: Path) -> None:
    run = toy(frozenset({"attention"}))
    assert target_layer(run.model, run.images) == "blocks.1.norm1"
    assert grad_cam(run.model, "blocks.1.norm1", run.images, run.labels).shape == (6, 16, 24)
    with pytest.raises(ConfigError, match="no norm layer that puts out a feature map"):
        Attribution().analyse(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 24, 5)), run, task(), tmp_path)


def test_maps_of_both_labels_of_a_mixed_image(tmp_path: Path) -> None:
    run = toy(count=8)
    numbers = Attribution(count=4).analyse(run.model, run, task(), tmp_path)
    assert len(numbers["images"]) == 4
    assert len(numbers["mixed"]) == 2
    for one in numbers["mixed"]:
        assert len(one["labels"]) == 2
        assert 0 <= one["first_on_own"] <= 1
    with pytest.raises(ConfigError, match="row 99 is not in this set of 8"):
        Attribution(images=(99,)).analyse(run.model, run, task(), tmp_path)


def test_the_spectrum_of_waves() -> None:
    """Of a constant all is at frequency 0, of a chessboard at the highest."""
    flat, board = torch.ones(2, 3, 8, 8), (-1.0) ** (torch.arange(8)[:, None] + torch.arange(8)).expand(2, 3, 8, 8)
    assert half_diagonal(flat).argmax() == 0
    assert half_diagonal(board).argmax() == 4
    assert half_diagonal(board)[4] == pytest.approx(math.log(64 + 1e-6))
    noise = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    wanted = (torch.fft.fft2(noise.double()).abs() + 1e-6).log().mean((0, 1))
    assert half_diagonal(noise)[0] == pytest.approx(float(wanted[0, 0]))
    assert half_diagonal(noise)[-1] == pytest.approx(float(wanted[4, 3]))


def test_feature_variance_and_layers(tmp_path: Path) -> None:
    run = toy()
    numbers = Fourier().analyse(run.model, run, tmp_path, progress)
    assert numbers["layers"] == ["stage1", "stage2"]
    with torch.no_grad():
        maps = [as_map(run.model, run.model.stage1(batch.images), 16, 24) for batch in run.batches()]  # type: ignore[operator]
    wanted = sum(float(one.flatten(2).var(2, correction=0).mean()) for one in maps) / len(maps)
    assert numbers["variance_stage1"] == pytest.approx(wanted)
    with pytest.raises(ConfigError, match="has no module 'layer9'"):
        Fourier(layers=("layer9",)).analyse(run.model, run, tmp_path, progress)


def test_parameters_and_multiply_accumulates() -> None:
    run = toy()
    numbers = Complexity().analyse(run.model, run, task())
    convolutions = 8 * 12 * 27 * 8 + 4 * 6 * (8 * 9) * 16
    assert numbers["backbone_gmacs"] == round(convolutions / 1e9, 5)
    assert numbers["gmacs"] == round((convolutions + 16 * 5) / 1e9, 5)
    every = sum(one.numel() for one in run.model.parameters())
    assert numbers["parameters"] == pytest.approx(every / 1e6, rel=1e-4)
    assert numbers["backbone_parameters"] == pytest.approx((every - 16 * 5 - 5) / 1e6, rel=1e-4)
    assert numbers["training_multiplier"] == 1


def test_as_many_patches_are_hidden_as_asked(tmp_path: Path) -> None:
    images = torch.ones(3, 2, 4, 6)
    order = torch.stack([torch.randperm(6) for _ in range(3)])
    hidden = occluded(images, order, 2, 2)
    assert (hidden == 0).sum((1, 2, 3)).tolist() == [2 * 4 * 2] * 3
    run = toy()
    numbers = Occlusion(max_ratio=1.0, step=0.5, patch=8).analyse(run.model, run, task(), tmp_path, progress)
    assert numbers["patches"] == 6
    with torch.no_grad():
        plain = run.model(run.images).argmax(1)
        nothing = run.model(torch.zeros_like(run.images)).argmax(1)
    assert numbers["top1_0"] == pytest.approx(100 * float((plain == run.labels).double().mean()))
    assert numbers["top1_1"] == pytest.approx(100 * float((nothing == run.labels).double().mean()))
    with pytest.raises(ConfigError, match="patch = 7 does not divide images of 16x24; choose one of 1, 2, 4, 8"):
        Occlusion(patch=7).analyse(run.model, run, task(), tmp_path, progress)


@pytest.mark.parametrize("name", list(GENERATED))
def test_corruptions_are_images_and_grow_worse(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    x = F.interpolate(torch.rand(4, 3, 4, 4, generator=rng), size=(16, 16), mode="bilinear").clamp(0, 1)
    found = [corrupt(name, severity, x, torch.Generator().manual_seed(1)) for severity in SEVERITIES]
    for one in found:
        assert one.shape == x.shape
        assert one.min() >= 0
        assert one.max() <= 1
        assert torch.allclose(one * 255, (one * 255).round(), atol=1e-3)
    again = corrupt(name, 1, x, torch.Generator().manual_seed(1))
    assert torch.equal(found[0], again)
    if name != "saturate":  # which goes both ways
        assert (found[-1] - x).abs().mean() > (found[0] - x).abs().mean() * 0.99


def test_colours_go_to_hsv_and_back() -> None:
    x = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(_from_hsv(*_to_hsv(x)), x, atol=1e-5)
    import colorsys

    hue, saturation, value = (one[0, 2, 3] for one in _to_hsv(x))
    wanted = colorsys.rgb_to_hsv(*x[0, :, 2, 3].tolist())
    assert torch.allclose(torch.stack((hue / 6, saturation, value)), torch.tensor(wanted), atol=1e-5)


def test_corruptions_summed_up() -> None:
    accuracy = {name: [50.0 + index] * 5 for index, name in enumerate(STANDARD)}
    found = summed_up({**accuracy, "saturate": [10.0] * 5}, {name: [80.0] * 5 for name in STANDARD})
    assert found["mean15"] == pytest.approx(57)
    assert found["mce15"] == pytest.approx(43)
    assert found["pooled"] == pytest.approx((15 * 57 + 10) / 16)
    assert found["mce"] == pytest.approx(100 * 43 / 20)
    assert "snow" in summed_up({"fog": [1.0] * 5}, None)["mean15"]


def test_cifar_c_is_read_from_its_files(tmp_path: Path) -> None:
    run = toy(size=(8, 8))
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8), rng.integers(0, 5, 50)
    np.save(tmp_path / "fog.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    own = task(size=(8, 8))
    numbers = Corruption(root=tmp_path).analyse(run.model, run, own, tmp_path, progress)
    rows = slice(10, 20)  # severity 2
    with torch.no_grad():
        answers = run.model((torch.from_numpy(images[rows]).permute(0, 3, 1, 2) / 255 - 0.5) / 0.2).argmax(1).numpy()
    assert numbers["source"] == "files"
    assert numbers["accuracy"]["fog"][1] == pytest.approx(100 * float((answers == labels[rows]).mean()))
    with pytest.raises(ConfigError, match="is no folder of CIFAR-C"):
        Corruption(root=tmp_path / "no").analyse(run.model, run, own, tmp_path, progress)
    with pytest.raises(ConfigError, match="corruption 'rain' is not generated"):
        Corruption(corruptions=("rain",)).analyse(run.model, run, own, tmp_path, progress)
    stored = tmp_path / "base.json"
    stored.write_text(json.dumps({"numbers": {"accuracy": {"fog": [0.0] * 5}}}))
    against = Corruption(root=tmp_path, baseline=stored).analyse(run.model, run, own, tmp_path, progress)
    assert against["mce"] == pytest.approx(100 - numbers["accuracy_fog"])


def test_the_sheet_has_the_same_pairs_at_the_lam_that_was_asked(tmp_path: Path) -> None:
    run = toy()
    mix = nearest_mix(run, run.images[:2], run.labels[:2], 0.5, 32, "columns")
    assert isinstance(mix, Mix)
    assert mix.sources[0].tolist() == [0, 1]
    assert abs(float(mix.weights[0, 0]) - 0.5) < 0.15
    numbers = MixedSamples(pairs=2).analyse(run, run.model, task(), tmp_path, progress)
    assert numbers["methods"] == 2
    assert len(numbers["lam"]["columns"]) == 2
    other = MixedSamples(methods=("nothing", "columns")).analyse(run, run.model, task(), tmp_path, progress)
    assert other["lam"]["nothing"] == "a toy run has no mixer 'nothing'; it has: columns"
