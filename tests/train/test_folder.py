"""The run folder: ownership, and files that are whole at every instant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from mixcore.errors import RunFolderError, StorageError
from mixcore.train.folder import RunFolder, differences, replace_file

TREE: dict[str, Any] = {"seed": 0, "mix": [{"name": "cutmix", "alpha": 0.2}], "run": {"dir": "a"}}


def test_differences_name_keys_as_a_person_types_them() -> None:
    other = {"seed": 0, "mix": [{"name": "mixup", "beta": [1, 2]}], "run": {"dir": "b"}}
    assert differences(TREE, other) == [
        "mix.alpha is 0.2 there and absent now",
        "mix.beta is absent there and [1, 2] now",
        'mix.name is "cutmix" there and "mixup" now',
    ]
    assert differences(TREE, {**TREE, "run": {"dir": "c"}}) == []
    longer = differences(TREE, {**TREE, "mix": [*TREE["mix"], {"name": "mixup"}]})
    assert 'mix[1].name is absent there and "mixup" now' in longer


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
    hold = "import sys, pathlib, time; from mixcore.train.folder import RunFolder\n"
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
