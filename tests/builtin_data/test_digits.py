"""The digits that ship with mixcore."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest
import torch

from mixcore.api import ConfigError
from mixcore.testing import PluginContract
from mixcore_plugins_builtin.data import options
from mixcore_plugins_builtin.data.digits import Digits, enlarge

STORED = files("mixcore_plugins_builtin.data") / "digits.npz"


def test_the_file_is_the_uci_set_and_small():
    sklearn = pytest.importorskip("sklearn.datasets", reason="scikit-learn keeps the set to compare with")
    reference = sklearn.load_digits()
    with STORED.open("rb") as file, np.load(file) as stored:
        assert np.array_equal(stored["images"], reference.images)
        assert np.array_equal(stored["labels"], reference.target)
    assert len(STORED.read_bytes()) < 100_000


def test_source_and_licence_are_stated_beside_it():
    text = (files("mixcore_plugins_builtin.data") / "digits.md").read_text()
    assert "CC BY 4.0" in text
    assert "Alpaydin" in text


def test_split_is_stratified_complete_and_fixed():
    data = Digits().build_data()
    counts = data.train.labels.bincount(), data.validation.labels.bincount()
    assert (len(data.train), len(data.validation)) == (1442, 355)
    assert torch.equal(counts[1], (counts[0] + counts[1]) // 5)
    again = Digits().build_data()
    assert torch.equal(data.validation.images, again.validation.images)
    rows = {image.numpy().tobytes() for image in data.train.images}
    assert len(rows) > 1400
    assert not rows & {image.numpy().tobytes() for image in data.validation.images}


def test_images_are_enlarged_over_the_whole_range():
    data = Digits().build_data()
    assert data.train.images.shape == (1442, 1, 32, 32)
    assert data.train.images.dtype == torch.uint8
    assert (data.train.images.min(), data.train.images.max()) == (0, 255)
    flat = enlarge(torch.full((1, 8, 8), 8, dtype=torch.uint8), 32)
    assert flat.unique().tolist() == [128]


def test_normalised_images_have_mean_zero_and_deviation_one():
    data = Digits().build_data()
    images = (data.train.images / 255 - data.task.mean[0]) / data.task.std[0]
    assert images.mean().abs() < 0.01
    assert (images.std() - 1).abs() < 0.01


def test_size_and_channels():
    data = Digits(size=24, channels=3).build_data()
    assert data.train.images.shape == (1442, 3, 24, 24)
    assert (data.task.in_channels, data.task.image_size) == (3, (24, 24))
    assert data.task.mean == (0.305,) * 3
    assert torch.equal(data.train.images[:, 0], data.train.images[:, 2])


def test_augmentation_follows_the_options():
    assert Digits(crop_padding=0).build_data().train.augment is None
    augment = Digits().build_data().train.augment
    assert (augment.padding, augment.mode, augment.flip) == (2, "constant", 0.0)
    assert Digits().build_data().validation.augment is None


@pytest.mark.parametrize(
    "wrong",
    [{"size": 7}, {"channels": 2}, {"flip": 1.5}, {"crop_padding": -1}, {"padding_mode": "edge"}, {"std": (0.0,)}],
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Digits(**wrong)


def test_options_that_do_not_fit_the_images_are_refused():
    with pytest.raises(ConfigError, match=r"data.mean has 3 numbers and the images have 1 channel;"):
        Digits(mean=(0.1, 0.2, 0.3)).build_data()


def test_a_set_that_this_machine_cannot_make_is_refused(monkeypatch):
    monkeypatch.setattr(options, "_physical_memory", lambda: 2**30)
    with pytest.raises(ConfigError, match=r"data\.size and data\.channels make a set that takes 3 GiB .* has 1 GiB"):
        Digits(size=500).build_data()
    assert len(Digits(size=200).build_data().train) == 1442


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_padding_that_could_hide_the_image_is_refused(mode):
    with pytest.raises(ConfigError, match=r"data\.crop_padding = 32 needs images larger than that.*32x32"):
        Digits(crop_padding=32, padding_mode=mode).build_data()
    assert Digits(crop_padding=31, padding_mode=mode).build_data().train.augment.padding == 31


def test_the_training_images_are_an_evaluation_set_too_and_classes_have_names():
    data = Digits().build_data()
    again = data.evaluation["train"]
    assert again.augment is None
    assert again.images is data.train.images, "kept once"
    assert torch.equal(again.labels, data.train.labels)
    assert data.task.class_names == tuple("0123456789")


def test_the_ink_is_a_map_where_it_is_asked_for():
    assert not Digits().build_data().train.maps
    data = Digits(channels=3, object_map="object").build_data()
    assert torch.equal(data.train.maps["object"], data.train.images[:, :1])
    assert not data.validation.maps
    with pytest.raises(ValueError, match="object_map"):
        Digits(object_map="")


class TestContractOfItsInk(PluginContract):
    role = "data"
    plugin = "digits"
    options = {"object_map": "object"}
