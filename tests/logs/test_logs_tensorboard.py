from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mixcore.logs.pictures import denormalise, grid
from mixcore.logs.tensorboard import TensorBoardLog
from mixcore.types import Task

TASK = Task(num_classes=2, in_channels=3, image_size=(4, 6), mean=(0.5, 0.25, 0.0), std=(0.25, 0.5, 1.0))


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_scalars_and_pictures_are_read_back(tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path) as log:
        log.scalars({"train/loss": 0.5, "mix/lam": torch.tensor(0.25)}, 3)
        log.image("mix/images", grid(torch.rand(5, 3, 4, 6), TASK), 3)
    events = read(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("mix/lam")] == [(3, 0.25)]
    picture = events.Images("mix/images")[0]
    assert (picture.height, picture.width) == (2 * (4 + 2) + 2, 4 * (6 + 2) + 2)


def test_a_resumed_run_hides_the_steps_that_it_repeats(tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path) as log:
        for step in range(5):
            log.scalars({"train/loss": float(step), "val/top1": float(step)}, step)
    with TensorBoardLog(tmp_path, purge_step=3) as log:
        log.scalars({"train/loss": 30.0}, 3)
    events = read(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(0, 0), (1, 1), (2, 2), (3, 30)]
    assert [event.step for event in events.Scalars("val/top1")] == [0, 1, 2]


def test_denormalise_by_hand() -> None:
    images = torch.tensor([0.0, 0.0, 0.0, 2.0, 1.5, 1.0, -9.0, 9.0, 0.5]).view(3, 3, 1, 1)
    assert denormalise(images, TASK).flatten(1).tolist() == [[128, 64, 0], [255, 255, 255], [0, 255, 128]]


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_can_be_seen(channels: int) -> None:
    task = Task(num_classes=2, in_channels=channels, image_size=(4, 6), mean=(0.0,) * channels, std=(1.0,) * channels)
    images = torch.rand(2, channels, 4, 6)
    seen = denormalise(images, task)
    assert seen.shape == (2, 3, 4, 6)
    assert torch.equal(seen[:, 0], (images[:, 0] * 255).round().to(torch.uint8))
    assert torch.equal(seen[:, 2], seen[:, 0]) == (channels < 3)
