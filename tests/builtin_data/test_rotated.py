"""Turned digits, and RCF-MNIST from small files in the layouts of its two sources."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision import datasets
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from mixcore.api import ConfigError, DataError
from mixcore.testing import PluginContract
from mixcore_plugins_builtin.data.digits import Digits
from mixcore_plugins_builtin.data.rotated import RcfMnist, RotatedDigits, rotate, silhouettes


class TestContract(PluginContract):
    role, plugin = "data", "rotated_digits"


def some_images(count: int = 6) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 10, 10), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_a_quarter_turns_counter_clockwise_and_nothing_else() -> None:
    images = some_images(4)
    turned = rotate(images, torch.tensor([0.0, 90.0, 180.0, -90.0]))
    for number, quarters in enumerate((0, 1, 2, -1)):
        assert torch.equal(turned[number], images[number].rot90(quarters, (1, 2)))


@pytest.mark.parametrize("degrees", [-33.0, 6.0, 174.0])
def test_any_angle_agrees_with_torchvision(degrees: float) -> None:
    images = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    images[:, :, 8:24, 12:18] = 200
    expected = F.rotate(images, degrees, InterpolationMode.BILINEAR)
    found = rotate(images, torch.full((2,), degrees))
    assert (found.int() - expected.int()).abs().max() <= 1


def test_each_image_has_its_own_angle_whatever_part_it_is_turned_in(monkeypatch: pytest.MonkeyPatch) -> None:
    images, angles = some_images(5), torch.tensor([10.0, -20.0, 0.0, 90.0, 300.0])
    whole = rotate(images, angles)
    monkeypatch.setattr("mixcore_plugins_builtin.data.rotated.AT_ONCE", 2)
    assert torch.equal(rotate(images, angles), whole)
    assert torch.equal(rotate(images[3:4], angles[3:4]), whole[3:4])


def test_rotated_digits_are_the_digits_turned_by_their_values() -> None:
    data, plain = RotatedDigits(degrees=45.0).build_data(), Digits().build_data()
    assert (data.task.label_kind, data.task.num_classes, data.task.class_names) == ("value", 1, ("angle in degrees",))
    assert data.train.labels.dtype == torch.float32
    for own, before in ((data.train, plain.train), (data.validation, plain.validation)):
        assert own.labels.shape == (len(before), 1)
        assert own.labels.abs().max() <= 45
        assert own.labels.std() == pytest.approx(45 / 3**0.5, rel=0.06)
        assert torch.equal(own.images, rotate(before.images, own.labels[:, 0]))
    assert torch.equal(data.train.labels, RotatedDigits(degrees=45.0).build_data().train.labels)
    other = RotatedDigits(degrees=45.0, data_seed=1).build_data()
    assert not torch.equal(data.train.labels, other.train.labels)


@pytest.mark.parametrize("degrees", [0.0, 181.0])
def test_degrees_out_of_range_are_refused(degrees: float) -> None:
    with pytest.raises(ValueError, match="degrees"):
        RotatedDigits(degrees=degrees)


def test_the_garment_is_white_where_it_exceeds_two() -> None:
    garment = torch.tensor([[[[0, 2], [3, 255]]]], dtype=torch.uint8)
    behind = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2)
    assert silhouettes(garment, behind).tolist() == [[[[0, 1], [255, 255]], [[4, 5], [255, 255]], [[8, 9], [255, 255]]]]


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    head = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
    path.write_bytes(head + array.tobytes())


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven garments and five photographs a split (training photographs: five files of one)."""
    raw, batches = tmp_path / "FashionMNIST" / "raw", tmp_path / datasets.CIFAR10.base_folder
    raw.mkdir(parents=True)
    batches.mkdir()
    rng = np.random.default_rng(0)
    for split in ("train", "t10k"):
        garments = rng.integers(0, 256, (7, 28, 28), dtype=np.uint8)
        garments[:, :, :14] = 0
        write_idx(raw / f"{split}-images-idx3-ubyte", garments)
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.zeros(7, np.uint8))
    counts = {**{f"data_batch_{i}": 1 for i in range(1, 6)}, "test_batch": 5}
    for name, count in counts.items():
        content = {"data": rng.integers(0, 255, (count, 3072), dtype=np.uint8), "labels": [0] * count}
        (batches / name).write_bytes(pickle.dumps(content))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a"]}))
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda path, md5=None: True)
    return tmp_path


def split_of(root: Path, train: bool) -> tuple[Any, Any]:
    return datasets.FashionMNIST(str(root), train=train), datasets.CIFAR10(str(root), train=train)


def test_rcf_mnist_is_garment_i_turned_before_photograph_i(root: Path) -> None:
    data = RcfMnist(root=str(root)).build_data()
    for train, own in ((True, data.train), (False, data.validation)):
        garments, photographs = split_of(root, train)
        assert own.images.shape == (7, 3, 32, 32)
        assert own.labels.shape == (7, 1)
        assert ((own.labels % 6 == 0) & (own.labels >= 0) & (own.labels < 360)).all()
        for index in range(7):
            padded = torch.nn.functional.pad(garments.data[index][None, None], (2, 2, 2, 2))
            white = rotate(padded, own.labels[index])[0] > 2
            behind = torch.from_numpy(photographs.data[index % 5]).permute(2, 0, 1)
            assert torch.equal(own.images[index], behind.masked_fill(white, 255))
    assert (data.task.label_kind, data.task.in_channels, data.task.image_size) == ("value", 3, (32, 32))
    assert data.train.augment is not None
    assert (data.train.augment.padding, data.train.augment.flip) == (2, 0.0)


def test_angles_of_rcf_mnist_are_fixed_by_the_seed_and_differ_between_the_splits(root: Path) -> None:
    first, again, other = (RcfMnist(root=str(root), data_seed=seed).build_data() for seed in (0, 0, 1))
    assert torch.equal(first.train.labels, again.train.labels)
    assert torch.equal(first.train.images, again.train.images)
    assert not torch.equal(first.train.labels, other.train.labels)
    assert not torch.equal(first.train.labels, first.validation.labels)


@pytest.mark.parametrize(("missing", "title"), [("FashionMNIST", "Fashion-MNIST"), ("cifar-10-batches-py", "CIFAR-10")])
def test_a_source_that_is_missing_is_named(root: Path, missing: str, title: str) -> None:
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(
        DataError, match=rf"{title}, of which RCF-MNIST is made, is not at .*{missing}.*download = true"
    ):
        RcfMnist(root=str(root)).build_data()


def test_a_crop_larger_than_the_image_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="crop_padding = 32"):
        RcfMnist(root=str(root), crop_padding=32).build_data()
