"""A small real problem from CIFAR-100: ten of its classes, a few hundred images of each, as Parquet files.

    python benchmarks/ten_classes.py CIFAR100_FOLDER data/ten_classes [--per-class 200]

Reads and writes the layout of the Hugging Face hub (columns `img` and `fine_label`, files train-*.parquet and
test-*.parquet); training images are the first of each class, test images all of them. The classes are every tenth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

CLASSES = range(0, 100, 10)


def subset(files: list[Path], per_class: int | None) -> pa.Table:
    """Rows of the chosen classes, labels renumbered from 0, at most `per_class` of each."""
    table = ds.dataset(files).to_table(columns=["img", "fine_label"])
    kept = [pc.indices_nonzero(pc.equal(table["fine_label"], label)).to_numpy()[:per_class] for label in CLASSES]
    rows = np.concatenate(kept)
    labels = np.repeat(np.arange(len(kept)), [len(part) for part in kept])
    # one column of images beside one of labels, in the order of the file again so that classes are not in blocks
    order = np.argsort(rows)
    images = table["img"].take(pa.array(rows[order]))
    return pa.table({"img": images, "fine_label": pa.array(labels[order])})


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--per-class", type=int, default=200)
    given = parser.parse_args()
    given.target.mkdir(parents=True, exist_ok=True)
    for split, limit in (("train", given.per_class), ("test", None)):
        table = subset(sorted(given.source.glob(f"{split}-*.parquet")), limit)
        pq.write_table(table, given.target / f"{split}-00000-of-00001.parquet")
        print(f"{split}: {table.num_rows} images of {len(CLASSES)} classes")


if __name__ == "__main__":
    main()
