"""Data sets that end their process, die, or give what their task does not say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
from torch.utils.data import Dataset

from mixcore.data.loader import build_eval_loader, build_train_loader
from mixcore.errors import DataError, MixcoreError, PreemptedError
from mixcore.types import Data, Resident, Task

CPU = torch.device("cpu")
TASK = Task(num_classes=40, in_channels=1, image_size=(2, 2), mean=(0.0,), std=(1.0,))


class Odd(Dataset):
    """40 images; sample 9 does what `act` says."""

    def __init__(self, act):
        self.act = act

    def __len__(self):
        return 40

    def __getitem__(self, index):
        image, label = torch.zeros(1, 2, 2), index
        return self.act(image, label) if index == 9 else (image, label)


def leaves(_image, _label, code=0):
    sys.exit(code)


def dies(_image, _label):
    os._exit(0)


def fails(_image, _label):
    os._exit(7)


def killed(_image, _label):
    os.kill(os.getpid(), signal.SIGKILL)


def loaders(dataset, workers=0, task=TASK):
    data = dataset if isinstance(dataset, Data) else Data(train=dataset, validation=dataset, task=task)
    settings = {"batch_size": 8, "workers": workers, "rank": 0, "world": 1, "device": CPU, "channels_last": False}
    return build_train_loader(data, drop_last=True, seed=1, **settings), build_eval_loader(data, **settings)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("which", [0, 1])
def test_system_exit_is_an_error_that_names_the_data_set(workers, which):
    with pytest.raises(MixcoreError, match=r"sample 9: \S*test_foreign_data\.Odd called sys\.exit\(0\)") as caught:
        list(loaders(Odd(leaves), workers)[which].epoch(0))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("act", "words"), [(dies, "exit code 0"), (fails, "exit code 7"), (killed, "was killed by SIGKILL, perhaps for")]
)
def test_a_worker_that_dies_is_an_error_that_names_the_data_set(act, words, which):
    loader = loaders(Odd(act), workers=2)[which]
    set_part = ("training", "validation")[which]
    with pytest.raises(
        MixcoreError, match=rf"reads the {set_part} set \(\S*test_foreign_data\.Odd\).*{words}"
    ) as caught:
        list(loader.epoch(0))
    assert caught.value.exit_code == 1


def test_a_worker_that_dies_says_so_only_where_it_is_waited_for():
    """Not wherever the process happens to be: there, others might take it for an error of their own."""
    before = signal.getsignal(signal.SIGCHLD)
    for _ in loaders(Odd(lambda image, label: (image, label)), workers=1)[0].epoch(0):
        assert signal.getsignal(signal.SIGCHLD) is before


class Unsized(Dataset):
    def __getitem__(self, index):
        return torch.zeros(1, 2, 2), 0


class LeavesAtLength(Unsized):
    def __len__(self):
        sys.exit("no licence")


def test_a_length_that_cannot_be_asked_is_an_error_that_names_the_data_set():
    with pytest.raises(
        MixcoreError, match=r"\S*test_foreign_data\.LeavesAtLength called sys\.exit\('no licence'\)"
    ) as caught:
        loaders(LeavesAtLength())
    assert caught.value.exit_code == 1
    with pytest.raises(DataError, match=r"the training set is a \S*test_foreign_data\.Unsized without a length"):
        loaders(Unsized())


class LeavesAtBatch:
    draws = 1

    def __call__(self, images, uniforms):
        sys.exit()


def test_an_augmentation_that_leaves_is_an_error_that_names_it():
    images = Resident(
        images=torch.zeros(40, 1, 2, 2, dtype=torch.uint8), labels=torch.zeros(40).long(), augment=LeavesAtBatch()
    )
    with pytest.raises(MixcoreError, match=r"\S*test_foreign_data\.LeavesAtBatch called sys\.exit\(\)") as caught:
        list(loaders(images)[0].epoch(0))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("label", [None, "cat", 1.5, [1, 2], float("nan")])
def test_a_label_that_is_none_is_refused_by_sample(workers, label):
    with pytest.raises(DataError, match=r"sample 9 .*label"):
        list(loaders(Odd(lambda image, _label: (image, label)), workers)[1].epoch(0))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("found", [(torch.zeros(1, 2, 2),), torch.zeros(1, 2, 2), None, (1, 2, 3)])
def test_a_sample_that_is_no_pair_is_refused(workers, found):
    with pytest.raises(DataError, match=r"sample 9 .* \(image, label\)"):
        list(loaders(Odd(lambda _image, _label: found), workers)[1].epoch(0))


def test_an_image_with_other_channels_than_the_task_is_refused():
    with pytest.raises(DataError, match=r"sample 9 gave an image as float32 \[3, 2, 2\]; expected a tensor \[1,H,W\]"):
        list(loaders(Odd(lambda _image, label: (torch.zeros(3, 2, 2), label)))[1].epoch(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_signal_to_stop_is_no_fault_of_the_data(workers):
    """An error of ours that arrives while a sample is made in this process passes as it is."""

    def stopped(_image, _label):
        raise PreemptedError("stopped")

    if workers == 0:
        with pytest.raises(PreemptedError):
            list(loaders(Odd(stopped))[0].epoch(0))
    else:
        with pytest.raises(MixcoreError):
            list(loaders(Odd(stopped), workers)[0].epoch(0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": (float("nan"),)}, "mean"),
        ({"mean": (0.0, 0.0)}, "mean"),
        ({"mean": ("0.5",)}, "mean"),
        ({"std": 0.5}, "std"),
        ({"std": (0.0,)}, "std"),
        ({"std": (-1.0,)}, "std"),
        ({"std": (float("inf"),)}, "std"),
        ({"std": (1e-45,)}, "mean and std"),
        ({"mean": (1e30,), "std": (1e-20,)}, "mean and std"),
        ({"num_classes": 0}, "num_classes"),
        ({"num_classes": 2.5}, "num_classes"),
        ({"in_channels": 0}, "in_channels"),
        ({"image_size": (0, 2)}, "image_size"),
        ({"image_size": 32}, "image_size"),
    ],
)
def test_a_task_that_cannot_be_is_refused_before_training(change, words):
    task = attrs.evolve(TASK, **change)
    for _ in range(2):
        with pytest.raises(DataError, match=rf"task of the data set has {words}") as caught:
            loaders(Odd(leaves), task=task)
    assert caught.value.exit_code == 2


def test_many_repeats_need_no_memory():
    """The order of an epoch has its own length, whatever each image is repeated."""
    data = Data(train=Odd(dies), validation=Odd(dies), task=TASK, repeats=10**12)
    train, _ = loaders(data)
    assert len(set(next(train._keys(0, range(1))))) == 8
    assert len({index for index, _ in next(train._keys(0, range(1)))}) == 1


GONE = """
import sys
sys.path.insert(0, {folder!r})
from test_foreign_data import Odd, {act}, loaders
from mixcore.errors import MixcoreError

batches = loaders(Odd({act}), workers=2)[0].epoch(0)
try:
    list(batches)
except MixcoreError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("act", ["dies", "killed", "leaves"])
def test_a_process_whose_worker_died_ends(act):
    """No worker that is left keeps it: it ends with the error's code, without output of its own."""
    script = GONE.format(folder=str(Path(__file__).parent), act=act)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert "test_foreign_data.Odd" in done.stdout
    assert not done.stderr
