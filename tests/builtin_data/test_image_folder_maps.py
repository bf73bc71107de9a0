"""Maps of image folders: cropped and mirrored as their images, told apart, refused or skipped as images are."""

from __future__ import annotations

import logging
import re

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from mixcore.api import DataError, UnreadableSampleError
from mixcore.config.structure import structure
from mixcore.data.fingerprint import fingerprints
from mixcore.data.loader import build_train_loader
from mixcore.data.maps import given_maps
from mixcore_plugins_builtin.data.image_folder import ImageFolder

CLASSES = ("ant", "bee")
HEIGHT, WIDTH = 48, 64


@pytest.fixture
def root(tmp_path):
    """Images of blocks of 8x8 pixels, each block of its own grey; the map "blocks" is the same picture, as PNG."""
    for number, (split, count) in enumerate((("train", 4), ("val", 1))):
        for label, name in enumerate(CLASSES):
            for index in range(count):
                rng = np.random.default_rng([number, label, index])
                small = rng.permutation(256)[: HEIGHT // 8 * WIDTH // 8].reshape(HEIGHT // 8, WIDTH // 8)
                pixels = small.astype(np.uint8).repeat(8, 0).repeat(8, 1)
                save(tmp_path / split / name / f"{index}.png", np.stack([pixels] * 3, 2))
                if split == "train":
                    save(tmp_path / "blocks" / name / f"{index}.png", pixels)
    return tmp_path


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def folder(root, **changes):
    maps = {"blocks": str(root / "blocks")}
    return ImageFolder(**{"root": str(root), "size": 32, "map_folders": maps, **changes})


def batches(plugin, epoch=0, **changes):
    settings = {"batch_size": 4, "workers": 0, "drop_last": True, "seed": 3, "rank": 0, "world": 1}
    settings |= {"device": torch.device("cpu"), "channels_last": False, "maps": ("blocks",)}
    return list(build_train_loader(plugin.build_data(), **{**settings, **changes}).epoch(epoch))


def pixels(batch, plugin):
    """The bytes of the images' first channel, of a batch that was normalised."""
    return ((batch.images[:, :1] * plugin.std[0] + plugin.mean[0]) * 255).round()


def test_a_map_is_cropped_resized_and_mirrored_as_its_image_is(root):
    plugin = folder(root, interpolation="bilinear", scale=(0.2, 0.9))
    compared = 0
    for epoch in range(4):
        for batch in batches(plugin, epoch):
            image, shown = pixels(batch, plugin), batch.maps["blocks"] * 255
            assert shown.shape == (4, 1, 32, 32)
            # inside a block, away from its edges, interpolation changes nothing
            inside = torch.nn.functional.max_pool2d(shown, 5, 1, 2) == -torch.nn.functional.max_pool2d(-shown, 5, 1, 2)
            compared += int(inside.sum())
            assert ((image - shown).abs()[inside] <= 1).all()
    assert compared > 1000


def test_a_pixel_of_a_map_is_the_one_at_its_centre(root):
    """The middle 48 x 48 of an image to a third of its size: the middle one of every three rows and columns."""
    rng = np.random.default_rng(0)
    plugin = folder(root, size=HEIGHT // 3, scale=(1, 1), ratio=(1, 1))
    for path in sorted((root / "blocks").rglob("*.png")):
        save(path, rng.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8))
    mirrored = 0
    for batch in batches(plugin):
        for row in range(4):
            name = plugin.build_data().train.split.path(int(batch.index[row])).relative_to(root / "train")
            own = torch.tensor(np.array(Image.open(root / "blocks" / name)))[1::3, 9:56:3]
            shown = (batch.maps["blocks"][row, 0] * 255).round()
            mirrored += torch.equal(shown, own.flip(1).float())
            assert torch.equal(shown, own.float()) or torch.equal(shown, own.flip(1).float())
    assert 0 < mirrored < 8


def before(plugin):
    """The transforms of the loader as they were before there were maps."""
    mode = InterpolationMode(plugin.interpolation)
    crop = transforms.RandomResizedCrop(plugin.size, plugin.scale, plugin.ratio, interpolation=mode)
    return transforms.Compose([crop, transforms.RandomHorizontalFlip(plugin.flip), transforms.PILToTensor()])


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_images_are_bit_for_bit_those_of_before_with_maps_and_without(root, interpolation):
    plugin = folder(root, interpolation=interpolation)
    data = attrs.evolve(plugin, map_folders={}).build_data()
    mapped = plugin.build_data().train
    for seed in range(60):
        index = seed % len(data.train)
        torch.manual_seed(seed)
        expected = before(plugin)(Image.open(data.train.split.path(index)).convert("RGB"))
        drawn = torch.get_rng_state()
        for images in (data.train, mapped):
            torch.manual_seed(seed)
            assert torch.equal(images[index][0], expected)
            assert torch.equal(torch.get_rng_state(), drawn)


def test_batches_without_maps_are_those_with_them(root):
    mapped = folder(root)
    plain = attrs.evolve(mapped, map_folders={})
    for one, other in zip(batches(mapped), batches(plain, maps=()), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.index, other.index)
        assert other.maps == {}


def test_workers_give_the_same_maps_and_further_augmentations_have_none(root):
    here, there = (batches(folder(root), workers=workers, augmentations=1) for workers in (0, 1))
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.maps["blocks"], other.maps["blocks"])
        assert torch.equal(one.augmented[0], other.augmented[0])


def test_any_ending_and_colours_are_read(root):
    for path in (root / "blocks").rglob("*.png"):
        Image.open(path).convert("RGB").save(path.with_suffix(".WEBP"), lossless=True)
        path.unlink()
    assert batches(folder(root))[0].maps["blocks"].shape == (4, 3, 32, 32)


def test_an_erased_image_keeps_its_map(root):
    plain, erased = (batches(folder(root, random_erasing=p))[0] for p in (0.0, 1.0))
    assert torch.equal(plain.maps["blocks"], erased.maps["blocks"])
    assert not torch.equal(plain.images, erased.images)


def test_the_names_of_maps_are_told_and_validation_has_none(root):
    data = folder(root).build_data()
    assert given_maps(data) == ("blocks",)
    assert len(data.validation[0]) == 2
    assert len(data.evaluation["train"][0]) == 2


def test_rand_augment_is_refused_beside_maps():
    table = {"map_folders": {"blocks": "x"}, "rand_augment": "rand-m7-mstd0.5-inc1"}
    _, faults = structure(ImageFolder, table, ("data",))
    assert len(faults) == 1
    assert "RandAugment turns and shears images" in faults[0].message
    assert faults[0].path == ("data", "map_folders")


def test_a_folder_of_maps_that_is_not_there_is_refused(root):
    with pytest.raises(DataError, match=r"no folder of the map 'depth' at .*nowhere \(does not exist\).*map_folders"):
        folder(root, map_folders={"depth": str(root / "nowhere")}).build_data()


def test_two_files_that_may_be_the_map_are_refused(root):
    (root / "train" / "ant" / "1.png").rename(root / "train" / "ant" / "1.bmp")
    (root / "blocks" / "ant" / "1.png").rename(root / "blocks" / "ant" / "1.webp")
    save(root / "blocks" / "ant" / "1.tif", np.zeros((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(DataError, match=r"ant/1\.tif and ant/1\.webp in .*may both be the map 'blocks' of ant/1\.bmp"):
        folder(root).build_data()


def test_images_without_a_map_are_named_and_refused(root):
    (root / "blocks" / "bee" / "2.png").unlink()
    with pytest.raises(DataError, match=r"1 image in .*train has no map 'blocks' in .*blocks;.*\n  bee/2\.png"):
        folder(root).build_data()


def broken(root, how):
    path = root / "blocks" / "bee" / "2.png"
    if how == "gone":
        path.unlink()
    elif how == "damaged":
        path.write_bytes(path.read_bytes()[:60])
    else:
        save(path, np.zeros((HEIGHT, HEIGHT), np.uint8))
    return path


SAID = {
    "gone": r"bee/2\.png has no map 'blocks' in ",
    "damaged": r"blocks/bee/2\.png cannot be decoded",
    "square": r"blocks/bee/2\.png is 48x48 and its image .*train/bee/2\.png is 64x48",
}


@pytest.mark.parametrize("how", ["damaged", "square"])
def test_a_map_that_cannot_be_used_stops_the_run(root, how):
    broken(root, how)
    with pytest.raises(UnreadableSampleError, match=SAID[how]):
        batches(folder(root))


@pytest.mark.parametrize("how", SAID)
def test_an_image_whose_map_cannot_be_used_is_skipped_and_said(root, how, caplog):
    broken(root, how)
    with caplog.at_level(logging.WARNING, "mixcore"):
        found = batches(folder(root, on_corrupt="skip"))
    assert "1 sample of the training set cannot be read and were skipped" in caplog.text
    assert re.search(SAID[how], caplog.text)
    assert sum(len(batch.labels) for batch in found) == 8


def test_maps_are_in_the_fingerprint_and_a_folder_without_is_told_as_ever(root):
    def told(**changes):
        return fingerprints(folder(root, **changes).build_data())["training"]["hash"]

    plain, mapped = told(map_folders={}), told()
    assert plain != mapped
    assert told(map_folders={"other": str(root / "blocks")}) != mapped
    (root / "blocks").rename(root / "moved")
    moved = {"blocks": str(root / "moved")}
    assert told(map_folders=moved) == mapped
    with (root / "moved" / "ant" / "0.png").open("ab") as file:
        file.write(b"\0")
    assert told(map_folders=moved) != mapped
    assert told(map_folders={}) == plain
