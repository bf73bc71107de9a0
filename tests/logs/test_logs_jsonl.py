from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mixcore.errors import RunFolderError, StorageError
from mixcore.logs.jsonl import append_line, check_lines, count_lines, read_records, record_line, restore_lines

LINES = [record_line({"epoch": epoch, "val/top1": 10.0 / 3 * epoch}) for epoch in (1, 2, 3)]


def three(path: Path) -> bytes:
    for epoch, line in enumerate(LINES):
        append_line(path, LINES[:epoch], line)
    return path.read_bytes()


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_records(path) == []
    assert count_lines(path) == 0
    three(path)
    assert read_records(path) == [json.loads(line) for line in LINES]
    assert count_lines(path) == 3
    check_lines(path, LINES)


def test_a_kill_inside_the_last_line_loses_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    content = three(path)
    second = content.index(b"\n", content.index(b"\n") + 1) + 1
    for end in range(second, len(content)):
        path.write_bytes(content[:end])
        assert len(read_records(path)) == 2
        append_line(path, LINES[:2], LINES[2])
        assert path.read_bytes() == content


DAMAGE = {
    "deleted": None,
    "emptied": b"",
    "cut": lambda content: content[: content.index(b"\n") + 1],
    "longer": lambda content: content + b"{}\n",
    "changed": lambda content: content.replace(b"3.33", b"9.99"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_file_that_somebody_changed_is_noticed_and_put_back(tmp_path: Path, how: str) -> None:
    path = tmp_path / "metrics.jsonl"
    content = three(path)
    damage = DAMAGE[how]
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(content) if callable(damage) else damage)
    found = path.read_bytes() if path.exists() else None
    said = r"metrics\.jsonl (is gone|holds \d whole lines); this run has written .*which puts the file back"
    with pytest.raises(StorageError, match=said):
        append_line(path, LINES, record_line({"epoch": 4}))
    with pytest.raises(StorageError, match=said):
        check_lines(path, LINES)
    assert (path.read_bytes() if path.exists() else None) == found, "left for a person to look at"
    assert restore_lines(path, LINES) == (how != "longer")
    assert path.read_bytes() == content
    kept = tmp_path / "metrics.jsonl.damaged"
    assert (kept.read_bytes() if kept.exists() else None) == (found if how in ("cut", "changed") else None)
    check_lines(path, LINES)


def test_a_file_that_is_whole_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    three(path)
    before = path.stat()
    assert not restore_lines(path, LINES)
    assert path.stat().st_ino == before.st_ino
    assert not restore_lines(tmp_path / "none.jsonl", [])
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_later_lines_and_a_torn_end_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    content = three(path)
    path.write_bytes(content + b'{"epo')
    assert not restore_lines(path, LINES[:1])
    assert path.read_bytes() == f"{LINES[0]}\n".encode()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    content = three(path)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mixcore.files.os.fsync", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        restore_lines(path, LINES[:1])
    assert path.read_bytes() == content
    with pytest.raises(StorageError, match=r"could not be written: No space left.*Make room on the disk"):
        append_line(path, LINES, "{}")


@pytest.mark.parametrize(
    ("line", "message"), [("{]", "not JSON"), ("[1]", "found a list"), ("[" * 100_000, "not JSON")]
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"epoch": 1}}\n{line}\n{{"epoch": 3}}\n')
    with pytest.raises(RunFolderError, match=rf"metrics\.jsonl, line 2: {message}"):
        read_records(path)


def test_every_line_is_json_that_others_read() -> None:
    line = record_line({"epoch": 1, "val/loss": math.nan, "train/loss": math.inf})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(line, parse_constant=refuse) == {"epoch": 1, "val/loss": None, "train/loss": None}
