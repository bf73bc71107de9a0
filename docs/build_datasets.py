"""Writes docs/datasets.md, the tables of data sets: `python docs/build_datasets.py`.

The data sets are the installed ones that come with mixcore, asked themselves: the sizes, layouts and sources of their
releases, and their default crops.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

PAGE = Path(__file__).resolve().with_name("datasets.md")
SHARED = SimpleNamespace(**runpy.run_path(str(PAGE.with_name("build_methods.py"))))
INTRODUCTION = """# Data sets

What `[data] name` may be. The tables are made by `python docs/build_datasets.py`, which asks the installed plugins:
change those, not this. `mixcore plugins show NAME` tells each option; [config.md](config.md) says how image files are
read.
"""
PUBLISHED = """## Published sets of image files

Each is looked for in `root`, and in the folder of that name below it. Nothing is downloaded, but by `aircraft` with
`download = true`, through torchvision. An image count with a star is not the publisher's own: another one is warned of.
All other counts are held to: a set of another size is refused. `check_counts = false` takes what there is, a part of a
set for a trial, say; it is an option of the run, so that such a run is never taken for one of the whole set.
"""
DEFAULTS = """## Their crops

The defaults; sizes in pixels. All are normalised by ImageNet's mean and standard deviation. "before": what the short
side of a training image is brought to before its random crop. What belongs to a recipe (another size or crop ratio,
RandAugment, erasing, repeats) is an option. Published numbers of `cub200`, `aircraft` and `cars` drop the incomplete
last batch, as `[data] drop_last` does by default; those of the others keep it (`drop_last = false`).
"""
LISTS = """## List files

`image_list` reads any set that two lists describe, and the published sets take lists in place of either split:

```toml
[data]
name = "tiny_imagenet"
root = "data"
train_list = "meta/TinyImageNet/train_labeled.txt"      # below root
validation_list = "meta/TinyImageNet/val_labeled.txt"
train_images = "TinyImageNet/train"                     # what the paths in the list start from, below root
validation_images = "TinyImageNet/val"
```

- A line is a path, a separator and a label. The separator is a comma, a semicolon or a space: the first of these that
  leaves an integer at the end of the first line. Every line is split at its last one, so a path may have more of them.
- Labels are integers, and in training every one from 0 occurs. The class index of a published set is the rank of the
  class folder's name, so that a list and folders agree; of iNaturalist it is the category's id, of `aircraft` the line
  in `variants.txt`, of `cub200` and the annotations of `cars` the class number less 1.
- Paths stay in their folder. An image may be listed twice, but not with two labels. Images that are missing are refused
  before training, unless `on_corrupt = "skip"`.
- A list whose first line has no label is refused. Blank lines are passed over.
"""
OTHERS = "## Other sets\n"


def page() -> str:
    """The whole page."""
    names = SHARED.names("data")
    published = [name for name in names if hasattr(SHARED.class_of(name), "release")]
    others = [name for name in names if name not in published]
    sections = [
        INTRODUCTION,
        PUBLISHED,
        SHARED.table(
            ("name", "set", "classes", "training", "validation", "folder", "layout", "had as"),
            [_release(name) for name in published],
        ),
        DEFAULTS,
        SHARED.table(
            ("name", "size", "before", "share of the area", "interpolation", "crop ratio"),
            [_crops(name) for name in published],
        ),
        LISTS,
        OTHERS,
        SHARED.table(("name", "set"), [(f"`{name}`", _escaped(SHARED.first_line(name))) for name in others]),
    ]
    return "\n".join(sections).rstrip() + "\n"


def _release(name: str) -> tuple[str, ...]:
    release = SHARED.class_of(name).release
    train, validation = (
        f"{getattr(release, split):,}{'*' if split in release.doubted else ''}" for split in ("train", "validation")
    )
    return (
        f"`{name}`",
        release.title,
        f"{release.classes:,}",
        train,
        validation,
        f"`{release.folder}`",
        _escaped(release.layout),
        release.source,
    )


def _escaped(text: str) -> str:
    """Stars and names in angle brackets as they are."""
    return text.replace("*", "\\*").replace("<", "&lt;")


def _crops(name: str) -> tuple[str, ...]:
    plugin = SHARED.class_of(name)()
    share = " to ".join(f"{value:g}" for value in plugin.scale)
    before = str(plugin.resize or "as it is")
    return (f"`{name}`", str(plugin.size), before, share, plugin.interpolation, f"{plugin.crop_ratio:g}")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
