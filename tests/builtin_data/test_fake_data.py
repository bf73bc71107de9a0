"""The synthetic set."""

from __future__ import annotations

import torch

from mixcore.testing import PluginContract
from mixcore_plugins_builtin.data.fake import Fake


def test_shapes_and_counts():
    data = Fake(size=12, channels=2, num_classes=3, train_images=10, validation_images=4).build_data()
    assert data.train.images.shape == (10, 2, 12, 12)
    assert data.validation.images.shape == (4, 2, 12, 12)
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert (data.task.num_classes, data.task.in_channels, data.task.image_size) == (3, 2, (12, 12))


def test_the_class_is_recoverable_from_one_split_to_the_other():
    data = Fake(num_classes=20).build_data()
    train, validation = (split.images.flatten(1).float() for split in (data.train, data.validation))
    nearest = torch.cdist(validation, train).argmin(1)
    assert torch.equal(data.train.labels[nearest], data.validation.labels)


def test_seeded_apart_from_the_global_generator():
    before = torch.get_rng_state()
    first, again, other = (Fake(data_seed=seed).build_data().train.images for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_without_an_object_map_it_is_as_it_was_and_with_one_the_same_inside_the_objects():
    plain, shown = Fake(size=24).build_data(), Fake(size=24, object_map="thing").build_data()
    assert not plain.train.maps
    inside = (shown.train.maps["thing"] == 255).expand_as(plain.train.images)
    assert shown.train.maps["thing"].unique().tolist() == [0, 255]
    assert torch.equal(shown.train.images[inside], plain.train.images[inside])
    outside = shown.train.images[~inside].float()
    assert abs(outside.mean() - 127.5) < 1
    assert abs(outside.std() - 73.9) < 1, "uniform noise"


def test_objects_are_of_many_places_and_sizes_and_validation_images_have_them_too():
    data = Fake(object_map="object", noise=0.0).build_data()
    objects = data.train.maps["object"]
    assert objects.shape == (1000, 1, 32, 32)
    shares = (objects == 255).float().mean((1, 2, 3))
    # pi/16 of the image, of which some lies beyond the border, up to pi/4
    assert 0.1 < shares.min() < 0.25
    assert 0.6 < shares.max() < 0.79
    assert len(objects.flatten(1).unique(dim=0)) > 990
    patterns = Fake(noise=0.0).build_data().validation.images
    same = (data.validation.images == patterns).all(1).float().mean((1, 2))
    assert 0.1 < same.min() < same.max() < 0.8


class TestContractOfItsObjects(PluginContract):
    role = "data"
    plugin = "fake"
    options = {"object_map": "object", "crop_padding": 4, "flip": 0.5}
