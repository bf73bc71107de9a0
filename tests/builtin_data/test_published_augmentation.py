"""The augmentations of published recipes, each against a plain restatement of what they say."""

from __future__ import annotations

import pickle
import random
from collections import Counter

import attrs
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision import datasets

from mixcore.data.loader import build_eval_loader, build_train_loader
from mixcore.types import Resident
from mixcore_plugins_builtin.data import fixmatch
from mixcore_plugins_builtin.data.cifar import Cifar10, Cifar100
from mixcore_plugins_builtin.data.fixmatch import FIXMATCH_OPERATIONS, FixMatchAugment
from mixcore_plugins_builtin.data.folder_transforms import (
    PaddedCrops,
    TrainingTransform,
    evaluation_transform,
    rand_augment,
)
from mixcore_plugins_builtin.data.image_folder import ImageFolder
from mixcore_plugins_builtin.data.pixel_set import PixelSet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = {"flip": 0.0, "augment": "", "erasing": 0.0, "mean": MEAN, "std": STD}


def picture(height=24, width=32):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def array(image):
    return np.asarray(image).astype(float)


def by_value(image, function):
    return Image.fromarray(function(array(image)).astype(np.uint8))


def affine(fill, *matrix):
    return lambda image: image.transform(image.size, Image.AFFINE, matrix, resample=Image.BICUBIC, fillcolor=fill)


def geometry(f, sign, fill, width, height, share):
    """Rotation in degrees, shears as tangents, shifts in shares of a side."""
    return {
        "Rotate": lambda image: image.rotate(sign * 30 * f, resample=Image.BICUBIC, fillcolor=fill),
        "ShearX": affine(fill, 1, sign * 0.3 * f, 0, 0, 1, 0),
        "ShearY": affine(fill, 1, 0, 0, sign * 0.3 * f, 1, 0),
        "TranslateX": affine(fill, 1, 0, sign * share * f * width, 0, 1, 0),
        "TranslateY": affine(fill, 1, 0, 0, 0, 1, sign * share * f * height),
    }


def enhanced(magnitude, sign):
    names = ("Color", "Contrast", "Brightness", "Sharpness")
    return {
        name: lambda image, name=name: getattr(ImageEnhance, name)(image).enhance(1 + sign * magnitude)
        for name in names
    }


def posterized(bits):
    return lambda image: by_value(image, lambda pixels: pixels.astype(int) >> (8 - bits) << (8 - bits))


def solarized(f):
    return lambda image: by_value(image, lambda pixels: np.where(pixels >= 256 * (1 - f), 255 - pixels, pixels))


def increasing(f, sign, fill, width, height):
    """The 15 operations as the recipe states them."""
    return {
        "AutoContrast": ImageOps.autocontrast,
        "Equalize": ImageOps.equalize,
        "Invert": lambda image: by_value(image, lambda pixels: 255 - pixels),
        "PosterizeIncreasing": posterized(4 - int(4 * f)),
        "SolarizeIncreasing": solarized(f),
        "SolarizeAdd": lambda image: by_value(
            image, lambda pixels: np.where(pixels < 128, np.minimum(pixels + 110 * f, 255), pixels)
        ),
        **{f"{name}Increasing": one for name, one in enhanced(0.9 * f, sign).items()},
        **geometry(f, sign, fill, width, height, 0.45),
    }


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("f", [0.0, 0.35, 0.7, 0.93, 1.0])
def test_timms_increasing_rand_augment_has_the_15_operations_as_stated(f, sign, monkeypatch):
    augment = rand_augment("rand-m9-mstd0.5-inc1", MEAN)
    image = picture()
    stated = increasing(f, sign, (124, 116, 104), *image.size)
    monkeypatch.setattr(random, "random", lambda: 0.9 if sign < 0 else 0.1)
    assert sorted(op.name.removesuffix("Rel") for op in augment.ops) == sorted(stated)
    assert (augment.num_layers, augment.choice_weights) == (2, None)
    for op in augment.ops:
        assert (op.prob, op.magnitude, op.magnitude_std, op.magnitude_max) == (0.5, 9, 0.5, None)
        arguments = op.level_fn(10 * f, op.hparams) if op.level_fn else ()
        found = op.aug_fn(image, *arguments, **op.kwargs)
        expected = stated[op.name.removesuffix("Rel")](image)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected), err_msg=op.name)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("f", [0.0, 0.35, 0.7, 0.93, 1.0])
def test_fixmatchs_rand_augment_has_the_14_operations_as_stated(f, sign, monkeypatch):
    image = picture()
    stated = {
        "AutoContrast": ImageOps.autocontrast,
        "Equalize": ImageOps.equalize,
        "Identity": lambda image: image,
        "Posterize": posterized(int(4 + 4 * f)),
        "Solarize": solarized(f),
        **enhanced(0.05 + 0.9 * f, sign),
        **geometry(f, sign, (114, 123, 125), *image.size, 0.3),
    }
    monkeypatch.setattr(random, "random", lambda: 0.1 if sign < 0 else 0.9)
    assert sorted(stated) == sorted(FIXMATCH_OPERATIONS)
    assert len(stated) == 14
    for name, operation in FIXMATCH_OPERATIONS.items():
        found, expected = operation(image, f), stated[name](image)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected), err_msg=name)


def test_fixmatch_draws_two_operations_each_half_the_time_at_a_level_of_its_own(monkeypatch):
    seen = []
    spies = {name: lambda image, f, name=name: seen.append((name, f)) or image for name in FIXMATCH_OPERATIONS}
    monkeypatch.setattr(fixmatch, "FIXMATCH_OPERATIONS", spies)
    random.seed(0)
    augment, image = rand_augment("fixmatch-m7-mstd0.5", MEAN), picture()
    applied = Counter()
    for _ in range(4000):
        before = len(seen)
        assert augment(image) is image
        applied[len(seen) - before] += 1
    assert [applied[count] / 4000 for count in range(3)] == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    each = Counter(name for name, _ in seen)
    assert [each[name] / len(seen) for name in spies] == pytest.approx([1 / 14] * 14, abs=0.02)
    levels = np.array([10 * f for _, f in seen])
    assert (levels.mean(), levels.std()) == pytest.approx((7, 0.5), abs=0.03)
    seen.clear()
    extreme = FixMatchAugment.of("fixmatch-m10-mstd2")
    for _ in range(200):
        extreme(image)
    assert max(f for _, f in seen) == 1
    assert FixMatchAugment.of("fixmatch-m3") == FixMatchAugment(3, 0)


@pytest.mark.parametrize("words", ["fixmatch", "fixmatch-m11", "fixmatch-m7-inc1", "fixmatch-mstd0.5"])
def test_words_that_are_not_fixmatchs_are_refused(words):
    with pytest.raises(ValueError, match=rf"'{words}' is no RandAugment of FixMatch.*fixmatch-m7-mstd0.5"):
        Cifar100(rand_augment=words)


def test_erasing_is_one_rectangle_of_the_stated_shapes_filled_with_standard_noise():
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    erase = PaddedCrops(size=64, padding=0, mode="constant", **{**PLAIN, "erasing": 0.25})
    base = (128 / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.manual_seed(0)
    random.seed(0)
    shapes, noise, tries = [], [], 1600
    for _ in range(tries):
        image = erase(grey)
        rows, columns = (image != base[:, None, None]).any(0).nonzero().unbind(1)
        if len(rows):
            height, width = (int(axis.max() - axis.min()) + 1 for axis in (rows, columns))
            assert len(rows) == height * width, "one rectangle"
            shapes.append((height, width))
            noise.append(image[:, rows, columns].flatten())
    assert len(shapes) / tries == pytest.approx(0.25, abs=0.03)
    areas, aspects = (
        np.array([function(*shape) for shape in shapes])
        for function in (
            lambda height, width: height * width / 64**2,
            lambda height, width: height / width,
        )
    )
    slack = 0.07  # sides are rounded to pixels
    assert 0.02 - 0.005 < areas.min() < 0.05
    assert 0.3 < areas.max() < 1 / 3 + 0.02
    assert 0.3 - slack < aspects.min() < 0.4
    assert 2.5 < aspects.max() < 10 / 3 + 10 * slack
    assert np.median(areas) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.03), "uniform"
    assert np.median(np.log(aspects)) == pytest.approx(0, abs=0.15), "log-uniform"
    values = torch.cat(noise)
    assert (float(values.mean()), float(values.std())) == pytest.approx((0, 1), abs=0.02)


@pytest.mark.parametrize(("ratio", "side"), [(0.875, 256), (0.95, 236), (0.9032, 248), (0.9, 249)])
def test_the_resized_side_follows_from_the_crop_ratio(ratio, side):
    resize = evaluation_transform(224, ratio, "bicubic").transforms[0]
    assert resize.size == side
    assert ImageFolder(crop_ratio=ratio).crop_ratio == ratio


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_a_padded_crop_is_one_of_those_of_the_padded_image(mode):
    image = picture(12, 12)
    padded = np.pad(np.asarray(image), ((4, 4), (4, 4), (0, 0)), mode)
    every = [padded[row : row + 12, column : column + 12].tobytes() for row in range(9) for column in range(9)]
    crops = PaddedCrops(size=12, padding=4, mode=mode, **PLAIN)
    torch.manual_seed(0)
    seen = Counter(every.index(crops(image).permute(1, 2, 0).contiguous().numpy().tobytes()) for _ in range(1500))
    assert len(seen) == 81
    assert max(seen.values()) < 3 * 1500 / 81
    mirrored = PaddedCrops(size=12, padding=0, mode=mode, **{**PLAIN, "flip": 1.0})(image)
    np.testing.assert_array_equal(mirrored.permute(1, 2, 0).numpy(), np.asarray(image)[:, ::-1])


def test_images_may_be_resized_before_their_random_crop():
    image = picture(40, 60)
    settings = {"size": 16, "scale": (1.0, 1.0), "ratio": (1.5, 1.5), "interpolation": "bilinear", **PLAIN}
    found = TrainingTransform(resize=20, **settings)(image)
    expected = image.resize((30, 20), Image.BILINEAR).resize((16, 16), Image.BILINEAR)
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), np.asarray(expected))
    once = TrainingTransform(**settings)(image).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(once, np.asarray(image.resize((16, 16), Image.BILINEAR)))
    crop = TrainingTransform(resize=20, **{**settings, "scale": (0.5, 1.0), "ratio": (3 / 4, 4 / 3)}).move.transforms[1]
    assert (crop.scale, crop.ratio) == ((0.5, 1.0), (3 / 4, 4 / 3))


def test_maps_are_resized_with_their_images():
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20] = 255
    where = torch.from_numpy(pixels[None, :, :, 0].copy())
    transform = TrainingTransform(
        resize=20, size=16, scale=(0.3, 0.6), ratio=(1.0, 1.0), interpolation="bilinear", **{**PLAIN, "flip": 0.5}
    )
    for _ in range(20):
        image, maps = transform.with_maps(Image.fromarray(pixels), {"where": where})
        assert maps["where"].shape == (1, 16, 16)
        assert set(maps["where"].unique().tolist()) <= {0, 255}, "a map has no value that its file has not"
        assert (image[:1].float() - maps["where"].float()).abs().gt(128).float().mean() < 0.1


@pytest.fixture
def cifar_root(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "fine_labels": [3, 99, 0, 1, 2, 4]}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}))
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda path, md5=None: True)
    return str(tmp_path)


def loaders(data):
    settings = {"batch_size": 3, "workers": 0, "rank": 0, "world": 1, "device": torch.device("cpu")}
    train = build_train_loader(data, drop_last=True, seed=0, channels_last=False, **settings)
    return train, build_eval_loader(data, channels_last=False, **settings)


def test_cifar_at_224_pixels_is_the_published_setting_of_transformers(cifar_root):
    options = {"size": 224, "scale": (0.8, 1.0), "rand_augment": "fixmatch-m7-mstd0.5"}
    data = Cifar100(root=cifar_root, **options).build_data()
    small = Cifar100(root=cifar_root).build_data()
    assert isinstance(data.train, PixelSet)
    assert (data.task.image_size, data.task.mean, data.task.class_names) == (
        (224, 224),
        small.task.mean,
        small.task.class_names,
    )
    crop, mirror = data.train.transform.move.transforms
    assert (crop.size, crop.scale, crop.ratio) == ((224, 224), (0.8, 1.0), (3 / 4, 4 / 3))
    assert (crop.interpolation.value, mirror.p) == ("bicubic", 0.5)
    assert data.train.transform.finish.transforms[0] == FixMatchAugment(7, 0.5)
    original = small.validation.images[1].permute(1, 2, 0).contiguous().numpy()
    whole = np.asarray(Image.fromarray(original).resize((224, 224), Image.BICUBIC))
    for part in (data.validation, data.evaluation["train"]):
        image, label = part[1]
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), whole)
        assert label == 99
    train, validation = loaders(data)
    batch = next(iter(train.epoch(0)))
    assert batch.images.shape == (3, 3, 224, 224)
    sent = attrs.evolve(data, train=pickle.loads(pickle.dumps(data.train)))  # as to a worker process
    again = next(iter(loaders(sent)[0].epoch(0)))
    assert torch.equal(batch.images, again.images), "keyed by seed, epoch and place"
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.task.mean, data.task.std))
    first = next(iter(validation.epoch(0))).images[1]
    torch.testing.assert_close(first, (torch.from_numpy(whole.copy()).permute(2, 0, 1) / 255 - mean) / std)


def test_cifar_at_its_own_size_keeps_its_padded_crop_beside_rand_augment(cifar_root):
    small = Cifar100(root=cifar_root).build_data()
    data = Cifar100(root=cifar_root, rand_augment="fixmatch-m7-mstd0.5").build_data()
    assert data.task.image_size == (32, 32)
    crop = data.train.transform.move.transforms[0]
    assert (crop.size, crop.padding, crop.padding_mode) == ((32, 32), [4] * 4, "reflect")
    image, _ = data.validation[2]
    assert torch.equal(image, small.validation.images[2])
    zeros = Cifar10(rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25)
    assert zeros.padding_mode == "constant"


def test_cifar_stays_on_the_device_where_none_of_that_is_asked(cifar_root):
    data = Cifar100(root=cifar_root).build_data()
    assert isinstance(data.train, Resident)
    assert isinstance(data.validation, Resident)
    assert isinstance(Cifar100(root=cifar_root, scale=(0.5, 1.0)).build_data().train, PixelSet)
    assert isinstance(Cifar100(root=cifar_root, random_erasing=0.1).build_data().train, PixelSet)


def test_a_set_read_image_by_image_is_told_by_every_byte():
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    changed = images.clone()
    changed[1, 2, 3, 3] = 1
    whole = evaluation_transform(4, 1.0, "bicubic")
    sets = [(images, labels), (changed, labels), (images, labels.flip(0))]
    assert len({PixelSet(*one, whole).fingerprint() for one in sets}) == 3
