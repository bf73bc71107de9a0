"""CIFAR, Fashion-MNIST and STL-10: real layouts with few images."""

from __future__ import annotations

import logging
import pickle
import struct
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from mixcore.api import DataError
from mixcore_plugins_builtin.data import cifar
from mixcore_plugins_builtin.data.cifar import Cifar10, Cifar100
from mixcore_plugins_builtin.data.torchvision_sets import STL10, FashionMNIST


@pytest.mark.parametrize(
    ("plugin", "folder"),
    [
        (Cifar10, "cifar-10-batches-py"),
        (Cifar100, "cifar-100-python"),
        (FashionMNIST, "FashionMNIST"),
        (STL10, "stl10_binary"),
    ],
)
def test_a_missing_set_says_where_it_was_expected_and_how_to_get_it(plugin, folder, tmp_path):
    with pytest.raises(DataError) as caught:
        plugin(root=str(tmp_path)).build_data()
    text = str(caught.value)
    assert str(tmp_path / folder) in text
    assert "does not exist" in text
    assert "data.download = true" in text
    assert caught.value.exit_code == 2


def test_a_damaged_set_is_told_from_a_missing_one(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match=r"CIFAR-10 is damaged or incomplete at .*cifar-10-batches-py \(a folder\)"):
        Cifar10(root=str(tmp_path)).build_data()


def test_a_download_that_fails_is_one_clear_error(tmp_path, monkeypatch):
    def unreachable(self):
        raise URLError("name resolution failed")

    monkeypatch.setattr(datasets.CIFAR100, "download", unreachable)
    with pytest.raises(DataError, match=r"CIFAR-100 could not be downloaded to .*name resolution failed"):
        Cifar100(root=str(tmp_path), download=True).build_data()


def test_cifar_in_torchvisions_layout(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    for name in ("train", "test"):
        content = {"data": pixels, "fine_labels": [3, 99, 0, 1, 2, 4]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}))
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda path, md5=None: True)
    data = Cifar100(root=str(tmp_path)).build_data()
    assert torch.equal(data.train.images, torch.from_numpy(pixels).view(6, 3, 32, 32))
    assert data.train.labels.tolist() == [3, 99, 0, 1, 2, 4]
    assert data.train.labels.dtype == torch.int64
    assert data.task.num_classes == 100
    assert data.task.std == (0.2023, 0.1994, 0.2010)
    assert data.task.class_names == tuple(str(i) for i in range(100))


def test_cifar100_reflects_and_cifar10_pads_with_zeros():
    assert (Cifar100().padding_mode, Cifar10().padding_mode) == ("reflect", "constant")
    assert (Cifar100().crop_padding, Cifar100().flip) == (4, 0.5)


def write_folders(root, classes, per_class):
    for split, count in zip(("train", "test"), per_class, strict=True):
        for label in range(classes):
            folder = root / split / f"c{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (32, 32), (label, index, 7)).save(folder / f"{index}.png")


def test_cifar_in_image_folders(tmp_path, monkeypatch):
    write_folders(tmp_path, 10, (2, 1))
    monkeypatch.setattr(cifar, "TRAIN_IMAGES", 20)
    monkeypatch.setattr(cifar, "TEST_IMAGES", 10)
    data = Cifar10(root=str(tmp_path)).build_data()
    assert data.train.images.shape == (20, 3, 32, 32)
    assert torch.equal(data.train.images[:, 0, 5, 5].long(), data.train.labels)
    assert data.validation.labels.tolist() == list(range(10))
    assert data.task.class_names == tuple(f"c{label}" for label in range(10))


def test_incomplete_image_folders_are_refused(tmp_path):
    write_folders(tmp_path, 10, (2, 1))
    with pytest.raises(
        DataError, match=r"10 classes, 20 training and 10 test images; CIFAR-10 has 10, 50000 and 10000"
    ):
        Cifar10(root=str(tmp_path)).build_data()


@pytest.mark.parametrize("skip", [False, True])
def test_corrupt_files_of_cifar_folders_are_named_and_counted(skip, tmp_path, monkeypatch, caplog):
    write_folders(tmp_path, 10, (2, 1))
    monkeypatch.setattr(cifar, "TRAIN_IMAGES", 20)
    monkeypatch.setattr(cifar, "TEST_IMAGES", 10)
    for name in ("c1/0.png", "c4/1.png"):
        (tmp_path / "train" / name).write_bytes(b"no image")
    plugin = Cifar10(root=str(tmp_path), on_corrupt="skip" if skip else "refuse")
    if not skip:
        with pytest.raises(DataError, match=r"(?s)^2 unreadable images in the training set.*c1/0\.png.*c4/1\.png"):
            plugin.build_data()
        return
    with caplog.at_level(logging.WARNING, "mixcore"):
        data = plugin.build_data()
    assert data.train.labels.bincount().tolist() == [2, 1, 2, 2, 1, 2, 2, 2, 2, 2]
    assert torch.equal(data.train.images[:, 0, 5, 5].long(), data.train.labels)
    assert "2 unreadable images in the training set left out" in caplog.text


def idx(array):
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_fashion_mnist(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    labels = np.array([9, 0, 3, 3, 1], dtype=np.uint8)
    for split in ("train", "t10k"):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(idx(labels))
    data = FashionMNIST(root=str(tmp_path)).build_data()
    assert torch.equal(data.train.images, torch.from_numpy(images)[:, None])
    assert data.validation.labels.tolist() == [9, 0, 3, 3, 1]
    assert (data.task.in_channels, data.task.image_size, data.task.num_classes) == (1, (28, 28), 10)
    assert data.task.class_names is not None
    assert data.task.class_names[9] == "Ankle boot"


def test_stl10(tmp_path, monkeypatch):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 96, 96), dtype=np.uint8)
    for split in ("train", "test"):
        (folder / f"{split}_X.bin").write_bytes(np.transpose(pixels, (0, 1, 3, 2)).tobytes())
        (folder / f"{split}_y.bin").write_bytes(np.array([1, 10, 2, 3], dtype=np.uint8).tobytes())
    (folder / "class_names.txt").write_text("\n".join("abcdefghij"))
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    data = STL10(root=str(tmp_path)).build_data()
    assert torch.equal(data.train.images, torch.from_numpy(pixels))
    assert data.train.labels.tolist() == [0, 9, 1, 2]
    assert data.task.class_names == tuple("abcdefghij")
