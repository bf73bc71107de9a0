"""Images with numbers: lists and tables, splits, and what a table at fault gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mixcore.api import Data, DataError
from mixcore.data.fingerprint import fingerprints
from mixcore.data.loader import build_eval_loader, build_train_loader
from mixcore.testing import PluginContract
from mixcore_plugins_builtin.data.values import Values

FILES = ("01/a b.jpg", "01/c,d.jpg", "02/e.png", "02/f.png", "02/g.png")
TABLE = ("age,path,split", "35,01/a b.jpg,train", '4.5,"01/c,d.jpg",train', "80,02/e.png,val", "7,02/f.png,test")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five images below faces/."""
    for shade, name in enumerate(FILES):
        (tmp_path / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 10 * shade, np.uint8)).save(tmp_path / "faces" / name)
    return tmp_path


def write(root: Path, *lines: str, name: str = "values.csv") -> None:
    (root / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def build(root: Path, **options: Any) -> Data:
    return Values(**{"root": str(root), "images": "faces", "size": 8, **options}).build_data()


def fault(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        build(root, **options)
    return "\n".join((str(caught.value), *getattr(caught.value, "__notes__", ())))


def read(dataset: Any) -> list[tuple[str, list[float]]]:
    paths = [dataset.split.path(i) for i in range(len(dataset))]
    return [(f"{p.parent.name}/{p.name}", dataset.label(i).tolist()) for i, p in enumerate(paths)]


class TestContract(PluginContract):
    role, plugin = "data", "values"

    @pytest.fixture(autouse=True)
    def _made(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        lines = []
        for split in ("train", "val"):
            for index in range(6):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / f"{split}{index}.png")
                lines.append(f"{split}{index}.png,{index},{-index / 2},{split}")
        write(tmp_path, "path,x,y,split", *lines)
        request.cls.options = {"root": str(tmp_path), "size": 16}


def test_a_table_with_splits(root: Path) -> None:
    write(root, *TABLE)
    data = build(root)
    assert read(data.train) == [("01/a b.jpg", [35.0]), ("01/c,d.jpg", [4.5])]
    assert read(data.validation) == [("02/e.png", [80.0])]
    assert set(data.evaluation) == {"train", "test"}
    assert read(data.evaluation["test"]) == [("02/f.png", [7.0])]
    assert (data.task.label_kind, data.task.num_classes, data.task.class_names) == ("value", 1, ("age",))
    assert fault(root, validation_split="valid").startswith(f"the column 'split' of {root / 'values.csv'} has 'train'")
    data = build(root, validation_split="test", train_split="val")
    assert [read(one) for one in (data.train, data.validation)] == [[("02/e.png", [80.0])], [("02/f.png", [7.0])]]
    assert set(data.evaluation) == {"train"}  # "train" is what was trained on, whatever its split is called


@pytest.mark.parametrize("separator", [",", " ", ";"])
def test_two_lists_of_a_path_and_a_number(root: Path, separator: str) -> None:
    """As AgeDB and IMDB-WIKI come; a path may have the separator in it."""
    write(root, *(f"{name}{separator}{age}" for name, age in zip(FILES[:4], (35, 4.5, -1, 1e3), strict=True)), name="t")
    write(root, f"02/g.png{separator}60", name="v")
    data = build(root, train_list="t", validation_list="v")
    assert read(data.train) == list(zip(FILES[:4], ([35.0], [4.5], [-1.0], [1000.0]), strict=True))
    assert read(data.validation) == [("02/g.png", [60.0])]
    assert data.task.class_names == ("value",)


def test_several_values_and_the_columns_to_predict(root: Path) -> None:
    write(root, "file,x,note,y", "02/e.png,1,left,2", "02/f.png,3,right,4", name="t")
    write(root, "y,x,file,note", "6,5,02/g.png,", name="v")
    lists = {"train_list": "t", "validation_list": "v", "path_column": "file"}
    data = build(root, **lists, columns=("y", "x"))
    assert read(data.train) == [("02/e.png", [2.0, 1.0]), ("02/f.png", [4.0, 3.0])]
    assert read(data.validation) == [("02/g.png", [6.0, 5.0])]
    assert (data.task.num_classes, data.task.class_names) == (2, ("y", "x"))
    told = fault(root, **lists)
    assert "line 2 of" in told
    assert "'left' in the column 'note'" in told
    assert "data.columns" in told
    assert "has the columns 'file', 'x', 'note', 'y' and no 'z'" in fault(root, **lists, columns=("z",))


def test_batches_have_the_values_beside_the_images(root: Path) -> None:
    write(root, *TABLE)
    data = build(root, mean=(0.0,) * 3, std=(1.0,) * 3, crop_ratio=1.0)
    common: Any = {"workers": 0, "rank": 0, "world": 1, "device": torch.device("cpu"), "channels_last": False}
    images, labels = next(iter(build_train_loader(data, batch_size=2, drop_last=True, seed=0, **common).epoch(0)))
    assert labels.dtype == torch.float32
    shade = {35.0: 0.0, 4.5: 10 / 255}
    for image, label in zip(images, labels, strict=True):
        torch.testing.assert_close(image, torch.full((3, 8, 8), shade[label.item()]), atol=2 / 255, rtol=0)
    assert next(iter(build_eval_loader(data, batch_size=2, **common).epoch(0))).labels.tolist() == [[80.0]]


def test_another_value_is_another_set(root: Path) -> None:
    write(root, *TABLE)
    before = fingerprints(build(root))
    assert fingerprints(build(root)) == before
    write(root, *TABLE[:1], "36,01/a b.jpg,train", *TABLE[2:])
    assert {name for name, found in fingerprints(build(root)).items() if found != before[name]} == {"training"}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e39", "", "old"])
def test_a_value_that_is_no_finite_number_is_refused(root: Path, value: str) -> None:
    write(root, *TABLE[:2], f"{value},02/g.png,train", *TABLE[3:])
    told = fault(root)
    assert "line 3 of" in told
    assert f"{value!r} in the column 'age'; expected a finite number" in told
    write(root, "01/a b.jpg,35", f"02/g.png,{value}", name="t")
    assert "line 2 of" in fault(root, train_list="t", validation_list="t")


@pytest.mark.parametrize(
    ("lines", "options", "words"),
    [
        ((), {}, "is empty"),
        (("age,file", "3,02/e.png"), {}, "begins with a header that names the column 'path'"),
        (("02/e.png,3",), {"columns": ("age",)}, "no header with the column 'path', which data.columns needs"),
        (("02/e.png,3",), {}, "no column 'split'.*set data.validation_list"),
        (("path,split", "02/e.png,train"), {}, "no values; set data.columns"),
        (("path,age,split", "02/e.png,3"), {}, "has 2 fields and the header 3"),
        (("path,age,split", '"02/e.png,3,train'), {}, "no line of a CSV file"),
        (("path,age,split", "02/e.png,3,train", "02/e.png,4,train", "02/f.png,4,val"), {}, "leave one of them"),
        (("path,age,split", "02/e.png,3,train", "02/h.png,4,val"), {}, "02/h.png"),
        (("path,age,split", "02/e.png,3,train", "../x.png,4,val"), {}, "stay in it"),
    ],
)
def test_a_table_at_fault_is_told_what_to_change(root: Path, lines: Any, options: Any, words: str) -> None:
    write(root, *lines)
    first, _, second = words.partition(".*")
    told = fault(root, **options)
    assert first in told
    assert second in told


def test_missing_tables_and_folders_are_named(root: Path) -> None:
    assert f"no table at {root / 'values.csv'} (does not exist)" in fault(root)
    write(root, *TABLE)
    assert "set data.validation_list" not in fault(root, validation_list="v.csv")
    assert "data.validation_list to its path" in fault(root, validation_list="v.csv")
    assert f"no folder at {root / 'pictures'}" in fault(root, images="pictures")


def test_two_tables_with_other_values_are_refused(root: Path) -> None:
    write(root, "path,age", "02/e.png,3", name="t")
    write(root, "path,height", "02/f.png,3", name="v")
    assert "'age'" in (told := fault(root, train_list="t", validation_list="v"))
    assert "'height'" in told
