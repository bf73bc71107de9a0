"""Which files of a folder are a class's images: links, hidden files, and what is no file at all."""

from __future__ import annotations

import logging
import os
import socket

import pytest
import torch
from PIL import Image

from mixcore.api import DataError
from mixcore.data.loader import build_train_loader
from mixcore_plugins_builtin.data.folders import scan_class_folders
from mixcore_plugins_builtin.data.image_folder import ImageFolder

CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def root(tmp_path):
    """24 images: 3 classes of 6 for training and 2 for validation."""
    for split, count in (("train", 6), ("val", 2)):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / split / name / f"{index}.png")
    return tmp_path


def count(root):
    data = ImageFolder(root=str(root)).build_data()
    return len(data.train), len(data.validation)


@pytest.mark.parametrize("target", [".", "..", "../..", "../ant", "../bee", "../../val", "{absolute}"])
def test_links_that_loop_or_leave_the_class_are_not_followed(root, target, caplog):
    """24 images stay 24; followed as deep as the system goes, one link to `..` makes 984 of them."""
    (root / "train" / "ant" / "loop").symlink_to(target.format(absolute=root / "train"))
    with caplog.at_level(logging.WARNING, "mixcore"):
        assert count(root) == (18, 6)
    inside = target in (".", "../ant")
    assert ("ant/loop" in caplog.text) != inside  # what leads to the class itself loses nothing, so nothing is said


def test_links_to_folders_elsewhere_are_followed_once(root):
    elsewhere = root / "pool" / "deep"
    elsewhere.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(elsewhere / "new.png")
    (elsewhere / "back").symlink_to(root)
    (elsewhere / "self").symlink_to(elsewhere)
    for name in ("one", "two"):
        (root / "train" / "ant" / name).symlink_to(elsewhere)
    folders = scan_class_folders(root / "train")
    assert len(folders) == 19
    assert [folders.path(i).name for i in range(7)] == [*(f"{i}.png" for i in range(6)), "new.png"]
    (root / "train" / "ant").rename(root / "pool" / "ant")
    (root / "train" / "ant").symlink_to(root / "pool" / "ant")
    assert len(scan_class_folders(root / "train")) == 19


def test_links_to_files_are_followed_and_a_file_counts_once_in_its_class(root):
    ant = root / "train" / "ant"
    (ant / "again.png").symlink_to(ant / "0.png")
    (ant / "first.png").symlink_to(root / "val" / "ant" / "0.png")
    (ant / "second.png").symlink_to(root / "val" / "ant" / "0.png")
    os.link(ant / "1.png", ant / "hard.png")  # a second name that is no link of its own: two files
    names = [path.name for path in map(scan_class_folders(root / "train").path, range(8))]
    assert names == ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png", "first.png", "hard.png"]


@pytest.mark.parametrize("target", [".", "..", "ant"])
def test_a_class_that_is_a_link_into_the_split_is_refused(root, target):
    for split in ("train", "val"):
        (root / split / "loop").symlink_to(target)
    with pytest.raises(DataError, match=r"loop' in .*train leads? .*remove"):
        count(root)


def test_hidden_files_and_folders_are_left_out(root):
    (root / "train" / ".ipynb_checkpoints").mkdir()
    for folder in ("ant/.ipynb_checkpoints", "ant/.cache/deep"):
        (root / "train" / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / "train" / folder / "x.png")
    (root / "train" / "bee" / "._0.png").write_bytes(b"what macOS leaves behind")
    assert count(root) == (18, 6)


def pipe(path):
    os.mkfifo(path)


def bound(path):
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


IRREGULAR = {
    "named pipe": pipe,
    "socket": bound,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "leads nowhere": lambda path: path.symlink_to("gone.png"),
    "levels of symbolic links": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("words", IRREGULAR)
def test_what_is_no_regular_file_is_refused_by_name_before_anything_is_read(root, words):
    IRREGULAR[words](root / "train" / "bee" / "odd.png")
    with pytest.raises(DataError, match=rf"(?s)1 image .*bee/odd\.png.*{words}"):
        count(root)


@pytest.mark.parametrize("words", IRREGULAR)
def test_what_is_no_regular_file_is_skipped_and_never_waited_for(root, words, caplog):
    IRREGULAR[words](root / "train" / "bee" / "odd.png")
    plugin = ImageFolder(root=str(root), size=8, on_corrupt="skip")
    shares = {"batch_size": 1, "drop_last": True, "seed": 0, "rank": 0, "world": 1}
    loader = build_train_loader(
        plugin.build_data(), workers=0, device=torch.device("cpu"), channels_last=False, **shares
    )
    with caplog.at_level(logging.WARNING, "mixcore"):
        assert len(list(loader.epoch(0))) == 19
    assert "1 sample of the training set cannot be read and were skipped" in caplog.text
    assert "bee/odd.png" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any folder")
def test_a_folder_that_may_not_be_read_is_named(root):
    closed = root / "train" / "ant" / "closed"
    closed.mkdir(mode=0)
    with pytest.raises(DataError, match=r"ant/closed.*Permission denied"):
        count(root)
