"""What no file may do: end a command with a traceback, take for ever, or fill the screen."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from mixcore.config.faults import Fault, raise_faults
from mixcore.config.layers import overrides_layer, read_layers
from mixcore.config.run_dir import LONGEST_NAME, check_dir, default_dir
from mixcore.config.schema import OptimizerConfig, ScheduleConfig
from mixcore.config.structure import structure
from mixcore.config.text import MAX_DEPTH, key_lines, parse
from mixcore.errors import ConfigError
from mixcore.run.resolve import read_config


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"\nseed = {'9' * 400}", "run.toml:2: seed: expected an integer of at most 64 bits"),
        (f"\n\nseed = {'9' * 5000}", "run.toml:3: cannot be read as TOML: an integer is beyond the 64 bits"),
        (f"seed = {'[' * 5000}{']' * 5000}", "run.toml: cannot be read as TOML"),
        (f"[optimizer.options]\nx = {'[' * 60}1{']' * 60}", f"nested deeper than {MAX_DEPTH} levels"),
        (f"[{'.'.join('a' * 60)}]", f"nested deeper than {MAX_DEPTH} levels"),
        ('[data]\nroot = "a\\u0000b"', "run.toml:2: data.root: a NUL character"),
        ('extends = ["a\\u0000b"]', "run.toml:1: extends[0]: a NUL character"),
        ('extends = ["loop.toml"]', "loop.toml: cannot be read as TOML: Too many levels of symbolic links"),
        (f'extends = ["{"x" * 5000}"]', "cannot be read as TOML: File name too long"),
    ],
    ids=["400 digits", "5000 digits", "very deep", "lists", "dotted", "NUL", "NUL path", "loop", "long name"],
)
def test_one_message_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    (tmp_path / "run.toml").write_text(text)
    found = refused(tmp_path / "run.toml").replace(f"{tmp_path}/", "")
    assert message in found
    assert len(found) < 700, "what is repeated is cut"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"seed={'9' * 400}", "seed: expected an integer of at most 64 bits"),
        ("run.dir=a\udcff", "run.dir: bytes that are no UTF-8"),
        ("run.dir=a\0", "run.dir: a NUL character"),
        (f"{'.'.join('a' * 60)}=1", "nested deeper"),
    ],
)
def test_overrides_have_the_same_limits(tmp_path: Path, override: str, message: str) -> None:
    (tmp_path / "run.toml").write_text("")
    found = refused(tmp_path / "run.toml", override)
    assert message in found
    assert "--set " in found


def test_a_file_that_many_extend_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0a.toml").write_text("seed = 1")
    (tmp_path / "0b.toml").symlink_to("0a.toml")
    for level in range(1, 17):
        for side in "ab":
            (tmp_path / f"{level}{side}.toml").write_text(f'extends = ["{level - 1}a.toml", "{level - 1}b.toml"]')
    reads: Counter[str] = Counter()
    read = Path.read_bytes

    def counted(path: Path) -> bytes:
        reads[path.name] += 1
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    layers = read_layers(tmp_path / "16a.toml", [])
    assert layers[0].tree == {"seed": 1}
    assert len(layers) == len(reads) == 32
    assert set(reads.values()) == {1}


def test_what_a_second_base_brings_again_does_not_undo_the_first(tmp_path: Path) -> None:
    """Both bases extend a common one: it lies below both of them."""
    for name, text in {
        "common": "seed = 1",
        "first": 'extends = ["common.toml"]\nseed = 2',
        "second": 'extends = ["common.toml"]',
        "run": 'extends = ["first.toml", "second.toml"]',
    }.items():
        (tmp_path / f"{name}.toml").write_text(text)
    names = [Path(layer.source).stem for layer in read_layers(tmp_path / "run.toml", [])]
    assert names == ["common", "first", "second", "run"]


def test_a_long_chain_is_refused(tmp_path: Path) -> None:
    for level in range(1500):
        (tmp_path / f"{level}.toml").write_text(f'extends = ["{level + 1}.toml"]')
    assert f"more than {MAX_DEPTH} files" in refused(tmp_path / "0.toml")


def test_each_statement_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of n lines takes a time that grows with n, not with its square."""
    import mixcore.config.text as module

    seen = 0

    def counted(text: str) -> dict[str, object]:
        nonlocal seen
        seen += len(text)
        return parse(text)

    monkeypatch.setattr(module, "parse", counted)
    text = "".join(
        ["a = [\n", *(f"  {number}, # ]\n" for number in range(500)), "]\nb = '''\n", "x [\n" * 500, "'''\n"]
    )
    lines = key_lines(text)
    assert seen == len(text)
    assert lines["a",] == 1
    assert lines["b",] == 503


def test_lines_of_keys_behind_every_kind_of_string() -> None:
    text = "\n".join(
        [
            'a = "[ \\" # {"',
            "b = '[ \" #'",
            'c = """[',
            ' "" \\""" {""""',
            "d = '''{",
            "''''",
            "e = {x = [1, 2]} # [",
            "[f]",
            "g = 1",
        ]
    )
    lines = key_lines(text)
    assert [lines[key,] for key in "abcdef"] == [1, 2, 3, 5, 7, 8]
    assert lines["f", "g"] == 9


def test_a_table_below_a_list_of_tables_belongs_to_the_latest() -> None:
    lines = key_lines("[[a]]\n[a.b]\nc = 1\n[[a]]\n[a.b]\nc = 2\n[[a.d]]\n[[a.d]]\ne = 3\n")
    assert lines["a", 0, "b", "c"] == 3
    assert lines["a", 1, "b", "c"] == 6
    assert lines["a", 1, "d", 1, "e"] == 9


def test_messages_do_not_fill_the_screen() -> None:
    faults = [Fault(("k" * 1000, index), "m" * 100_000) for index in range(1000)]
    with pytest.raises(ConfigError) as caught:
        raise_faults(faults, "run.toml")
    message = str(caught.value)
    assert message.startswith("1000 faults in run.toml:")
    assert message.endswith("and 950 more")
    assert len(message) < 250_000
    layer_faults: list[Fault] = []
    overrides_layer(["x" * 100_000], layer_faults)
    assert len(layer_faults[0].message) < 300


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e31, -1.0, 10**400])
@pytest.mark.parametrize(
    ("cls", "key"),
    [(OptimizerConfig, "lr"), (OptimizerConfig, "weight_decay"), (OptimizerConfig, "eps"), (ScheduleConfig, "min_lr")],
)
def test_numbers_are_finite(cls: type, key: str, value: float) -> None:
    _, faults = structure(cls, {key: value})
    assert [fault.path for fault in faults] == [(key,)]


# --- the run folder ---------------------------------------------------------------------------------------------------


def test_the_default_folder_tells_what_was_overridden() -> None:
    assert default_dir("quickstart", {}) == "runs/quickstart"
    assert default_dir("quickstart", {"mix": {"name": "mixup"}}) == "runs/quickstart-mix.name=mixup"
    one = default_dir("a", {"seed": 1, "mix": {"alpha": 0.2}})
    assert one == default_dir("a", {"mix": {"alpha": 0.2}, "seed": 1}) == "runs/a-mix.alpha=0.2-seed=1"
    assert default_dir("a", {"optimizer": {"betas": [0.9, 0.95]}}) == "runs/a-optimizer.betas=0.9,0.95"


@pytest.mark.parametrize("value", ["../../x", "a/b", "é" * 300, "x" * 300, "\n", "a\0b", "$(rm)", {"deep": [[1]]}])
def test_the_default_folder_is_one_that_file_systems_take(tmp_path: Path, value: object) -> None:
    name = default_dir("a", {"mix": {"name": value}})
    runs, _, folder = name.partition("/")
    assert runs == "runs"
    assert "/" not in folder
    assert len(folder.encode()) <= LONGEST_NAME
    (tmp_path / folder).mkdir()
    assert name != default_dir("a", {"mix": {"name": "other"}})


@pytest.mark.parametrize("stem", ["", ".", "..", "\udcff", "x" * 255])
def test_a_strange_file_name_gives_a_folder_below_runs(tmp_path: Path, stem: str) -> None:
    folder = Path(default_dir(stem, {}))
    assert folder.parent == Path("runs")
    (tmp_path / folder.name).mkdir()


def test_two_overrides_that_differ_in_a_lost_character_have_two_folders() -> None:
    assert default_dir("a", {"data": {"root": "x y"}}) != default_dir("a", {"data": {"root": "x/y"}})


def test_folders_that_can_be_made(tmp_path: Path) -> None:
    for good in (tmp_path, tmp_path / "a" / "b"):
        check_dir(str(good))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file", "is no directory"),
        ("file/below/it", "is no directory"),
        ("x" * 300, "File name too long"),
        (f"new/{'x' * 300}", "a name in it is longer than"),
        ("loop/a", "Too many levels of symbolic links"),
        ("a\0b", "null byte"),
        ("hanging/a", "is no directory"),
    ],
)
def test_folders_that_cannot_be_made(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "hanging").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=rf"run\.dir: .*{why}") as caught:
        check_dir(str(tmp_path / name))
    assert "--set run.dir=PATH" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir(mode=0o555)
    with pytest.raises(ConfigError, match="gives no permission to write"):
        check_dir(str(tmp_path / "kept" / "run"))
