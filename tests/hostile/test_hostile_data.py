"""Signals in the middle of decoding, damaged image files, and options of data sets that cannot be."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mixcore.api import UnreadableSampleError
from mixcore.cli.main import main
from mixcore_plugins_builtin.data.decode import open_rgb

SEED = 20

STOPPED = """
import io, json, os, random, signal, sys, time

import pyarrow, pyarrow.parquet
import torch
from mixcore.data.loader import build_train_loader
from mixcore.errors import DataError
from mixcore.run.signals import StopSignals, leaving_at_once
from mixcore_plugins_builtin.data.image_folder import ImageFolder
from mixcore_plugins_builtin.data.parquet import Parquet

way, root, trials, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
IMAGES = 300


def resident():
    data = Parquet(root=root, on_corrupt="skip", cache=root + "/cache").build_data()
    return len(data.train)


def one_by_one():
    data = ImageFolder(root=root, size=8, on_corrupt="skip").build_data()
    loader = build_train_loader(
        data, batch_size=10, workers=0, drop_last=True, seed=0, rank=0, world=1, device=torch.device("cpu"),
        channels_last=False,
    )
    labels = torch.cat([labels for _, labels in loader.epoch(0)])
    return len(labels) - len(loader._fetcher.unreadable)


def at_start(ready):
    # as in start-up: a signal ends the process on the spot
    with leaving_at_once():
        os.write(ready, b"1")
        return resident()


def in_training(ready):
    # as in training: the first signal is remembered, a second SIGINT is raised wherever the run is
    with StopSignals() as signals, signals.deferred():
        os.write(ready, b"1")
        return one_by_one()


def child(ready):
    try:
        found = {"resident": at_start, "one_by_one": in_training}[way](ready)
    except DataError:
        return "refused"
    except BaseException:
        return "stopped"
    return "whole" if found == IMAGES else "dropped"


OUTCOMES = ("whole", "stopped", "dropped", "refused")
began = time.perf_counter()
assert child(os.open(os.devnull, os.O_WRONLY)) == "whole"
takes = time.perf_counter() - began
rng = random.Random(seed)
tally = dict.fromkeys(OUTCOMES, 0)
for _ in range(trials):
    if way == "resident":
        for name in os.listdir(root + "/cache"):
            os.unlink(root + "/cache/" + name)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        outcome = "stopped"
        try:
            outcome = child(writing)
        finally:
            os._exit(OUTCOMES.index(outcome))
    os.read(reading, 1)
    if way == "one_by_one":
        os.kill(pid, signal.SIGINT)
    time.sleep(rng.random() * takes)
    os.kill(pid, signal.SIGINT)
    _, status = os.waitpid(pid, 0)
    os.close(reading), os.close(writing)
    code = os.waitstatus_to_exitcode(status)
    tally["stopped" if code == 130 else OUTCOMES[code]] += 1
    if way == "resident":
        assert resident() == IMAGES, "the cache keeps a short set"
print(json.dumps(tally))
"""


def png(value, size=(24, 24)):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(value).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """300 training images and 2 for validation, as Parquet and as folders of two classes."""
    pa = pytest.importorskip("pyarrow", reason="the extra mixcore[parquet] is not installed")
    pq = pytest.importorskip("pyarrow.parquet")
    root = tmp_path_factory.mktemp("set")
    for split, count in (("train", 300), ("val", 2)):
        rows = [{"bytes": png(index), "path": None} for index in range(count)]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array(rows, kind), "label": [index % 2 for index in range(count)]})
        pq.write_table(table, root / f"{'train' if split == 'train' else 'test'}-0.parquet")
        for index, row in enumerate(rows):
            folder = root / split / f"class{index % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index}.png").write_bytes(row["bytes"])
    return root


@pytest.mark.parametrize("way", ["resident", "one_by_one"])
@pytest.mark.parametrize("trials", [10, pytest.param(40, marks=pytest.mark.slow)])
def test_no_signal_drops_an_image(way, trials, images):
    """Signals at random instants of decoding with on_corrupt = "skip": the run stops or has every image."""
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, way, str(images), str(trials), str(SEED)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # a fork has none of its parent's threads, and would wait for them
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tally = json.loads(done.stdout)
    print(f"seed {SEED}: {tally}")
    assert tally["dropped"] == tally["refused"] == 0
    assert tally["stopped"] > 0
    assert sum(tally.values()) == trials


def mutated(rng, data):
    """A copy with bytes changed, cut out or put in, or cut short."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(spoilt))
        choice = rng.randrange(4)
        if choice == 0:
            spoilt[at] = rng.randrange(256)
        elif choice == 1:
            del spoilt[at : at + rng.randint(1, 16)]
        elif choice == 2:
            spoilt[at:at] = rng.randbytes(rng.randint(1, 16))
        else:
            spoilt[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\0\1"))
        if len(spoilt) < 8:
            break
    return bytes(spoilt[: rng.randint(1, len(spoilt))] if rng.random() < 0.1 else spoilt)


FORMATS = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "WEBP": {},
    "TIFF": {},
    "PPM": {},
    "BMP": {},
    "GIF": {},
}


def check_mutated(kind, trials):
    exif = Image.Exif()
    exif[274] = 6
    buffer = io.BytesIO()
    options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    Image.open(io.BytesIO(png(0))).save(buffer, kind, **FORMATS[kind], **options)
    rng = random.Random(SEED)
    read = 0
    for trial in range(trials):
        data = mutated(rng, buffer.getvalue())
        said = ""
        try:
            image = open_rgb(data, "x", "refuse")
        except UnreadableSampleError as error:
            said = str(error)
        else:
            assert image.mode == "RGB", (SEED, trial)
            read += 1
        assert "BytesIO" not in said, (SEED, trial)
    print(f"seed {SEED}: {read} of {trials} damaged {kind} files could still be read, the others were named")


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_images_are_read_or_named(kind):
    check_mutated(kind, 150)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_many_damaged_images_are_read_or_named(kind):
    check_mutated(kind, 5000)


FOLDER = [
    ("size", "0"),
    ("size", "100000"),
    ("test_size", "0"),
    ("test_size", "1" + 40 * "0"),
    ("scale", "[0.0, 1.0]"),
    ("scale", "[0.5, 2.0]"),
    ("scale", "[nan, 1.0]"),
    ("ratio", "[0.5, inf]"),
    ("crop_ratio", "1e-9"),
    ("crop_ratio", "nan"),
    ("repeats", "1000000000000"),
    ("random_erasing", "nan"),
    ("mean", "[nan, 0.5, 0.5]"),
    ("mean", "[0.5]"),
    ("std", "[0.2, 0.2, inf]"),
]
RESIDENT = [
    ("mean", "[nan]"),
    ("mean", "[inf]"),
    ("mean", "[]"),
    ("mean", "[1e300]"),
    ("std", "[0.0]"),
    ("std", "[nan]"),
    ("std", "[inf]"),
    ("std", "[0.2, nan]"),
    ("std", "[1e-300]"),
    ("flip", "nan"),
    ("crop_padding", "32"),
    ("crop_padding", "-1"),
    ("crop_padding", "1000000000"),
    ("size", "0"),
    ("size", "1" + 18 * "0"),
]
FAKE = [
    ("train_images", "999999999"),
    ("num_classes", "100000000"),
    ("channels", "1000000"),
    ("data_seed", "-9223372036854775809"),
]
CASES = [
    *(("image_folder", *case) for case in FOLDER),
    *((name, *case) for name in ("digits", "fake") for case in RESIDENT),
    *(("fake", *case) for case in FAKE),
    ("parquet", "num_classes", "1" + 30 * "0"),
    ("parquet", "mean", "[0.5, nan, 0.5]"),
    ("parquet", "train", '""'),
    ("parquet", "crop_padding", "24"),
]


@pytest.mark.parametrize(("name", "key", "value"), CASES)
def test_options_that_cannot_be_are_refused_with_their_key(name, key, value, images, tmp_path, monkeypatch, capsys):
    """By a dry run, with exit code 2, so that what a dry run approves starts."""
    monkeypatch.chdir(tmp_path)
    root = f'root = "{images}"\n' if name in ("image_folder", "parquet") else ""
    config = tmp_path / "run.toml"
    config.write_text(
        f'[data]\nname = "{name}"\nbatch_size = 2\n{root}{key} = {value}\n[backbone]\nname = "resnet10t"\n'
        '[schedule]\nepochs = 1\n[run]\ndevice = "cpu"\n'
    )
    assert main(["run", str(config), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert key in said
    assert "Traceback" not in said
    assert len(said) < 2000


LEAVER = """
import os
import sys

import attrs
import torch
from mixcore.api import Data, Task, hookimpl

class Images(torch.utils.data.Dataset):
    def __init__(self, act):
        self.act = act

    def __len__(self):
        return 24

    def __getitem__(self, index):
        if index == 17 and self.act == "leave":
            sys.exit(0)
        if index == 17 and self.act == "die":
            os._exit(0)
        return torch.zeros(3, 8, 8), index % 3

@attrs.define(eq=False, kw_only=True)
class Leaver:
    role = "data"
    act: str = ""

    @hookimpl
    def build_data(self):
        task = Task(num_classes=3, in_channels=3, image_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
        return Data(train=Images(self.act), validation=Images(""), task=task)
"""


@pytest.mark.parametrize(("act", "workers"), [("leave", 0), ("leave", 1), ("die", 1)])
def test_a_data_set_that_exits_ends_the_run_with_1_and_its_name(act, workers, toy_config, install, capfd):
    install({"leaver": "leaver_data:Leaver"}, {"leaver_data": LEAVER})
    settings = ("data.name=leaver", f"data.act={act}", f"data.workers={workers}")
    assert main(["run", str(toy_config), *(part for setting in settings for part in ("--set", setting))]) == 1
    said = capfd.readouterr().err
    assert "leaver_data.Images" in said
    assert "Traceback" not in said
