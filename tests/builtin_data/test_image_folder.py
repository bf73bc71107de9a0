"""Image folders: layout, transforms and what bad folders get."""

from __future__ import annotations

import logging
import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mixcore.api import DataError, UnreadableSampleError
from mixcore.data.loader import build_eval_loader, build_train_loader
from mixcore_plugins_builtin.data.folder_transforms import evaluation_transform, rand_augment
from mixcore_plugins_builtin.data.image_folder import ImageFolder

CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in CLASSES:
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (30 + 2 * index, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.JPEG")
    return tmp_path


def loaders(plugin, workers=0):
    data = plugin.build_data()
    settings = {"batch_size": 4, "workers": workers, "rank": 0, "world": 1, "device": torch.device("cpu")}
    train = build_train_loader(data, drop_last=True, seed=0, channels_last=False, **settings)
    return train, build_eval_loader(data, channels_last=False, **settings)


STRONG = {"size": 16, "rand_augment": "rand-m7-mstd0.5-inc1", "random_erasing": 0.5}


def test_labels_follow_the_sorted_folder_names_and_images_are_rgb(root):
    Image.new("L", (20, 20), 200).save(root / "val" / "ant" / "grey.png")
    Image.new("CMYK", (20, 20)).save(root / "val" / "bee" / "print.jpg")
    (root / "val" / "bee" / "notes.txt").write_text("no image")
    data = ImageFolder(root=str(root), size=16).build_data()
    assert [label for _, label in data.validation] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert all(image.shape == (3, 16, 16) and image.dtype == torch.uint8 for image, _ in data.validation)
    assert (data.task.num_classes, data.task.in_channels, data.task.image_size) == (3, 3, (16, 16))
    assert data.task.class_names == tuple(CLASSES)


def test_images_in_folders_below_the_class_are_found(root):
    below = root / "train" / "ant" / "images"
    below.mkdir()
    (root / "train" / "ant" / "0.JPEG").rename(below / "0.JPEG")
    assert len(ImageFolder(root=str(root)).build_data().train) == 12


def test_random_transforms_do_not_depend_on_workers_or_the_start(root):
    plugin = ImageFolder(root=str(root), repeats=2, **STRONG)
    expected = list(loaders(plugin)[0].epoch(0))
    for found in (
        list(loaders(plugin, workers=2)[0].epoch(0)),
        expected[:1] + list(loaders(plugin)[0].epoch(0, start=1)),
    ):
        assert len(found) == len(expected) == 3
        for (a, x), (b, y) in zip(found, expected, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(x, y)
    assert not torch.equal(expected[0].images, next(loaders(plugin)[0].epoch(1)).images)


def test_erased_images_come_normalised_and_others_as_bytes(root):
    erased, plain = (
        ImageFolder(root=str(root), size=16, scale=(1, 1), ratio=(1, 1), flip=0, random_erasing=p)
        .build_data()
        .train[0][0]
        for p in (1.0, 0.0)
    )
    assert plain.dtype == torch.uint8
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    same = (erased - (plain / 255 - mean) / std).abs().amax(0) < 1e-4
    assert 0.5 < same.float().mean() < 0.999
    rows, columns = (~same).nonzero().unbind(1)
    box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
    assert (~same).sum() == box  # one rectangle


def test_crop_ratio_is_crop_over_resized_short_side(root):
    # A marked centre: with ratio 0.5 half of the short side is seen.
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[10:30, 30:50] = 255
    image = Image.fromarray(pixels)
    assert evaluation_transform(20, 0.5, "bilinear")(image).min() == 255
    assert evaluation_transform(20, 0.4, "bilinear")(image).shape == (3, 20, 20)
    whole = evaluation_transform(20, 1.0, "bilinear")(image)
    assert whole.float().mean() == pytest.approx(255 / 4, abs=8)
    resize = evaluation_transform(224, 0.95, "bicubic").transforms[0]
    assert resize.size == 236


def test_test_size_may_differ_from_the_training_size(root):
    data = ImageFolder(root=str(root), size=16, test_size=24).build_data()
    assert data.train[0][0].shape == (3, 16, 16)
    assert data.validation[0][0].shape == (3, 24, 24)


def test_training_images_are_an_evaluation_set_as_well_prepared_as_validation_images(root):
    again = ImageFolder(root=str(root), size=16, test_size=24).build_data().evaluation["train"]
    assert len(again) == 12
    images = [[again[index][0] for index in range(12)] for _ in range(2)]
    assert images[0][0].shape == (3, 24, 24)
    assert all(torch.equal(one, other) for one, other in zip(*images, strict=True)), "nothing is drawn"


def test_rand_augment_has_timms_operations_and_fill():
    augment = rand_augment("rand-m7-mstd0.5-inc1", (0.485, 0.456, 0.406))
    assert len(augment.ops) == 15
    assert augment.num_layers == 2
    assert all(op.prob == 0.5 and op.magnitude == 7 and op.magnitude_std == 0.5 for op in augment.ops)
    assert augment.ops[0].kwargs["fillcolor"] == (124, 116, 104)


@pytest.mark.parametrize("words", ["m7", "rand-x7", "autoaugment"])
def test_unknown_words_of_rand_augment_are_refused(words):
    with pytest.raises(ValueError, match=rf"'{words}' is no RandAugment of timm"):
        ImageFolder(rand_augment=words)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (0.5, 0.2)},
        {"ratio": (0, 1)},
        {"crop_ratio": 1.2},
        {"repeats": 0},
        {"mean": (0.5,)},
        {"interpolation": "lanczos"},
    ],
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ImageFolder(**wrong)


def test_a_missing_folder_names_the_path_and_the_layout(tmp_path):
    with pytest.raises(DataError) as caught:
        ImageFolder(root=str(tmp_path / "nowhere")).build_data()
    assert str(tmp_path / "nowhere" / "train") in str(caught.value)
    assert "<class>/<image>" in str(caught.value)
    assert "data.root" in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="has no class folders"):
        ImageFolder(root=str(tmp_path)).build_data()


def test_an_empty_class_is_refused(root):
    (root / "train" / "dog").mkdir()
    (root / "train" / "dog" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"'dog' in .*train holds no image"):
        ImageFolder(root=str(root)).build_data()


def test_class_folders_that_differ_are_refused(root):
    (root / "val" / "cat").rename(root / "val" / "dog")
    with pytest.raises(DataError, match=r"only in .*train: 'cat'; only in .*val: 'dog'"):
        ImageFolder(root=str(root)).build_data()


def damage(root):
    file = root / "train" / "bee" / "2.JPEG"
    file.write_bytes(file.read_bytes()[:300])
    (root / "val" / "cat" / "0.JPEG").write_bytes(b"")
    return file


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_images_are_named_and_refused(root, workers):
    file = damage(root)
    train, validation = loaders(ImageFolder(root=str(root), size=16), workers)
    with pytest.raises(UnreadableSampleError) as caught:
        list(train.epoch(0))
    assert str(file) in str(caught.value)
    assert 'data.on_corrupt = "skip"' in str(caught.value)
    with pytest.raises(UnreadableSampleError, match=r"1 sample of the validation set .*\n.*cat/0\.JPEG"):
        list(validation.epoch(0))


def test_corrupt_images_are_skipped_counted_and_said(root, caplog):
    file = damage(root)
    train, validation = loaders(ImageFolder(root=str(root), size=16, on_corrupt="skip"))
    with caplog.at_level(logging.WARNING, "mixcore"):
        assert sum(len(labels) for _, labels in train.epoch(0)) == 12
        assert sum(len(labels) for _, labels in validation.epoch(0)) == 5
    assert f"1 sample of the training set cannot be read and were skipped:\n  {file}" in caplog.text
    assert "cat/0.JPEG" in caplog.text


def test_global_generators_are_given_back(root):
    train, _ = loaders(ImageFolder(root=str(root), **STRONG))
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    list(train.epoch(0))
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_a_folder_is_told_by_names_classes_and_sizes_and_not_by_its_place(root, tmp_path):
    def told(folder):
        return ImageFolder(root=str(folder), size=16).build_data().train.fingerprint()

    moved = tmp_path / "elsewhere"
    shutil.copytree(root / "train", moved / "train")
    shutil.copytree(root / "val", moved / "val")
    first = told(root)
    assert told(moved) == first
    (moved / "train" / "ant" / "0.JPEG").rename(moved / "train" / "bee" / "zero.JPEG")
    assert told(moved) != first
    (moved / "train" / "bee" / "zero.JPEG").rename(moved / "train" / "ant" / "0.JPEG")
    assert told(moved) == first
    with (moved / "train" / "ant" / "0.JPEG").open("ab") as file:
        file.write(b"\0")
    assert told(moved) != first
