"""Published image sets that are missing, incomplete or damaged: which file, what is expected, where it is had."""

from __future__ import annotations

import builtins
import json
import os
import re
import shutil
from urllib.error import URLError

import numpy as np
import pytest
from torchvision import datasets

from mixcore.api import ConfigError, DataError
from mixcore.discovery.catalogue import find, installed
from mixcore.discovery.load import load


@pytest.fixture
def fault(tmp_path):
    """`fault(copy, size=4)`: the message of the DataError that a copy ends with."""

    def message(copy, **options):
        given = {"root": str(tmp_path), "check_counts": False, **copy.options, **options}
        with pytest.raises(DataError) as caught:
            load(find(copy.plugin, installed()))(**given).build_data()
        assert caught.value.exit_code == 2
        return str(caught.value)

    return message


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


NEEDED = {  # the first file looked for, and words of the publisher
    "tiny_imagenet": ("train", "Stanford's course CS231n"),
    "imagenet": ("train", "ImageNet project's page after registration"),
    "cub200": ("images.txt", "the release CUB_200_2011 of Caltech"),
    "aircraft": ("data/variants.txt", "Oxford's Visual Geometry Group, which data.download = true fetches"),
    "cars": ("devkit/cars_train_annos.mat", "no longer offers it"),
    "inat2017": ("train2017.json", "iNaturalist challenge of 2017"),
    "inat2018": ("train2018.json", "iNaturalist challenge of 2018"),
    "places205": ("train_places205.csv", "MIT's Places205"),
}


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("there", [False, True])
def test_a_missing_set_says_where_it_was_looked_for_and_where_it_is_had(name, there, tmp_path):
    path, source = NEEDED[name]
    plugin = load(find(name, installed()))
    root = tmp_path / "nowhere"
    if there:
        (root / plugin.release.folder).mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        plugin(root=str(root)).build_data()
    text = str(caught.value)
    looked = root / plugin.release.folder / path if there else root / path
    assert f"{plugin.release.title} is missing or incomplete: {looked} (does not exist)" in text
    assert f"expected {plugin.release.layout}, in data.root or its folder {plugin.release.folder}" in text
    assert source in text
    assert "data.train_list" in text


REMOVED = [
    ("tiny as unpacked", "tiny-imagenet-200/val/val_annotations.txt"),
    ("tiny as unpacked", "tiny-imagenet-200/val"),
    ("imagenet", "imagenet/val"),
    ("cub", "CUB_200_2011/image_class_labels.txt"),
    ("cub", "CUB_200_2011/train_test_split.txt"),
    ("aircraft", "fgvc-aircraft-2013b/data/images_variant_trainval.txt"),
    ("aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt"),
    ("aircraft in parts", "fgvc-aircraft-2013b/data/images_variant_val.txt"),
    ("cub", "CUB_200_2011/images"),
    ("aircraft", "fgvc-aircraft-2013b/data/images"),
    ("cars", "stanford_cars/cars_test"),
    ("places", "images256"),
    ("cars", "stanford_cars/cars_test_annos_withlabels.mat"),
    ("cars in folders", "test"),
    ("inat2017", "inat2017/val2017.json"),
    ("places", "trainvalsplit_places205/train_places205.csv"),
]


@pytest.mark.parametrize(("made", "path"), REMOVED)
def test_a_missing_file_is_named(made, path, make_layout, fault, tmp_path):
    copy = make_layout(made)
    target = tmp_path / path
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    message = fault(copy)
    assert "is missing or incomplete" in message
    assert target.name in message
    assert "(does not exist); expected" in message


@pytest.mark.parametrize("made", ["tiny by lists", "cub", "aircraft", "cars", "inat2017", "places"])
def test_a_missing_image_that_annotations_name(made, make_layout, fault, tmp_path):
    copy = make_layout(made)
    path = list(copy.train)[-1]
    (tmp_path / path).unlink()
    message = fault(copy)
    assert message.startswith("1 image that ")
    assert f"{tmp_path / path}: No such file" in message


def test_missing_validation_images_of_tiny_imagenet(make_layout, fault, tmp_path):
    copy = make_layout("tiny as unpacked")
    (tmp_path / "tiny-imagenet-200/val/images/val_2.JPEG").unlink()
    assert "val/images/val_2.JPEG: No such file" in fault(copy)


def test_tiny_imagenet_with_an_id_that_is_no_class(make_layout, fault, tmp_path):
    copy = make_layout("tiny as unpacked")
    edit(tmp_path / "tiny-imagenet-200/val/val_annotations.txt", "val_2.JPEG\tn02", "val_2.JPEG\tn09")
    assert "val_annotations.txt gives val_2.JPEG the id 'n09', which is none of the 3 classes" in fault(copy)


def test_tiny_imagenet_by_a_training_list_takes_its_classes_from_wnids(make_layout, tmp_path):
    copy = make_layout("tiny as unpacked")
    lines = [f"{path.partition('train/')[2]} {label}" for path, label in copy.train.items()]
    (tmp_path / "part.txt").write_text("\n".join(lines))
    plugin = load(find("tiny_imagenet", installed()))
    data = plugin(root=str(tmp_path), train_list="part.txt", check_counts=False).build_data()
    assert [data.validation.label(i) for i in range(4)] == list(copy.validation.values())
    assert len(data.train) == 9


def test_tiny_imagenet_by_its_folders_needs_no_wnids(make_layout, tmp_path):
    copy = make_layout("tiny as unpacked")
    (tmp_path / "tiny-imagenet-200/wnids.txt").unlink()
    data = load(find("tiny_imagenet", installed()))(root=str(tmp_path), check_counts=False).build_data()
    assert [data.validation.label(i) for i in range(4)] == list(copy.validation.values())


def test_half_re_arranged_tiny_imagenet(make_layout, fault, tmp_path):
    """A folder `images` that was left behind empty is no class."""
    copy = make_layout("tiny re-arranged")
    (tmp_path / "val" / "images").mkdir()
    assert "'images' in" in fault(copy)
    assert "remove the folder" in fault(copy)


def test_flat_validation_images_of_imagenet_need_a_list(make_layout, fault, tmp_path):
    copy = make_layout("imagenet, flat validation")
    message = fault(copy, validation_list="")
    assert f"{tmp_path / 'val'} (a folder) has validation images that are in no class folder" in message
    assert "data.validation_list" in message


def test_class_folders_that_differ(make_layout, fault, tmp_path):
    copy = make_layout("imagenet")
    (tmp_path / "imagenet/val/n02").rename(tmp_path / "imagenet/val/n03")
    assert "only in" in fault(copy)
    assert "'n03'" in fault(copy)


def test_a_training_list_of_fewer_classes_than_there_are_folders(make_layout, fault, tmp_path):
    copy = make_layout("imagenet")
    (tmp_path / "part.txt").write_text("n01440764/n01440764_0.JPEG 0\n")
    message = fault(copy, train_list="part.txt")
    assert "has 1 classes in training and 3 in validation; both need the same" in message


CUB_FAULTS = [
    ("image_class_labels.txt", "3 1\n", "", r"differ in the images '3'; each image has one line in both"),
    ("train_test_split.txt", "1 1\n", "1\n", r"line 1 of .*train_test_split\.txt, '1', has one word"),
    ("train_test_split.txt", "2 1\n", "1 0\n", r"line 2 of .*names '1' again"),
    ("train_test_split.txt", "2 1\n", "2 x\n", r"image 2 has the class '1' in .* and the mark 'x'"),
    ("image_class_labels.txt", "\n2 1\n", "\n2 one\n", r"image 2 has the class 'one' in"),
    ("image_class_labels.txt", "\n2 1\n", "\n2 0\n", r"labels of .*image_class_labels\.txt lie in -1\.\.2, without 3"),
    ("images.txt", "001.Albatross/Albatross_0.jpg", "../images.txt", r"'\.\./images\.txt', which does not lie in"),
]


@pytest.mark.parametrize(("file", "old", "new", "words"), CUB_FAULTS)
def test_text_files_of_cub_at_fault(file, old, new, words, make_layout, fault, tmp_path):
    copy = make_layout("cub")
    edit(tmp_path / "CUB_200_2011" / file, old, new)
    assert re.search(words, fault(copy))


def test_an_aircraft_of_no_variant(make_layout, fault, tmp_path):
    copy = make_layout("aircraft")
    edit(tmp_path / "fgvc-aircraft-2013b/data/images_variant_test.txt", "707-320", "707-321")
    message = fault(copy)
    assert "images_variant_test.txt gives 3000 the variant '707-321', which" in message
    assert "variants.txt does not name" in message


def test_aircraft_is_fetched_by_torchvision_when_asked(tmp_path, monkeypatch, make_layout):
    asked = []

    def unreachable(self):
        asked.append(self.root)
        raise URLError("name resolution failed")

    monkeypatch.setattr(datasets.FGVCAircraft, "_download", unreachable)
    plugin = load(find("aircraft", installed()))
    with pytest.raises(DataError, match="is missing or incomplete"):
        plugin(root=str(tmp_path)).build_data()
    assert not asked
    with pytest.raises(DataError, match=r"FGVC-Aircraft could not be downloaded to .*name resolution failed"):
        plugin(root=str(tmp_path), download=True).build_data()
    assert asked == [str(tmp_path)]
    copy = make_layout("aircraft")
    inside = plugin(root=str(tmp_path / "fgvc-aircraft-2013b"), download=True, check_counts=False)
    assert len(inside.build_data().train) == len(copy.train)
    assert len(asked) == 1, "what is there is not fetched again"


def test_cars_without_scipy(make_layout, fault, monkeypatch):
    copy = make_layout("cars")
    imported = builtins.__import__

    def refuse(name, *rest, **more):
        if name.startswith("scipy"):
            raise ImportError(name)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    message = fault(copy)
    assert 'pip install "mixcore[cars]"' in message
    assert "train/<class>/" in message


@pytest.mark.parametrize("content", [b"", b"no matlab", None])
def test_damaged_annotations_of_cars(content, make_layout, fault, tmp_path):
    copy = make_layout("cars")
    file = tmp_path / "stanford_cars/devkit/cars_train_annos.mat"
    file.write_bytes(file.read_bytes()[:300] if content is None else content)
    assert f"{file} cannot be read as a MATLAB file with 'annotations'" in fault(copy)


def test_annotations_of_cars_without_classes(make_layout, fault, tmp_path):
    """The test annotations of the devkit have none: those with labels are a file of their own."""
    scipy_io = pytest.importorskip("scipy.io")
    copy = make_layout("cars")
    rows = np.array([[("0.jpg",)]], dtype=[("fname", "O")])
    scipy_io.savemat(tmp_path / "stanford_cars/cars_test_annos_withlabels.mat", {"annotations": rows})
    message = fault(copy)
    assert "have no class; expected file names and class numbers" in message


INAT_FAULTS = {
    "no JSON": lambda content: "{",
    "no images": lambda content: {"annotations": content["annotations"]},
    "a list": lambda content: [content],
    "no file name": lambda content: {**content, "images": [{"id": 1}]},
    "one id": lambda content: {**content, "images": content["images"] * 2},
    "no string": lambda content: {**content, "images": [{"id": 1, "file_name": 1}]},
    "category_id": lambda content: {**content, "annotations": [{"image_id": 500, "category_id": "1"}]},
    "category": lambda content: {**content, "annotations": [{"image_id": 500, "category_id": 10**30}]},
    "image_id": lambda content: {**content, "annotations": [{"image_id": [], "category_id": 1}]},
}


@pytest.mark.parametrize("which", INAT_FAULTS)
def test_annotations_of_another_shape(which, make_layout, fault, tmp_path):
    copy = make_layout("inat2018")
    file = tmp_path / "inat2018/train2018.json"
    content = INAT_FAULTS[which](json.loads(file.read_text()))
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    message = fault(copy)
    assert f"{file} is no annotation of images" in message
    assert '"images" with "id" and "file_name"' in message


def test_images_without_annotation_and_annotations_without_image(make_layout, fault, tmp_path):
    copy = make_layout("inat2018")
    file = tmp_path / "inat2018/train2018.json"
    content = json.loads(file.read_text())
    content["annotations"] = content["annotations"][1:]
    file.write_text(json.dumps(content))
    assert "images without an annotation, or annotations without an image: 507;" in fault(copy)
    content["images"] = content["images"][:-2]
    file.write_text(json.dumps(content))
    assert "annotations without an image: 506;" in fault(copy)


def test_category_ids_count_from_0_without_gaps(make_layout, fault, tmp_path):
    copy = make_layout("inat2017")
    edit(tmp_path / "inat2017/train2017.json", '"category_id": 1}', '"category_id": 7}')
    assert "train2017.json lie in 0..7, without 1" in fault(copy)


def test_an_image_of_two_categories(make_layout, fault, tmp_path):
    copy = make_layout("inat2017")
    file = tmp_path / "inat2017/train2017.json"
    content = json.loads(file.read_text())
    content["annotations"].append({"image_id": 500, "category_id": 0})
    file.write_text(json.dumps(content))
    assert "the labels 2 and 0" in fault(copy) or "the labels 0 and 2" in fault(copy)


def test_a_name_that_no_file_can_have(make_layout, fault, tmp_path):
    copy = make_layout("inat2018")
    edit(tmp_path / "inat2018/train2018.json", "corax 2/500.jpg", "corax 2/\\ud800.jpg")
    assert "which does not lie in" in fault(copy)


def test_a_pipe_in_place_of_annotations_is_not_waited_for(make_layout, fault, tmp_path):
    copy = make_layout("inat2018")
    (tmp_path / "inat2018/train2018.json").unlink()
    os.mkfifo(tmp_path / "inat2018/train2018.json")
    assert "iNaturalist 2018 is missing or incomplete" in fault(copy)


def test_a_map_folder_by_the_paths_of_the_images(make_layout, fault, tmp_path):
    copy = make_layout("places")
    message = fault(copy, map_folders={"objects": str(tmp_path / "maps")})
    assert "<path of the image>" in message


def test_options_out_of_range_are_refused():
    for name, wrong in (
        ("cub200", {"resize": -1}),
        ("tiny_imagenet", {"crop_ratio": 0.0}),
        ("cars", {"scale": (1, 0)}),
    ):
        with pytest.raises((ValueError, ConfigError), match=next(iter(wrong))):
            load(find(name, installed()))(**wrong)
