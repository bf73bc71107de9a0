"""List files: separators, labels, paths that stay in their folder, and what a list at fault gets."""

from __future__ import annotations

import logging
import os

import numpy as np
import pytest
import torch
from PIL import Image

from mixcore.api import DataError, UnreadableSampleError
from mixcore.data.loader import build_eval_loader
from mixcore.testing import PluginContract
from mixcore_plugins_builtin.data.image_list import ImageList
from mixcore_plugins_builtin.data.lists import read_list

FILES = ("a b/x,1.jpg", "a b/y;2.jpg", "c/z 3.jpg", "c/4.jpg", "c/5.jpg")


@pytest.fixture
def root(tmp_path):
    """Five images below images/, two listed in val.txt."""
    rng = np.random.default_rng(0)
    for name in FILES:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "images" / name)
    listed(tmp_path, "c/4.jpg 0", "c/5.jpg 1", name="val.txt")
    return tmp_path


def listed(root, *lines, name="train.txt", end="\n"):
    (root / name).write_bytes("".join(line + end for line in lines).encode())


def build(root, **options):
    given = {"root": str(root), "train_images": "images", "validation_images": "images", "size": 8, **options}
    return ImageList(**given).build_data()


def fault(root, **options):
    with pytest.raises(DataError) as caught:
        build(root, **options)
    return str(caught.value)


@pytest.mark.parametrize("separator", [" ", ",", ";", ", ", "  "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_a_line_is_split_at_the_last_separator(root, separator, end):
    labels = (1, 0, 2, 2, 0)
    listed(root, *(f"{name}{separator}{label}" for name, label in zip(FILES, labels, strict=True)), end=end)
    data = build(root)
    found = [(str(data.train.split.path(i).relative_to(root / "images")), data.train.label(i)) for i in range(5)]
    assert found == list(zip(FILES, labels, strict=True))
    assert (data.task.num_classes, data.task.class_names) == (3, None)
    assert [data.validation.label(i) for i in range(2)] == [0, 1]


def test_the_first_line_says_which_separator(tmp_path):
    listed(tmp_path, "Aves,Corvus corax 1/2.jpg,7", "x 3,0")
    assert read_list(tmp_path / "train.txt") == [("Aves,Corvus corax 1/2.jpg", 7), ("x 3", 0)]
    listed(tmp_path, "Aves,Corvus corax 1/2.jpg 7", "x,3 0")
    assert read_list(tmp_path / "train.txt") == [("Aves,Corvus corax 1/2.jpg", 7), ("x,3", 0)]


def test_a_byte_order_mark_is_no_part_of_a_path(root):
    listed(root, "\ufeffc/4.jpg 0", "./c/../c/5.jpg 1")
    data = build(root)
    assert [data.train.split.path(i) for i in range(2)] == [root / "images" / "c/4.jpg", root / "images" / "c/5.jpg"]


def test_lists_and_images_may_lie_apart(root):
    (root / "images").rename(root / "pictures")
    listed(root, "../c/4.jpg 0", "5.jpg 1", "5.jpg 1")
    (root / "pictures" / "c" / "c").symlink_to(root / "pictures" / "c")
    assert "does not lie in" in fault(root, train_images="pictures/c", validation_images="pictures")
    listed(root, "c/4.jpg 0", "5.jpg 1", "5.jpg 1")
    data = build(root, train_images="pictures/c", validation_images=str(root / "pictures"))
    assert len(data.train) == 3, "a link inside is followed, and an image may come twice"


@pytest.mark.parametrize("line", ["c/4.jpg", "c/z 3.jpg", "c/4.jpg 0.5", "c/4.jpg one", " 7", "c/4.jpg 12345678901"])
def test_an_unlabelled_list_is_told_by_its_first_line(root, line):
    listed(root, line, "c/5.jpg 0")
    message = fault(root)
    assert f"line 1 of {root / 'train.txt'}, {line.strip()!r}," in message
    assert "a list without labels cannot be trained on" in message


@pytest.mark.parametrize("line", ["c/4.jpg", "c/4.jpg,0", "c/4.jpg 0.5", "c/4.jpg 0 "])
def test_later_lines_follow_the_first(root, line):
    listed(root, "c/5.jpg 1", "", line)
    if line.endswith("0 "):
        assert len(build(root).train) == 2
        return
    assert f"line 3 of {root / 'train.txt'}, {line!r}, is not as the first line is; expected a path, ' '" in fault(root)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ((1, 2), "lie in 1..2, without 0"),
        ((0, 2), "lie in 0..2, without 1"),
        ((-1, 0), "lie in -1..0, without 1"),
        ((0, 999_999_999), "lie in 0..999999999, without 1"),
    ],
)
def test_training_labels_are_all_integers_from_0(root, labels, words):
    listed(root, f"c/4.jpg {labels[0]}", f"c/5.jpg {labels[1]}")
    assert words in fault(root)


def test_validation_labels_are_those_of_training(root):
    listed(root, "c/4.jpg 0")
    assert "val.txt has the label 1; training has 1 classes" in fault(root)
    listed(root, "c/4.jpg 0", "c/5.jpg 1")
    listed(root, "c/4.jpg -1", "c/5.jpg 2", "c/5.jpg 2", name="val.txt")
    assert "val.txt has the labels -1, 2; training has 2 classes, so labels lie in 0..1" in fault(root)


@pytest.mark.parametrize("path", ["../train.txt", "c/../../val.txt", "/etc/passwd", "..", ".", "c/4.jpg\0"])
def test_paths_that_leave_their_folder_are_refused(root, path):
    listed(root, f"{path} 0", "c/5.jpg 1")
    message = fault(root, on_corrupt="skip")
    assert f"{root / 'train.txt'} names {path!r}, which does not lie in {root / 'images'}" in message


def test_an_image_with_two_labels_is_refused(root):
    listed(root, "c/4.jpg 0", "c/5.jpg 1", "./c/4.jpg 1")
    assert "gives './c/4.jpg' the labels 0 and 1" in fault(root)


def test_images_that_are_missing_are_counted_and_named(root):
    os.mkfifo(root / "images" / "pipe.jpg")
    listed(root, *(f"gone/{i}.jpg 0" for i in range(6)), "pipe.jpg 0", "c/4.jpg 1")
    message = fault(root)
    assert message.startswith(f"7 images that {root / 'train.txt'} names cannot be read")
    assert f"{root / 'images' / 'gone/0.jpg'}: No such file" in message
    assert "and 2 more" in message
    assert 'data.on_corrupt = "skip"' in message


def test_images_that_are_missing_may_be_skipped(root, caplog):
    listed(root, "c/4.jpg 0", "c/5.jpg 1")
    listed(root, "c/4.jpg 0", "gone.jpg 1", name="val.txt")
    data = build(root, on_corrupt="skip")
    loader = build_eval_loader(
        data, channels_last=False, batch_size=4, workers=0, rank=0, world=1, device=torch.device("cpu")
    )
    with caplog.at_level(logging.WARNING, "mixcore"):
        assert sum(len(batch.labels) for batch in loader.epoch(0)) == 1
    assert "gone.jpg" in caplog.text


def test_corrupt_images_are_told_as_those_of_folders(root):
    (root / "images" / "c" / "5.jpg").write_bytes(b"no image")
    listed(root, "c/4.jpg 0", "c/5.jpg 1")
    with pytest.raises(UnreadableSampleError, match=r"c/5\.jpg cannot be decoded .*data\.on_corrupt"):
        build(root).train[1]


def test_missing_lists_and_folders_are_named(root):
    assert f"no list at {root / 'train.txt'} (does not exist)" in fault(root)
    assert "data.train_list" in fault(root)
    listed(root, "c/4.jpg 0", "c/5.jpg 1")
    assert f"no list at {root} (a folder)" in fault(root, validation_list="", validation_images="")
    message = fault(root, train_images="nowhere")
    assert f"no folder at {root / 'nowhere'} (does not exist); expected the images that" in message
    assert "such as 'c/4.jpg'; set data.train_images" in message


def test_files_that_are_no_lists_are_refused(root):
    listed(root, "", " ")
    assert f"the list {root / 'train.txt'} is empty" in fault(root)
    (root / "train.txt").write_bytes(b"\xff\xfe\x00")
    assert "is no text in UTF-8" in fault(root)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_images_without_a_list_are_refused(split):
    with pytest.raises(ValueError, match=rf"{split}_images is where the images of {split}_list lie"):
        ImageList(**{f"{split}_list": "", f"{split}_images": "images"})


def test_maps_of_listed_images(root):
    (root / "objects" / "c").mkdir(parents=True)
    for name in ("4", "5"):
        Image.new("L", (8, 8), int(name)).save(root / "objects" / "c" / f"{name}.png")
    listed(root, "c/5.jpg 1", "c/4.jpg 0")
    data = build(root, map_folders={"objects": str(root / "objects")})
    assert [int(data.train[i][2]["objects"].max()) for i in range(2)] == [5, 4]


class TestContract(PluginContract):
    role = "data"
    plugin = "image_list"

    @pytest.fixture(autouse=True)
    def _made(self, request, root):
        for index in range(8):
            Image.new("RGB", (8, 8), (30 * index, 0, 0)).save(root / "images" / f"{index}.png")
        listed(root, *(f"{index}.png {index % 2}" for index in range(8)))
        request.cls.options = {
            "root": str(root),
            "train_images": "images",
            "validation_images": "images",
            "size": 16,
        }
