"""Object-aware labels: the shipped contract, then the invariants of the specification, with the masks of any mixer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mixcore_plugin_oacutmix import OACutMix, object_weights
from PIL import Image

from mixcore.api import ConfigError, DataError
from mixcore.cli.main import main
from mixcore.mixers import create_step
from mixcore.testing import PluginContract, TinyConvNet, Tripwire, run_example
from mixcore.testing.fakes import Bands

SIZE = (16, 24)


class TestContract(PluginContract):
    role = "labels"
    plugin = "oacutmix"


@pytest.mark.slow
class TestContractOfHalf(PluginContract):
    role = "labels"
    plugin = "oacutmix"
    options = {"strength": 0.5}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def box(height, width, top, bottom, left, right):
    """[height,width]: 1 inside."""
    found = torch.zeros(height, width)
    found[top:bottom, left:right] = 1
    return found


def pair_masks(own):
    """Masks [M,2,h,w] of the image itself [M,h,w] and of its partner."""
    return torch.stack((own, 1 - own), 1)


def random_case(count=20, sources=2, seed=0):
    """Soft masks [count,sources,8,6] that sum to 1, and soft objects."""
    masks = torch.rand(count, sources, 8, 6, generator=seeded(seed)) ** 3
    return masks / masks.sum(1, keepdim=True), torch.rand(count, sources, 8, 6, generator=seeded(seed + 1)) ** 4


# --- weights ---------------------------------------------------------------------------------------------------------


def test_an_example_by_hand():
    """An object of 4 x 4 of which a quarter is pasted over by 2 x 2 of an object of 2 x 4: 3/4 against 1/2."""
    own, partner = box(8, 8, 2, 6, 2, 6), box(8, 8, 4, 6, 2, 6)
    masks = pair_masks((1 - box(8, 8, 4, 8, 4, 8))[None])
    weights = object_weights(torch.stack((own, partner))[None], masks)
    assert weights[0].tolist() == pytest.approx([0.6, 0.4])
    half = object_weights(torch.stack((own, partner))[None], masks, strength=0.5)
    assert half[0].tolist() == pytest.approx([(0.6 + 0.75) / 2, (0.4 + 0.25) / 2]), "blended with the area"


@pytest.mark.parametrize("sources", [2, 3, 4])
def test_objects_that_fill_the_image_give_the_area(sources):
    masks, _ = random_case(sources=sources)
    for value in (1.0, 0.3):
        found = object_weights(torch.full_like(masks, value), masks)
        torch.testing.assert_close(found, masks.mean((2, 3)))


def test_whole_masks_give_the_whole_weight():
    _, objects = random_case()
    own = torch.ones(20, 8, 6)
    assert object_weights(objects, pair_masks(own)).tolist() == [[1.0, 0.0]] * 20
    assert object_weights(objects, pair_masks(1 - own)).tolist() == [[0.0, 1.0]] * 20


def test_an_object_that_is_pasted_over_weighs_nothing_however_small_the_box():
    own = 1 - box(8, 8, 3, 4, 3, 4)
    objects = torch.stack((box(8, 8, 3, 4, 3, 4), torch.ones(8, 8)))[None]
    assert object_weights(objects, pair_masks(own[None])).tolist() == [[0.0, 1.0]]


def test_an_image_without_an_object_weighs_nothing():
    masks, objects = random_case()
    objects[:, 0] = 0
    assert object_weights(objects, masks).tolist() == [[0.0, 1.0]] * 20


def test_where_nothing_of_any_object_is_seen_areas_count():
    masks, objects = random_case()
    torch.testing.assert_close(object_weights(torch.zeros_like(objects), masks), masks.mean((2, 3)))
    own = 1 - box(8, 8, 0, 4, 0, 4)
    hidden = torch.stack((box(8, 8, 0, 4, 0, 4), box(8, 8, 4, 8, 0, 8)))[None]
    for strength in (0.5, 1.0):
        assert object_weights(hidden, pair_masks(own[None]), strength).tolist() == [[0.75, 0.25]]


@pytest.mark.parametrize("factor", [1e-4, 0.1, 255.0])
def test_scaling_an_object_changes_nothing(factor):
    masks, objects = random_case()
    scaled = objects * torch.tensor([factor, 1.0])[:, None, None]
    torch.testing.assert_close(object_weights(scaled, masks), object_weights(objects, masks))


@pytest.mark.parametrize("sources", [2, 3])
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_soft_masks_and_many_sources_by_the_formula(sources, strength):
    masks, objects = random_case(sources=sources)
    found = object_weights(objects, masks, strength)
    for row in range(20):
        visible = [(m * o).sum() / o.sum() for m, o in zip(masks[row], objects[row], strict=True)]
        expected = torch.stack([v / sum(visible) for v in visible])
        area = masks[row].mean((1, 2))
        torch.testing.assert_close(found[row], strength * expected + (1 - strength) * area)
    torch.testing.assert_close(found.sum(1), torch.ones(20))
    if not strength:
        torch.testing.assert_close(found, masks.mean((2, 3)))


# --- the policy, with the masks of any mixer -------------------------------------------------------------------------


def batch(count=6, size=SIZE):
    objects = (torch.rand(count, 1, *size, generator=seeded(5)) > 0.7).float()
    objects[:, :, size[0] // 2 :] *= 0.2
    return torch.randn(count, 3, *size, generator=seeded(2)), torch.arange(count) % 5, {"object": objects}


def step_of(mix="cutmix", labels="oacutmix", size=SIZE, **rest):
    torch.manual_seed(0)
    return create_step(
        TinyConvNet(5), mix=mix, labels=labels, num_classes=5, iterations=50, image_size=size, seed=3, **rest
    )


def by_hand(mix, objects):
    """Weights by the formula on masks in pixels, image by image."""
    masks, found = mix.masks_on(*objects.shape[-2:]), []
    for row, sources in enumerate(mix.sources.tolist()):
        visible = [(m * objects[s, 0]).sum() / objects[s, 0].sum() for s, m in zip(sources, masks[row], strict=True)]
        found.append(torch.stack([v / sum(visible) for v in visible]))
    return torch.stack(found)


MIXERS = ["cutmix", {"name": "cutmix", "per_sample": True, "group_size": 2}, "smoothmix", "saliencygrafting", Bands()]


@pytest.mark.parametrize("mix", MIXERS, ids=str)
@pytest.mark.parametrize("loss", [None, "bce"])
def test_masks_of_any_mixer_with_any_loss(mix, loss):
    images, labels, maps = batch()
    value, report = step_of(mix, loss=loss)(images, labels, maps=maps, iteration=1)
    torch.testing.assert_close(report.targets.weights, by_hand(report.mix, maps["object"]), rtol=1e-4, atol=1e-5)
    assert (report.targets.weights - report.mix.weights).abs().max() > 0.02
    value.backward()


def test_nothing_is_read_on_the_host():
    images, labels, maps = batch()
    guarded = {name: found.as_subclass(Tripwire) for name, found in maps.items()}
    value, report = step_of()(images.as_subclass(Tripwire), labels.as_subclass(Tripwire), maps=guarded, iteration=1)
    value.backward()
    weights = torch.Tensor(report.targets.weights.as_subclass(torch.Tensor))
    torch.testing.assert_close(weights.sum(1), torch.ones(6))


def test_a_map_of_three_channels_counts_by_their_mean():
    images, labels, maps = batch()
    _, one = step_of()(images, labels, maps=maps, iteration=1)
    coloured = maps["object"] * torch.tensor([0.9, 0.3, 0.0])[:, None, None]
    _, three = step_of()(images, labels, maps={"object": coloured}, iteration=1)
    torch.testing.assert_close(one.targets.weights, three.targets.weights)


def test_constant_masks_and_clean_batches_keep_their_weights():
    images, labels, maps = batch()
    mix = [{"name": "mixup", "probability": 0.5}, {"name": "cutmix", "probability": 0.2}]
    step, seen = step_of(mix), set()
    for iteration in range(20):
        _, report = step(images, labels, maps=maps, iteration=iteration)
        if report.mixer != "cutmix":
            assert torch.equal(report.targets.weights, report.mix.weights)
        seen.add(report.mixer)
    assert seen == {"mixup", "cutmix", None}


# --- in a run --------------------------------------------------------------------------------------------------------


CONFIG = Path(__file__).parents[3] / "configs" / "digits" / "oacutmix.toml"


@pytest.fixture
def folder(tmp_path):
    """A set of image files of two classes, and beside it masks of their objects."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 1)):
        for name in ("ant", "bee"):
            for index in range(count):
                save(tmp_path / "images" / split / name / f"{index}.png", rng.integers(256, size=(16, 16, 3)))
                if split == "train":
                    save(tmp_path / "masks" / name / f"{index}.png", 255 * rng.integers(2, size=(16, 16)))
    return tmp_path


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def dry_run(place, **data):
    """The exit code of a run of one layer's network on this data, up to its first iteration."""
    sets = {"batch_size": 4, "workers": 0, **data}
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in sets.items() if not isinstance(value, dict))
    tables = "".join(
        f"\n[data.{key}]\n" + "".join(f'{name} = "{value}"\n' for name, value in table.items())
        for key, table in sets.items()
        if isinstance(table, dict)
    )
    file = place / "run.toml"
    file.write_text(
        f'extends = ["{CONFIG}"]\n[data]\n{lines}\n{tables}[backbone]\nname = "vit_tiny_patch16_224"\n'
        "options = { img_size = 32, patch_size = 16, depth = 1, embed_dim = 12, num_heads = 1 }\n"
    )
    return main(["run", str(file), "--set", f"run.dir={place}/run", "--dry-run"])


def test_a_data_set_without_the_map_is_refused_naming_the_option_that_gives_it(folder, capsys):
    files = {"name": "image_folder", "root": str(folder / "images"), "size": 32}
    assert dry_run(folder, **files) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "oacutmix" in told
    assert "reads the map object, and image_folder gives no maps" in told
    assert 'set map_folders = { object = "FOLDER" } in [data]' in told
    assert dry_run(folder, **files, map_folders={"object": str(folder / "masks")}) == 0


@pytest.mark.parametrize("name", ["digits", "fake"])
def test_the_small_sets_make_the_map_where_they_are_told_to(tmp_path, capsys, name):
    assert dry_run(tmp_path, name=name, object_map="object") == 0
    capsys.readouterr()
    assert dry_run(tmp_path, name=name, object_map="thing") == 2
    assert 'object_map = "object"' in capsys.readouterr().err


def test_mixers_without_masks_and_batches_without_the_map_are_refused(monkeypatch):
    monkeypatch.setattr("mixcore.discovery.survey.LIMIT", 0)  # naming those that have one imports all that is installed
    with pytest.raises(ConfigError, match="needs a mixer that provides mask, and mixup does not"):
        step_of("mixup")
    images, labels, _ = batch()
    with pytest.raises(DataError, match=r"oacutmix.* reads the map 'object', and this batch has no maps"):
        step_of()(images, labels)


def test_a_mixer_that_moves_the_partner_is_told_of(caplog):
    step_of("resizemix")
    assert "oacutmix: resizemix moves or resizes the partner" in caplog.text
    caplog.clear()
    step_of("cutmix")
    assert not caplog.text


@pytest.mark.parametrize("strength", [-0.1, 1.5])
def test_options_out_of_range_are_refused(strength):
    with pytest.raises(ValueError, match="strength"):
        OACutMix(strength=strength)


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
    assert names["model"].get_classifier().weight.grad.abs().sum() > 0
