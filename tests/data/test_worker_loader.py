"""Sets that are read sample by sample, by workers or by this process."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from mixcore.data.loader import build_eval_loader, build_train_loader
from mixcore.errors import DataError, UnreadableSampleError
from mixcore.types import Data, Task

CPU = torch.device("cpu")
TASK = Task(num_classes=40, in_channels=1, image_size=(2, 2), mean=(0.0,), std=(1.0,))


class Noisy(Dataset):
    """Float images of draws from all three global generators; the label is the index."""

    def __init__(self, count=40, corrupt=(), skip=False, sizes=(2,), offset=0):
        self.count, self.corrupt, self.skip, self.sizes, self.offset = count, corrupt, skip, sizes, offset

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.corrupt:
            raise UnreadableSampleError(f"image{index}.png is broken", skip=self.skip)
        draws = [random.random(), np.random.random(), torch.rand(1).item(), float(index)]
        size = self.sizes[index % len(self.sizes)]
        return torch.tensor(draws).view(1, 2, 2).repeat(1, size // 2, size // 2), index + self.offset


def data(repeats=1, **options):
    return Data(train=Noisy(**options), validation=Noisy(**options), task=TASK, repeats=repeats)


def train_loader(given, **changes):
    settings = {"batch_size": 8, "workers": 0, "drop_last": True, "seed": 1, "rank": 0, "world": 1}
    return build_train_loader(given, **{**settings, "device": CPU, "channels_last": False, **changes})


def eval_loader(given, **changes):
    settings = {"batch_size": 8, "workers": 0, "rank": 0, "world": 1, "device": CPU, "channels_last": False}
    return build_eval_loader(given, **{**settings, **changes})


def joined(batches):
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_images_do_not_depend_on_the_number_of_workers():
    expected = joined(train_loader(data()).epoch(0))
    for workers in (1, 2):
        loader = train_loader(data(), workers=workers)
        assert same(joined(loader.epoch(0)), expected)
        # Worker processes outlive an epoch, also one that was left early.
        next(iter(loader.epoch(1)))
        assert same(joined(loader.epoch(0)), expected)


@pytest.mark.parametrize("repeats", [1, 2])
def test_images_do_not_depend_on_the_number_of_processes(repeats):
    whole = joined(train_loader(data(repeats)).epoch(0))
    parts = [joined(train_loader(data(repeats), rank=rank, world=2).epoch(0)) for rank in range(2)]
    found = torch.cat([images for images, _ in parts]).flatten(1).tolist()
    assert sorted(found) == sorted(whole[0].flatten(1).tolist())


def test_each_sample_and_each_copy_of_it_draws_anew():
    images, labels = joined(train_loader(data(repeats=2)).epoch(0))
    assert len(labels.unique()) < len(labels)
    draws = images.flatten(1)[:, :3]
    assert len(draws.unique()) == draws.numel()
    assert not torch.equal(images, joined(train_loader(data(repeats=2)).epoch(1))[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_inside_an_epoch_gives_the_rest_of_it(workers):
    loader = train_loader(data(), workers=workers)
    whole, rest = list(loader.epoch(1)), list(loader.epoch(1, start=3))
    assert len(rest) == len(loader) - 3 == 2
    assert same(joined(whole[3:]), joined(rest))
    assert same(joined(whole[1:3]), joined(list(loader.epoch(1, start=1, stop=3))))


@pytest.mark.parametrize("workers", [0, 1])
def test_global_generators_are_given_back(workers):
    def states():
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()

    before = states()
    for _ in (*train_loader(data(), workers=workers).epoch(0), *eval_loader(data(), workers=workers).epoch(0)):
        assert states() == before
    assert states() == before


@pytest.mark.parametrize("workers", [0, 1])
def test_refused_samples_stop_the_run_named_and_counted(workers):
    loader = eval_loader(data(corrupt=(9, 12)), workers=workers)
    with pytest.raises(UnreadableSampleError) as caught:
        list(loader.epoch(0))
    text = str(caught.value)
    assert text.startswith("2 samples of the validation set")
    assert "image9.png" in text
    assert "image12.png" in text
    assert "Traceback" not in text
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_training_samples_are_replaced_counted_and_said_once(workers, caplog):
    loader = train_loader(data(corrupt=(9, 10, 39), skip=True), workers=workers)
    with caplog.at_level(logging.WARNING, "mixcore"):
        _, labels = joined(loader.epoch(0))
        list(loader.epoch(1))
    expected = [{9: 11, 10: 11, 39: 0}.get(i, i) for i in range(40)]
    assert sorted(labels.tolist()) == sorted(expected)
    (record,) = caplog.records
    assert "3 samples of the training set cannot be read and were skipped" in record.message
    assert "image39.png" in record.message


def test_skipped_validation_samples_are_left_out(caplog):
    with caplog.at_level(logging.WARNING, "mixcore"):
        batches = list(eval_loader(data(corrupt=range(8, 18), skip=True)).epoch(0))
    assert [len(labels) for _, labels in batches] == [8, 6, 8, 8]
    assert "10 samples of the validation set" in caplog.text
    assert "and 5 more" in caplog.text


def test_a_set_without_a_readable_sample_is_refused():
    with pytest.raises(DataError, match=r"no sample from \d+ on can be read"):
        list(train_loader(data(corrupt=range(40), skip=True)).epoch(0))


def test_labels_out_of_range_are_refused():
    with pytest.raises(DataError, match=r"training set run from .* to .*; with 40 classes they must lie in 0\.\.39"):
        list(train_loader(data(offset=30)).epoch(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_different_sizes_are_refused(workers):
    with pytest.raises(DataError, match=r"\[1, 2, 2\], \[1, 4, 4\]"):
        list(train_loader(data(sizes=(2, 4)), workers=workers).epoch(0))


class Arrays(Noisy):
    def __getitem__(self, index):
        return np.zeros((2, 2, 1), dtype=np.uint8), 0


def test_images_that_are_no_tensors_are_refused_with_the_remedy():
    with pytest.raises(DataError, match=r"ndarray.*PILToTensor"):
        list(train_loader(Data(train=Arrays(), validation=Arrays(), task=TASK)).epoch(0))


@pytest.mark.parametrize("world", [1, 3, 50])
def test_evaluation_counts_every_image_once(world):
    loaders = [eval_loader(data(count=37), rank=rank, world=world) for rank in range(world)]
    seen = [label for loader in loaders for _, labels in loader.epoch(0) for label in labels.tolist()]
    assert sorted(seen) == list(range(37))


class Bytes(Noisy):
    def __getitem__(self, index):
        return torch.full((1, 2, 2), index, dtype=torch.uint8), torch.tensor([0.25, 0.75], dtype=torch.float64)


def test_uint8_images_are_normalised_and_soft_labels_float32():
    task = Task(num_classes=2, in_channels=1, image_size=(2, 2), mean=(0.5,), std=(0.25,), label_kind="soft")
    images, labels = joined(eval_loader(Data(train=Bytes(), validation=Bytes(), task=task)).epoch(0))
    torch.testing.assert_close(images[:, 0, 0, 0], (torch.arange(40) / 255 - 0.5) / 0.25)
    assert labels.dtype == torch.float32


class Ages(Noisy):
    def __getitem__(self, index):
        return torch.full((1, 2, 2), index, dtype=torch.uint8), float(index)


def test_one_value_an_image_may_come_as_a_number():
    task = Task(num_classes=1, in_channels=1, image_size=(2, 2), mean=(0.5,), std=(0.25,), label_kind="value")
    _, labels = joined(eval_loader(Data(train=Ages(), validation=Ages(), task=task)).epoch(0))
    assert torch.equal(labels, torch.arange(40.0)[:, None])


STOPPED = """
import multiprocessing, os, signal, sys, time
sys.path.insert(0, {folder!r})
from test_worker_loader import data, train_loader

batches = train_loader(data(), workers=1).epoch(0)
next(batches)
(worker,) = multiprocessing.active_children()
for number in (signal.SIGTERM, signal.SIGINT):
    os.kill(worker.pid, number)
time.sleep(0.5)
next(batches)
print("alive" if worker.is_alive() else "gone")
sys.exit(3)
"""


def test_workers_outlive_signals_and_end_with_the_process():
    """The iterator is left open, as it is where an error ends an epoch: the process must not wait for its workers."""
    script = STOPPED.format(folder=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "alive\n", done.stderr
    assert done.returncode == 3
