"""docs/datasets.md is what docs/build_datasets.py makes of the installed plugins."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import tomli

from mixcore_plugins_builtin.data.imagenet import TinyImageNet

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "datasets.md").read_text(encoding="utf-8")


def test_the_page_is_made_of_what_is_installed_now() -> None:
    made = SimpleNamespace(**runpy.run_path(str(DOCS / "build_datasets.py"))).page()
    assert made == PAGE, "docs/datasets.md is not what the plugins say: run  python docs/build_datasets.py"


def test_every_data_set_has_its_row() -> None:
    for row in (
        "| `tiny_imagenet` | Tiny-ImageNet | 200 | 100,000 | 10,000 | `tiny-imagenet-200` |",
        "| `cub200` | CUB-200-2011 | 200 | 5,994 | 5,794* | `CUB_200_2011` |",
        "| `cars` | 224 | 256 | 0.5 to 1 | bilinear | 0.875 |",
        "| `image_list` | Any set of image files that list files describe",
        "| `cifar100` | ",
    ):
        assert row in PAGE


def test_its_example_has_options_of_the_plugin() -> None:
    table = tomli.loads(PAGE.partition("```toml\n")[2].partition("```")[0])["data"]
    assert table.pop("name") == "tiny_imagenet"
    assert TinyImageNet(**table).train_images == "TinyImageNet/train"
