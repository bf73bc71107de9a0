"""Published image sets: each layout, label by label; their defaults; their contract; and that a tiny copy trains."""

from __future__ import annotations

import logging
from pathlib import Path

import attrs
import pytest
import torch
from PIL import Image
from torchvision import datasets

from mixcore.api import DataError
from mixcore.cli.main import main
from mixcore.discovery.catalogue import find, installed
from mixcore.discovery.load import load
from mixcore.testing import PluginContract
from mixcore_plugins_builtin.data.published import PublishedSet

NAMES = ("aircraft", "cars", "cub200", "imagenet", "inat2017", "inat2018", "places205", "tiny_imagenet")


def class_of(name):
    return load(find(name, installed()))


def build(copy, root, **options):
    given = {"root": str(root), "check_counts": False, "size": 8, **copy.options, **options}
    return class_of(copy.plugin)(**given).build_data()


def labels_of(images, root):
    return {str(images.split.path(index).relative_to(root)): images.label(index) for index in range(len(images))}


def test_every_image_has_its_label(layout, tmp_path):
    data = build(layout, tmp_path)
    assert labels_of(data.train, tmp_path) == layout.train
    assert labels_of(data.validation, tmp_path) == layout.validation
    assert len(data.train) == len(layout.train)
    assert data.task.num_classes == max(layout.train.values()) + 1
    assert data.task.class_names == layout.classes
    image, label = data.train[0]
    assert (image.shape, label) == ((3, 8, 8), data.train.label(0))


def test_the_folder_of_the_release_may_be_the_root(make_layout, tmp_path):
    copy = make_layout("cub")
    inside = build(copy, tmp_path / "CUB_200_2011")
    assert labels_of(inside.train, tmp_path) == copy.train


def test_labels_are_torchvisions(make_layout, tmp_path):
    made = make_layout("aircraft")
    theirs = datasets.FGVCAircraft(str(tmp_path), split="trainval")
    assert {
        str(Path(path).relative_to(tmp_path)): label
        for path, label in zip(theirs._image_files, theirs._labels, strict=True)
    } == made.train
    assert tuple(theirs.classes) == made.classes


def test_car_labels_are_torchvisions(make_layout, tmp_path):
    made = make_layout("cars")
    for split, expected in (("train", made.train), ("test", made.validation)):
        theirs = datasets.StanfordCars(str(tmp_path), split=split)
        assert {str(Path(path).relative_to(tmp_path)): label for path, label in theirs._samples} == expected
        assert tuple(theirs.classes) == made.classes


# Sizes of the releases, and where the publisher does not say them: another count is then warned of.
SIZES = {
    "tiny_imagenet": (200, 100_000, 10_000, ()),
    "imagenet": (1000, 1_281_167, 50_000, ()),
    "cub200": (200, 5_994, 5_794, ("validation",)),
    "aircraft": (100, 6_667, 3_333, ("train", "validation")),
    "cars": (196, 8_144, 8_041, ("train", "validation")),
    "inat2017": (5_089, 579_184, 95_986, ("train", "validation")),
    "inat2018": (8_142, 437_513, 24_426, ("validation",)),
    "places205": (205, 2_448_873, 20_500, ("train", "validation")),
}
CROPS = {  # size, short side before the crop, scale, interpolation, crop_ratio
    **dict.fromkeys(NAMES, (224, 0, (0.08, 1), "bicubic", 0.875)),
    "tiny_imagenet": (64, 0, (0.08, 1), "bicubic", 1),
    **dict.fromkeys(("aircraft", "cars", "cub200"), (224, 256, (0.5, 1), "bilinear", 0.875)),
}


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_crops(name):
    plugin = class_of(name)()
    release = plugin.release
    assert (release.classes, release.train, release.validation, release.doubted) == SIZES[name]
    crops = (plugin.size, plugin.resize, plugin.scale, plugin.interpolation, plugin.crop_ratio)
    assert crops == CROPS[name]
    assert (plugin.mean, plugin.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert isinstance(plugin, PublishedSet)


def test_another_size_is_refused(layout, tmp_path):
    release = class_of(layout.plugin).release
    with pytest.raises(DataError) as caught:
        build(layout, tmp_path, check_counts=True)
    text = str(caught.value)
    classes = max(layout.train.values()) + 1
    assert f"{release.title} in {tmp_path} (a folder) has {classes} classes (expected {release.classes:,})" in text
    assert f"{len(layout.train)} training images (expected {release.train:,})" in text
    assert f"{len(layout.validation)} validation images (expected {release.validation:,})" in text
    assert "data.check_counts = false" in text


@pytest.mark.parametrize("doubted", [("train", "validation"), ("validation",)])
def test_counts_that_the_publisher_does_not_give_are_warned_of(doubted, make_layout, tmp_path, monkeypatch, caplog):
    copy = make_layout("cub")
    release = attrs.evolve(class_of("cub200").release, classes=3, train=99, validation=99, doubted=doubted)
    monkeypatch.setattr(class_of("cub200"), "release", release)
    if "train" not in doubted:
        with pytest.raises(DataError, match=r"has 12 training images \(expected 99\), 6 validation images \(exp"):
            build(copy, tmp_path, check_counts=True)
        return
    with caplog.at_level(logging.WARNING, "mixcore"):
        assert len(build(copy, tmp_path, check_counts=True).train) == 12
    assert "has 12 training images (expected 99), 6 validation images (expected 99)" in caplog.text


def test_a_set_of_the_published_size_is_taken_in_silence(make_layout, tmp_path, monkeypatch, caplog):
    copy = make_layout("cub")
    monkeypatch.setattr(
        class_of("cub200"), "release", attrs.evolve(class_of("cub200").release, classes=3, train=12, validation=6)
    )
    with caplog.at_level(logging.WARNING, "mixcore"):
        assert len(build(copy, tmp_path, check_counts=True).train) == 12
    assert not caplog.text


def test_grey_and_cmyk_files_are_rgb_and_turned_upright(make_layout, tmp_path):
    copy = make_layout("imagenet")
    grey, cmyk, turned = list(copy.validation)
    Image.new("L", (8, 8), 200).save(tmp_path / grey)
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / cmyk, format="JPEG")
    sideways = Image.new("RGB", (8, 8))
    sideways.paste((255, 255, 255), (0, 0, 8, 4))  # bright above, to the right when shown
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways.save(tmp_path / turned, exif=exif, quality=100)
    images = [image for image, _ in build(copy, tmp_path, crop_ratio=1.0).validation]
    assert all(image.shape == (3, 8, 8) for image in images)
    assert images[0].float().mean() == pytest.approx(200, abs=2)
    assert images[1][0].min() > 200
    assert images[1][1:].max() < 60
    assert images[2][:, :, 4:].float().mean() > 200 > 50 > images[2][:, :, :4].float().mean()


def test_the_fingerprint_tells_labels_and_not_places(make_layout, tmp_path):
    copy = make_layout("places")
    first = build(copy, tmp_path).train.fingerprint()
    moved = tmp_path / "places205"
    moved.mkdir()
    for name in ("images256", "trainvalsplit_places205"):
        (tmp_path / name).rename(moved / name)
    assert build(copy, tmp_path).train.fingerprint() == first
    listed = moved / "trainvalsplit_places205" / "train_places205.csv"
    listed.write_text(listed.read_text().replace("gsun_0.jpg 1", "gsun_0.jpg 2"))
    assert build(copy, tmp_path).train.fingerprint() != first


def test_the_short_side_is_brought_to_its_size_before_the_crop(tmp_path):
    """Of an image of 40 x 80 pixels in stripes, resized to 4 x 8, no stripe is left: the crop cannot bring it back."""
    stripes = torch.arange(80).remainder(2).mul(255).to(torch.uint8).expand(40, 80).numpy()
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(stripes).convert("RGB").save(tmp_path / split / name / "0.png")
    plugin = class_of("cars")
    spread = {
        resize: plugin(root=str(tmp_path), check_counts=False, size=40, scale=(1, 1), ratio=(1, 1), resize=resize)
        .build_data()
        .train[0][0]
        .float()
        .std()
        for resize in (0, 4)
    }
    assert spread[0] > 100
    assert spread[4] < 20


def test_a_tiny_copy_trains(make_layout, tmp_path, toy_config, capsys):
    copy = make_layout("tiny as unpacked")
    table = {"name": copy.plugin, "root": str(tmp_path), "check_counts": "false", "size": 8, "batch_size": 4}
    sets = [word for key, value in table.items() for word in ("--set", f"data.{key}={value}")]
    assert main(["run", str(toy_config), *sets, "--set", "schedule.epochs=1", "--dry-run"]) == 0
    assert main(["run", str(toy_config), *sets, "--set", "schedule.epochs=1"]) == 0
    assert (tmp_path / "run" / "summary.json").is_file()


class OfTheData(PluginContract):
    """The contract of a data set, on a tiny copy."""

    role = "data"
    made: str

    @pytest.fixture(autouse=True)
    def _made(self, request, make_layout, tmp_path):
        copy = make_layout(self.made)
        cls = request.cls
        cls.plugin = copy.plugin
        cls.options = {"root": str(tmp_path), "check_counts": False, "size": 16, **copy.options}


class TestContractOfTinyImageNet(OfTheData):
    made = "tiny as unpacked"


class TestContractOfAircraft(OfTheData):
    made = "aircraft"


class TestContractOfINaturalist(OfTheData):
    made = "inat2018"
