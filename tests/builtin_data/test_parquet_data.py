"""Parquet files in the layout of the Hugging Face hub."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mixcore.api import ConfigError, DataError
from mixcore.data.loader import build_train_loader
from mixcore_plugins_builtin.data import parquet_files
from mixcore_plugins_builtin.data.parquet import Parquet

pa = pytest.importorskip("pyarrow", reason="the extra mixcore[parquet] is not installed")
pq = pytest.importorskip("pyarrow.parquet")

CIFAR100 = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar100"


def encoded(value, size=(6, 8)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 2 * value, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, labels, image="img", label="fine_label", names=(), values=None, kind=None):
    images = [
        {"bytes": encoded(v) if isinstance(v, int) else v, "path": f"{v!r:.10}"}
        for v in (labels if values is None else values)
    ]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(images, struct), label: pa.array(labels, kind or pa.int64())})
    if names:
        features = {label: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, compression="none", use_dictionary=False)  # permuted rows keep the size


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train-00000-of-00002.parquet", [0, 1, 2, 1], names="abcde")
    write(folder / "train-00001-of-00002.parquet", [2, 0], names="abcde")
    write(folder / "test-00000-of-00001.parquet", [1, 0, 2], names="abcde")
    return folder


def test_files_are_joined_in_order_and_classes_come_from_the_metadata(root):
    data = Parquet(root=str(root)).build_data()
    assert data.train.labels.tolist() == [0, 1, 2, 1, 2, 0]
    assert torch.equal(data.train.images[:, 0, 3, 3].long(), data.train.labels)
    assert torch.equal(data.train.images[:, 1, 0, 0].long(), 2 * data.train.labels)
    assert data.train.images.shape == (6, 3, 8, 6)
    assert data.validation.labels.tolist() == [1, 0, 2]
    assert data.task.num_classes == 5
    assert data.task.class_names == tuple("abcde")
    assert Parquet(root=str(root), num_classes=6).build_data().task.class_names is None, "not as many as the classes"


def test_usual_columns_validation_split_and_classes_without_metadata(tmp_path):
    write(tmp_path / "train-0.parquet", [0, 3], image="image", label="label")
    write(tmp_path / "validation-0.parquet", [1], image="image", label="label")
    data = Parquet(root=str(tmp_path)).build_data()
    assert data.task.num_classes == 4
    assert data.task.class_names is None
    assert data.validation.labels.tolist() == [1]
    assert Parquet(root=str(tmp_path), num_classes=9).build_data().task.num_classes == 9


def test_other_columns_and_patterns_by_name(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("a", "b"):
        write(tmp_path / "data" / f"{name}.parquet", [0, 1], image="photo", label="kind")
    plugin = Parquet(
        root=str(tmp_path),
        train="data/a*.parquet",
        validation="data/b*.parquet",
        image_column="photo",
        label_column="kind",
    )
    assert len(plugin.build_data().train) == 2


def test_labels_beyond_the_classes_are_refused(root):
    write(root / "train-00001-of-00002.parquet", [2, 7], names="abcde", values=[1, 1])
    data = Parquet(root=str(root)).build_data()
    with pytest.raises(DataError, match=r"run from 0 to 7; with 5 classes they must lie in 0\.\.4"):
        build_train_loader(
            data,
            batch_size=2,
            workers=0,
            drop_last=True,
            seed=0,
            rank=0,
            world=1,
            device=torch.device("cpu"),
            channels_last=False,
        )


@pytest.mark.parametrize(("label", "kind"), [(-1, pa.int64()), (2**63, pa.uint64()), (None, pa.int64())])
def test_labels_that_are_none_are_told_by_file_and_row_before_images_are_decoded(root, label, kind):
    second = root / "train-00001-of-00002.parquet"
    write(second, [2, label], names="abcde", values=[b"no image", 1], kind=kind)
    with pytest.raises(DataError, match=rf"row 1 of {second} has .*fine_label"):
        Parquet(root=str(root)).build_data()


@pytest.mark.parametrize("kind", [pa.float64(), pa.string(), pa.bool_()])
def test_every_file_must_have_integer_labels(root, kind):
    second = root / "train-00001-of-00002.parquet"
    labels = {"double": [0.0, 1.7], "string": ["0", "1"], "bool": [True, False]}[str(kind)]
    write(second, labels, values=[1, 1], kind=kind)
    with pytest.raises(DataError, match=rf"column 'fine_label' of {second} is {kind}; class labels are integers"):
        Parquet(root=str(root)).build_data()


def test_integer_labels_may_differ_in_width(root):
    write(root / "train-00001-of-00002.parquet", [2, 0], names="abcde", kind=pa.int8())
    assert Parquet(root=str(root)).build_data().train.labels.tolist() == [0, 1, 2, 1, 2, 0]


def test_every_file_must_have_the_columns(root):
    second = root / "train-00001-of-00002.parquet"
    write(second, [2, 0], image="image")
    with pytest.raises(DataError, match=rf"{second} has the columns image, fine_label and none called img"):
        Parquet(root=str(root)).build_data()
    pq.write_table(pa.table({"img": pa.array([{"bytes": "text"}]), "fine_label": [0]}), second)
    with pytest.raises(DataError, match=rf"column 'img' of {second} is struct<bytes: string>"):
        Parquet(root=str(root)).build_data()


@pytest.mark.parametrize("name", ["train-00001-of-00002.parquet", "test-00000-of-00001.parquet"])
@pytest.mark.parametrize(
    ("names", "words"), [("abdce", "class 2 'c' and 'd'|class 2 'd' and 'c'"), ("abcd", "5 and 4 classes")]
)
def test_files_that_number_the_classes_differently_are_refused(root, name, names, words):
    write(root / name, [2, 0], names=names)
    with pytest.raises(DataError, match=rf"the metadata of .*{words}"):
        Parquet(root=str(root)).build_data()


def test_pipes_are_not_waited_for_and_hidden_files_left_out(root):
    (root / ".cache").mkdir()
    write(root / ".cache" / "train-0.parquet", [3])
    assert len(Parquet(root=str(root), train="**/train-*.parquet").build_data().train) == 6
    os.mkfifo(root / "train-2.parquet")
    with pytest.raises(DataError, match=r"train-2\.parquet cannot be read as Parquet \(it is a named pipe"):
        Parquet(root=str(root)).build_data()


@pytest.mark.parametrize("pattern", ["", "/train-*.parquet", "a**"])
def test_what_is_no_pattern_is_refused_as_configuration(root, pattern):
    with pytest.raises(ConfigError, match=r"data\.validation = .* is no pattern of files below data\.root"):
        Parquet(root=str(root), validation=pattern).build_data()


def test_missing_files_columns_and_labels(root, tmp_path):
    with pytest.raises(DataError, match=r"no file train-\*\.parquet in .*nowhere \(does not exist\).*data\.root"):
        Parquet(root=str(tmp_path / "nowhere")).build_data()
    with pytest.raises(DataError, match=r"no file other-\*.*which has test-00000-of-00001\.parquet, train-"):
        Parquet(root=str(root), validation="other-*.parquet").build_data()
    with pytest.raises(DataError, match=r"columns img, fine_label and none called photo; set data\.image_column"):
        Parquet(root=str(root), image_column="photo").build_data()
    with pytest.raises(DataError, match=r"column 'img' of .* class labels are integers"):
        Parquet(root=str(root), label_column="img").build_data()
    with pytest.raises(DataError, match=r"column 'fine_label' of .* struct<bytes"):
        Parquet(root=str(root), image_column="fine_label").build_data()
    write(root / "train-00001-of-00002.parquet", [2, None], values=[1, 1])
    with pytest.raises(DataError, match=r"row 1 of .*train-00001-of-00002\.parquet has no 'fine_label'"):
        Parquet(root=str(root)).build_data()


def test_a_damaged_file_is_named(root):
    damaged = root / "train-00001-of-00002.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet cannot be read as Parquet"):
        Parquet(root=str(root)).build_data()


@pytest.mark.parametrize("content", [b"no image", encoded(3)[:45], None], ids=["text", "truncated", "missing"])
def test_corrupt_images_are_named_counted_and_refused_or_skipped(root, content, caplog):
    write(root / "train-00001-of-00002.parquet", [2, 0], names="abcde", values=[content, 0])
    with pytest.raises(DataError, match=r"(?s)^1 unreadable image in the training set.*row 0 of .*train-00001"):
        Parquet(root=str(root)).build_data()
    with caplog.at_level(logging.WARNING, "mixcore"):
        data = Parquet(root=str(root), on_corrupt="skip").build_data()
    assert data.train.labels.tolist() == [0, 1, 2, 1, 0]
    assert torch.equal(data.train.images[:, 0, 3, 3].long(), data.train.labels)
    assert "1 unreadable image in the training set left out" in caplog.text


def test_images_of_two_sizes_are_refused(root):
    write(root / "train-00001-of-00002.parquet", [2, 0], values=[encoded(1, (9, 9)), 0])
    with pytest.raises(DataError, match=r"is 9x9 and the images of the training set before it are 6x8.*image_folder"):
        Parquet(root=str(root)).build_data()


def test_without_pyarrow_the_message_says_what_to_type(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r'pip install "mixcore\[parquet\]"'):
        Parquet(root=str(root)).build_data()


def test_the_cache_is_used_and_forgets_changed_or_damaged_files(root, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    expected = Parquet(root=str(root)).build_data()
    Parquet(root=str(root), cache=str(cache)).build_data()
    assert len(list(cache.iterdir())) == 2
    decoded = []
    monkeypatch.setattr(
        parquet_files,
        "decode_all",
        lambda *arguments, original=parquet_files.decode_all: decoded.append(1) or original(*arguments),
    )
    again = Parquet(root=str(root), cache=str(cache)).build_data()
    assert not decoded
    assert torch.equal(again.train.images, expected.train.images)
    assert torch.equal(again.validation.labels, expected.validation.labels)
    for spoil in (lambda content: content[:200], flipped):
        for entry in cache.iterdir():
            entry.write_bytes(spoil(entry.read_bytes()))
        decoded.clear()
        found = Parquet(root=str(root), cache=str(cache)).build_data()
        assert torch.equal(found.train.images, expected.train.images)
        assert len(decoded) == 2
    assert len(list(cache.iterdir())) == 2


def flipped(content):
    """One bit of the pixels or labels is another: what the archive's checksum is for."""
    spoilt = bytearray(content)
    spoilt[len(content) // 3] ^= 1
    return bytes(spoilt)


def test_the_cache_is_keyed_by_content(root, tmp_path):
    cache = tmp_path / "cache"
    Parquet(root=str(root), cache=str(cache)).build_data()
    file = root / "test-00000-of-00001.parquet"
    before = file.stat()
    write(file, [2, 0, 1], names="abcde")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert Parquet(root=str(root), cache=str(cache)).build_data().validation.labels.tolist() == [2, 0, 1]
    assert len(list(cache.iterdir())) == 3
    root.rename(tmp_path / "moved")
    Parquet(root=str(tmp_path / "moved"), cache=str(cache)).build_data()
    assert len(list(cache.iterdir())) == 3


def test_an_entry_of_another_form_is_decoded_anew(root, tmp_path):
    cache = tmp_path / "cache"
    expected = Parquet(root=str(root), cache=str(cache)).build_data()
    for entry in cache.iterdir():
        np.savez(entry, images=np.zeros((2, 3, 8, 6), np.uint8), labels=np.zeros(1, np.int64))
    found = Parquet(root=str(root), cache=str(cache)).build_data()
    assert torch.equal(found.train.images, expected.train.images)


def test_a_cache_that_cannot_be_written_does_no_harm(root, tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING, "mixcore"):
        data = Parquet(root=str(root), cache=str(tmp_path / "file" / "cache")).build_data()
    assert len(data.train) == 6
    assert "cannot be kept in" in caplog.text


@pytest.mark.skipif(not CIFAR100.is_dir(), reason="CIFAR-100 as Parquet is not beside the repository")
def test_cifar100():
    data = Parquet(root=str(CIFAR100)).build_data()
    assert data.train.images.shape == (50_000, 3, 32, 32)
    assert data.validation.images.shape == (10_000, 3, 32, 32)
    assert data.task.num_classes == 100
    assert data.task.class_names is not None
    assert data.task.class_names[:2] == ("apple", "aquarium_fish")
    assert data.train.labels.bincount().tolist() == [500] * 100
    assert data.validation.labels.bincount().tolist() == [100] * 100
    means = data.train.images[::10].float().mean((0, 2, 3)) / 255
    assert np.allclose(means, (0.5071, 0.4865, 0.4409), atol=0.01)  # the well-known channel means of CIFAR-100
