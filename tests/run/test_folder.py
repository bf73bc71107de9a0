"""The run folder: ownership, and files that are whole at every instant."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from mixcore.errors import RunFolderError, StorageError
from mixcore.files import replace_file
from mixcore.logs.jsonl import append_line, restore_lines
from mixcore.run.folder import RunFolder, differences

TREE: dict[str, Any] = {"seed": 0, "mix": [{"name": "cutmix", "alpha": 0.2}], "run": {"dir": "a"}}


def test_differences_name_keys_as_a_person_types_them() -> None:
    other = {"seed": 0, "mix": [{"name": "mixup", "beta": [1, 2]}], "run": {"dir": "b"}}
    assert list(map(str, differences(TREE, other))) == [
        "mix.alpha is 0.2 there and absent now",
        "mix.beta is absent there and [1, 2] now",
        'mix.name is "cutmix" there and "mixup" now',
    ]
    assert differences(TREE, {**TREE, "run": {"dir": "c"}}) == []
    moved = {
        **TREE,
        "data": {"root": "b", "size": 8, "workers": 2},
        "train": {"log_every": 2},
        "eval": {"batch_size": 1},
    }
    here = {**TREE, "data": {"root": "a", "size": 8, "workers": 0}, "train": {"log_every": 1}, "eval": {}}
    assert [str(found) for found in differences(here, moved)] == ['data.root is "a" there and "b" now']
    assert differences(here, moved, {("data", "root")}) == []
    assert differences(TREE, other, {("mix", 0, "alpha")})[0].key == "mix.beta"
    longer = differences(TREE, {**TREE, "mix": [*TREE["mix"], {"name": "mixup"}]})
    assert 'mix[1].name is absent there and "mixup" now' in map(str, longer)


def test_a_folder_belongs_to_a_configuration_once_it_holds_results(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.check_owner(TREE)
    folder.make()
    folder.config.write_text('seed = 1\n[[mix]]\nname = "cutmix"\nalpha = 0.2\n')
    folder.check_owner(TREE)
    folder.metrics.write_text("{}\n")
    with pytest.raises(RunFolderError, match="seed is 1 there and 0 now"):
        folder.check_owner(TREE)
    folder.config.write_text('seed = 0\n[[mix]]\nname = "cutmix"\nalpha = 0.2\n[run]\ndir = "elsewhere"\n')
    folder.check_owner(TREE)


@pytest.mark.parametrize("content", [None, "seed = = 1", b"\xff\xfe"])
def test_results_without_a_readable_configuration_are_left_alone(tmp_path: Path, content: str | bytes | None) -> None:
    folder = RunFolder(tmp_path)
    folder.make()
    (folder.checkpoints / "last.pt").write_bytes(b"x")
    if content is not None:
        folder.config.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunFolderError, match=r"config\.toml cannot be read"):
        folder.check_owner(TREE)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(path, lambda file: file.write(b"old"))

    def breaks_off(file: BinaryIO) -> None:
        file.write(b"half of the ne")
        assert path.read_bytes() == b"old"
        raise OSError(28, os.strerror(28))

    with pytest.raises(StorageError, match=r"file could not be written: No space left on device; .* Make room"):
        replace_file(path, breaks_off)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    replace_file(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"


def test_a_fault_of_our_own_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    def fails(_file: BinaryIO) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        replace_file(tmp_path / "file", fails)
    assert os.listdir(tmp_path) == []


def test_a_folder_in_use_is_refused_until_its_process_is_gone(tmp_path: Path) -> None:
    hold = "import sys, pathlib, time; from mixcore.run.folder import RunFolder\n"
    hold += "with RunFolder(pathlib.Path(sys.argv[1])).held(): print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        refusal = pytest.raises(RunFolderError, match=r"another process is training .* --set run.dir=PATH")
        with refusal, RunFolder(tmp_path).held():
            pass
        other.kill()
    with RunFolder(tmp_path).held():
        pass


NAMES = (
    "config.toml",
    "environment.json",
    "metrics.jsonl",
    "summary.json",
    ".lock",
    "checkpoints/last.pt",
    "checkpoints/previous.pt",
    "checkpoints/best.pt",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", ["precious", "nowhere"])
def test_a_link_in_place_of_a_file_of_the_run_is_refused(tmp_path: Path, name: str, target: str) -> None:
    (tmp_path / "precious").write_text("mine")
    folder = RunFolder(tmp_path / "run")
    folder.make()
    (folder.path / name).symlink_to(tmp_path / target)
    with pytest.raises(RunFolderError, match=rf"{name}: a link .*Remove it"):
        folder.make()
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_a_link_that_appears_later_is_not_followed_either(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    folder = RunFolder(tmp_path / "run")
    folder.make()
    for path in (folder.lock, folder.metrics, folder.summary):
        path.symlink_to(precious)
    with pytest.raises(RunFolderError, match=r"\.lock cannot be opened: it is a link"), folder.held():
        pass
    with pytest.raises(StorageError, match=r"metrics\.jsonl could not be written: it is a link"):
        append_line(folder.metrics, [], "{}")
    with pytest.raises(StorageError, match="it is a link"):
        restore_lines(folder.metrics, [])
    folder.write_json(folder.summary, {"value": math.nan})
    assert not folder.summary.is_symlink(), "replaced, not followed"
    assert json.loads(folder.summary.read_text()) == {"value": None}
    assert precious.read_text() == "mine"


def test_the_lock_is_not_emptied(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.lock.write_text("kept")
    with folder.held():
        assert folder.lock.read_text() == "kept"


def test_folders_may_be_links(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "scratch")
    folder = RunFolder(tmp_path / "run")
    folder.make()
    with folder.held():
        folder.write_text(folder.config, "seed = 0\n")
    assert (tmp_path / "scratch" / "config.toml").read_text() == "seed = 0\n"


def test_temporary_names_cannot_be_guessed_and_do_not_pile_up(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.make()
    seen = set()

    def killed(file: BinaryIO) -> None:
        [name] = [path.name for path in tmp_path.glob("config.toml.*.tmp") if path.name not in seen]
        seen.add(name)
        os._exit(9)

    for _ in range(3):
        child = os.fork()
        if child == 0:
            replace_file(folder.config, killed)
        os.waitpid(child, 0)
        seen |= {path.name for path in tmp_path.glob("config.toml.*.tmp")}
    assert len(seen) == 3
    (tmp_path / "notes.tmp").write_text("mine")
    with folder.held():
        assert [path.name for path in tmp_path.glob("*.tmp")] == ["notes.tmp"]


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=rf"the folder {tmp_path}/gone is gone"):
        replace_file(tmp_path / "gone" / "last.pt", lambda file: file.write(b"x"))


GOOD = '{"metric": "top1", "protocol": "last", "value": null, "epochs": 1, "best": null}'


@pytest.mark.parametrize("content", ["", GOOD[:-9], "[]", "{}", GOOD.replace("null, ", '"high", ', 1), "[" * 100_000])
def test_a_damaged_summary_is_named(tmp_path: Path, content: str) -> None:
    folder = RunFolder(tmp_path)
    folder.summary.write_text(GOOD)
    assert folder.read_summary()["best"] is None
    folder.summary.write_text(content)
    with pytest.raises(RunFolderError, match=r"summary\.json is damaged .*Remove it and start again"):
        folder.read_summary()


def test_a_run_whose_checkpoints_are_gone_is_not_started_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.make()
    folder.check_not_lost(0)
    folder.metrics.write_text("{}\n{}\n")
    folder.check_not_lost(2)
    with pytest.raises(RunFolderError, match=r"holds 2 epochs, but .*checkpoints has no last\.pt .*Put a checkpoint"):
        folder.check_not_lost(1)
