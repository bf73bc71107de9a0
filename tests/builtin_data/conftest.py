"""Small copies of the layouts that published image sets have: a few images of 8x8 pixels, made by the test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from PIL import Image

Labels = Mapping[str, int]
"""Label by the image's path below the root."""


@attrs.frozen
class Copy:
    """What a layout was made of: the plugin that reads it, its options, and each image's label."""

    plugin: str
    train: Labels
    validation: Labels
    options: Mapping[str, Any] = attrs.field(factory=dict)
    classes: tuple[str, ...] | None = None


def save(path: Path) -> None:
    """An image of its own colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shades = np.random.default_rng(list(path.name.encode())).integers(0, 256, 3)
    Image.new("RGB", (8, 8), tuple(shades.tolist())).save(path)


def images(root: Path, paths: Iterable[str]) -> None:
    for path in paths:
        save(root / path)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def tiny_as_unpacked(root: Path) -> Copy:
    """wnids.txt is in another order than the sorted ids, as in the archive."""
    base = "tiny-imagenet-200"
    train = {
        f"{base}/train/{wnid}/images/{wnid}_{index}.JPEG": label
        for label, wnid in enumerate(("n01", "n02", "n03"))
        for index in range(3)
    }
    validation = {f"{base}/val/images/val_{index}.JPEG": label for index, label in enumerate((2, 0, 1, 2))}
    images(root, [*train, *validation, f"{base}/test/images/test_0.JPEG"])
    write(root / base / "wnids.txt", "n03", "n01", "n02")
    for wnid in ("n01", "n02", "n03"):
        write(root / base / "train" / wnid / f"{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t0\t7\t7")
    annotations = [f"val_{i}.JPEG\tn0{label + 1}\t0\t0\t7\t7" for i, label in enumerate((2, 0, 1, 2))]
    write(root / base / "val" / "val_annotations.txt", *annotations)
    return Copy("tiny_imagenet", train, validation, classes=("n01", "n02", "n03"))


def tiny_with(inner: str) -> Callable[[Path], Copy]:
    def make(root: Path) -> Copy:
        train = {
            f"train/{wnid}/images/{wnid}_{index}.JPEG": label
            for label, wnid in enumerate(("n1", "n2"))
            for index in range(4)
        }
        validation = {f"val/n{label + 1}{inner}/val_{label}.JPEG": label for label in (0, 1)}
        images(root, [*train, *validation])
        write(root / "val" / "val_annotations.txt", "val_0.JPEG\tn1\t0\t0\t7\t7", "val_1.JPEG\tn2\t0\t0\t7\t7")
        return Copy("tiny_imagenet", train, validation, classes=("n1", "n2"))

    return make


def tiny_by_lists(root: Path) -> Copy:
    base = "TinyImageNet"
    train = {f"{base}/train/n{k}/images/n{k}_{index}.JPEG": k for k in (0, 1) for index in range(4)}
    validation = {f"{base}/val/images/val_{index}.JPEG": index for index in (0, 1)}
    images(root, [*train, *validation])
    for split, content in (("train", train), ("val", validation)):
        start = f"{base}/{split}/"
        write(
            root / "meta" / f"{split}_labeled.txt", *(f"{path.removeprefix(start)} {k}" for path, k in content.items())
        )
    options = {
        "train_list": "meta/train_labeled.txt",
        "validation_list": "meta/val_labeled.txt",
        "train_images": f"{base}/train",
        "validation_images": f"{base}/val",
    }
    return Copy("tiny_imagenet", train, validation, options)


def imagenet(root: Path) -> Copy:
    wnids = ("n01440764", "n01443537", "n02")
    train = {f"imagenet/train/{w}/{w}_{i}.JPEG": label for label, w in enumerate(wnids) for i in range(3)}
    validation = {f"imagenet/val/{w}/ILSVRC2012_val_{label}.JPEG": label for label, w in enumerate(wnids)}
    images(root, [*train, *validation])
    return Copy("imagenet", train, validation, classes=wnids)


def imagenet_with_flat_validation(root: Path) -> Copy:
    train = {f"train/n{label}/{i}.JPEG": label for label in (0, 1) for i in range(4)}
    validation = {f"val/ILSVRC2012_val_{i}.JPEG": label for i, label in enumerate((1, 0, 1))}
    images(root, [*train, *validation])
    write(root / "val.txt", *(f"{path.removeprefix('val/')} {label}" for path, label in validation.items()))
    return Copy("imagenet", train, validation, {"validation_list": "val.txt"}, classes=("n0", "n1"))


def cub(root: Path) -> Copy:
    """Classes count from 1, and images of the splits alternate."""
    base = "CUB_200_2011"
    birds = ("001.Albatross", "002.Black Auklet", "003.Wren")
    files = [(f"{bird}/{bird[4:]}_{index}.jpg", label) for label, bird in enumerate(birds) for index in range(6)]
    marks = [int(number % 3 != 2) for number in range(len(files))]
    images(root / base / "images", (path for path, _ in files))
    write(root / base / "images.txt", *(f"{n} {path}" for n, (path, _) in enumerate(files, 1)))
    write(root / base / "image_class_labels.txt", *(f"{n} {label + 1}" for n, (_, label) in enumerate(files, 1)))
    write(root / base / "train_test_split.txt", *(f"{n} {mark}" for n, mark in enumerate(marks, 1)))
    train, validation = (
        {f"{base}/images/{path}": label for (path, label), own in zip(files, marks, strict=True) if own == mark}
        for mark in (1, 0)
    )
    return Copy("cub200", train, validation, classes=birds)


def aircraft_with(*parts: str) -> Callable[[Path], Copy]:
    """The variants are not in alphabetical order: their file says the label."""

    def make(root: Path) -> Copy:
        base = root / "fgvc-aircraft-2013b" / "data"
        variants = ("A300B4", "707-320", "An-12 of Antonov")
        of_split = {"train": (0, 1, 2, 0), "val": (2, 1, 0, 1), "test": (1, 2, 0)}
        paths: dict[str, list[tuple[str, int]]] = {}
        for start, (split, labels) in enumerate(of_split.items(), 1):
            paths[split] = [(f"{start}00{index}", label) for index, label in enumerate(labels)]
        paths["trainval"] = paths["train"] + paths["val"]
        write(base / "variants.txt", *variants)
        for split in (*parts, "test"):
            write(base / f"images_variant_{split}.txt", *(f"{n} {variants[label]}" for n, label in paths[split]))
        images(base / "images", (f"{name}.jpg" for split in of_split for name, _ in paths[split]))
        train, validation = (
            {f"fgvc-aircraft-2013b/data/images/{n}.jpg": label for n, label in paths[s]} for s in ("trainval", "test")
        )
        return Copy("aircraft", train, validation, classes=variants)

    return make


def cars(root: Path) -> Copy:
    """Classes count from 1."""
    scipy_io = pytest.importorskip("scipy.io")
    base = root / "stanford_cars"
    fields = [("fname", "O"), ("class", "O")]
    splits = {"train": (0, 1, 1, 0, 1, 0, 0, 1), "test": (1, 0)}
    (base / "devkit").mkdir(parents=True)
    copies = []
    for split, labels in splits.items():
        rows = [(f"{split}{index}.jpg", label + 1) for index, label in enumerate(labels)]
        name = "devkit/cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
        scipy_io.savemat(base / name, {"annotations": np.array([rows], dtype=fields)})
        copies.append({f"stanford_cars/cars_{split}/{file}": number - 1 for file, number in rows})
        images(root, copies[-1])
    names = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")
    scipy_io.savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(names, dtype=object)})
    return Copy("cars", *copies, classes=names)


def cars_in_folders(root: Path) -> Copy:
    train = {f"train/{name}/{i}.jpg": label for label, name in enumerate(("Acura RL", "BMW M3")) for i in range(4)}
    validation = {"test/Acura RL/9.jpg": 0, "test/BMW M3/9.jpg": 1}
    images(root, [*train, *validation])
    return Copy("cars", train, validation, classes=("Acura RL", "BMW M3"))


def inat_of(year: int, folder: str) -> Callable[[Path], Copy]:
    """Annotations are in another order than images, and joined by ids that are no positions."""

    def make(root: Path) -> Copy:
        base = root / f"inat{year}"
        copies = []
        for split, labels, start in (("train", (2, 0, 1, 1, 2, 0, 2, 0), 500), ("val", (1, 2, 0), 900)):
            names = [f"{folder}/Aves/Corvus corax {label}/{start + i}.jpg" for i, label in enumerate(labels)]
            content = {
                "images": [{"id": start + i, "file_name": name} for i, name in enumerate(names)],
                "annotations": [
                    {"id": i, "image_id": start + i, "category_id": label} for i, label in enumerate(labels)
                ][::-1],
            }
            write(base / f"{split}{year}.json", json.dumps(content))
            images(base, names)
            copies.append({f"inat{year}/{name}": label for name, label in zip(names, labels, strict=True)})
        return Copy(f"inat{year}", *copies)

    return make


def places_with(lists: str) -> Callable[[Path], Copy]:
    def make(root: Path) -> Copy:
        names = ("a/abbey", "b/bar", "s/swimming_pool/outdoor")
        train = {f"images256/{name}/gsun_{i}.jpg": label for label, name in enumerate(names) for i in range(3)}
        validation = {f"images256/{name}/gsun_9.jpg": label for label, name in enumerate(names)}
        images(root, [*train, *validation])
        for split, content in (("train", train), ("val", validation)):
            lines = (f"{path.removeprefix('images256/')} {label}" for path, label in content.items())
            write(root / lists / f"{split}_places205.csv", *lines)
        return Copy("places205", train, validation)

    return make


LAYOUTS: dict[str, Callable[[Path], Copy]] = {
    "tiny as unpacked": tiny_as_unpacked,
    "tiny re-arranged": tiny_with(""),
    "tiny re-arranged, inner folder": tiny_with("/images"),
    "tiny by lists": tiny_by_lists,
    "imagenet": imagenet,
    "imagenet, flat validation": imagenet_with_flat_validation,
    "cub": cub,
    "aircraft": aircraft_with("trainval"),
    "aircraft in parts": aircraft_with("train", "val"),
    "cars": cars,
    "cars in folders": cars_in_folders,
    "inat2017": inat_of(2017, "train_val_images"),
    "inat2018": inat_of(2018, "train_val2018"),
    "places": places_with("trainvalsplit_places205"),
    "places, lists beside": places_with("."),
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Copy:
    """Each layout in turn, in `tmp_path`."""
    return LAYOUTS[request.param](tmp_path)


@pytest.fixture
def make_layout(tmp_path: Path) -> Callable[[str], Copy]:
    """`make_layout("cub")`: one of them."""
    return lambda name: LAYOUTS[name](tmp_path)
