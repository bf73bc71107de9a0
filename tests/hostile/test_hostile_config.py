"""Configurations mutated by bytes and by structure: no traceback, exit 0 or 2, and what a dry run approves starts."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
import tomli
import tomli_w

from mixcore.cli.main import main

SEED = int(os.environ.get("MIXCORE_FUZZ_SEED", "20260"))

BASE = """
seed = 3
[data]
name = "toy_data"
batch_size = 8
samples = 26
[backbone]
name = "toy_net"
dropout = 0.1
[[mix]]
name = "toy_mix"
probability = 0.5
[[mix]]
name = "mixup"
alpha = 0.2
group_size = 4
[labels]
name = "weights"
[loss]
name = "soft_cross_entropy"
smoothing = 0.1
[[extra]]
name = "mix_off"
epoch = 3
[optimizer]
name = "adamw"
lr = 0.01
betas = [0.9, 0.95]
[schedule]
epochs = 4
warmup_epochs = 1
[train]
accumulate = 2
clip_grad = 1.0
ema_decay = 0.9
[eval]
protocol = "median-last-2"
[run]
device = "cpu"
dir = "run"
"""

VALUES: tuple[Any, ...] = (
    *(0, 1, 2, 3, 7, -1, 2**31, 2**40, 2**63 - 1, -(2**63), 10**30, 10**400),
    *(0.0, 0.5, 1.0, 1.5, -0.1, 1e-30, 1e30, 1e38, 1e300, float("inf"), float("-inf"), float("nan")),
    *("", "x", "mixup", "cutmix", "none", "../x", "a\\b", "é", "x" * 300, "{", "[", "last", "median-last-3"),
    *(True, False, [], [0.9], [1, "a"], [[]], {}, {"name": "mixup"}, {"a": {"b": 1}}, [{"name": "none"}, {}]),
)

PIECES = (b"\0", b"\xff", b'"', b"'''", b"[", b"]]", b"=", b"\n", b"1" * 5000, b"[" * 2000)


def paths_of(tree: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path for key, item in items for path in ((*prefix, key), *paths_of(item, (*prefix, key)))]


def restructured(draw: random.Random) -> bytes:
    """The base with one to three of its keys changed, removed, renamed or added to."""
    tree = tomli.loads(BASE)
    for _ in range(draw.randint(1, 3)):
        path = draw.choice(paths_of(tree))
        parent: Any = tree
        for key in path[:-1]:
            parent = parent[key]
        key, kind = path[-1], draw.randrange(8)
        if kind < 5:
            parent[key] = draw.choice(VALUES)
        elif kind == 5:
            del parent[key]
        elif isinstance(parent, dict):
            parent[draw.choice(["", "a.b", "nmae", "lr", "options", "name", "x" * 200])] = draw.choice(VALUES)
        if not paths_of(tree):
            break
    return tomli_w.dumps(tree).encode()


def garbled(draw: random.Random) -> bytes:
    """The base with one to four bytes flipped, inserted, doubled or cut."""
    text = bytearray(BASE.encode())
    for _ in range(draw.randint(1, 4)):
        at, kind = draw.randrange(len(text)), draw.randrange(4)
        if kind == 0:
            text[at] = draw.randrange(256)
        elif kind == 1:
            text[at:at] = draw.choice(
                [b"\0", b"\xff", b'"', b"'''", b"[", b"]]", b"=", b"\n", b"1" * 5000, b"[" * 2000]
            )
        elif kind == 2:
            text[at:at] = text[at : at + draw.randrange(40)]
        else:
            del text[at : at + draw.randrange(20)]
    return bytes(text)


def mutated(count: int) -> list[bytes]:
    print(f"MIXCORE_FUZZ_SEED={SEED}")
    draw = random.Random(SEED)
    return [(restructured if draw.random() < 0.75 else garbled)(draw) for _ in range(count)]


def approved(texts: list[bytes], path: Path, capsys: pytest.CaptureFixture[str]) -> list[bytes]:
    """Those that a dry run approves; the others are refused with one short message."""
    fitting = []
    for text in texts:
        path.write_bytes(text)
        code = main(["run", str(path), "--dry-run"])
        message = capsys.readouterr().err
        assert code in (0, 2), f"exit {code}:\n{message}\n{text!r}"
        assert "Traceback" not in message
        assert len(message) < 20_000
        assert message.startswith("mixcore: ") or code == 0, message
        if code == 0:
            fitting.append(text)
    return fitting


@pytest.mark.filterwarnings("ignore")
def test_mutated_configurations_end_with_0_or_2(toy_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = mutated(150)
    fitting = approved(texts, toy_config, capsys)
    assert 5 < len(fitting) < 145, "some fit and some do not, or this tests little"
    assert not (toy_config.parent / "run").exists(), "a dry run writes nothing"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_thousand_of_them(toy_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitting = approved(mutated(2000), toy_config, capsys)
    for number, text in enumerate(fitting[:40]):
        toy_config.write_bytes(text)
        sets = ["--set", f'run.dir="start{number}"', "--set", "schedule.epochs=1", "--set", "schedule.warmup_epochs=0"]
        code = main(["run", str(toy_config), *sets])
        message = capsys.readouterr().err
        diverged = re.search(r"(loss|weight) became .* iteration (\d+)", message)  # later: learning rates of 1e18 fit
        started = code == 0 or (diverged is not None and int(diverged[2]) >= 1)
        assert started, f"approved, but exit {code}:\n{message}\n{text.decode()}"
