from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mixcore.errors import StorageError
from mixcore.logs.tensorboard import TensorBoardLog
from mixcore.pictures.grid import denormalise, grid
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


def test_a_full_disk_is_told_at_once(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path)
    log._file.close()
    log._file = open("/dev/full", "wb")  # noqa: SIM115 - the log closes it
    log.scalars({"train/loss": 0.5}, 1)
    with pytest.raises(StorageError, match=r"events\.out\.tfevents.*No space left.*Make room"):
        log.flush()
    log.close()
    [path] = tmp_path.glob("events.*")
    assert read(tmp_path).Tags()["scalars"] == [], path


def test_an_error_inside_is_not_hidden_by_the_full_disk_that_follows(tmp_path: Path) -> None:
    def fails() -> None:
        with TensorBoardLog(tmp_path) as log:
            log._file.close()
            log._file = open("/dev/full", "wb")  # noqa: SIM115 - the log closes it
            log.scalars({"train/loss": 0.5}, 1)
            raise KeyError

    with pytest.raises(KeyError):
        fails()


def test_links_are_not_followed_and_names_cannot_be_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixcore.logs.tensorboard.time.time", lambda: 1700000000.5)
    for _ in range(2):
        TensorBoardLog(tmp_path).close()
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 2
    monkeypatch.setattr("mixcore.logs.tensorboard.secrets.token_hex", lambda count: "guessed")
    TensorBoardLog(tmp_path).close()
    [path] = tmp_path.glob("*guessed")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="could not be written"):
        TensorBoardLog(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


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
