"""The synthetic set."""

from __future__ import annotations

import torch

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
