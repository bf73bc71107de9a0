"""Checkpoints that were damaged or made to harm: each is refused in words, none is read as something that it is not.

The seed is in the output of a test that fails; `pytest tests/hostile/test_junk_checkpoints.py -m slow -s` prints the
figures of 3,000 files.
"""

from __future__ import annotations

import collections
import hashlib
import io
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mixcore.errors import CheckpointError
from mixcore.run.checkpoint import Checkpoints, read_checkpoint
from mixcore.run.resolve import load_config

SEED = 20260
SEAL = 16 + 32
"""Bytes of a seal: its mark and a SHA-256."""


class Evil:
    """Loading it would make a folder."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


@pytest.fixture
def files(toy_run: Callable[..., Path], toy_config: Path) -> Checkpoints:
    """The checkpoints of a finished run."""
    folder = toy_run("train.ema_decay=0.9")
    loaded = load_config(toy_config, ["train.ema_decay=0.9"])
    return Checkpoints(
        folder=folder / "checkpoints", digest=loaded.digest, config=loaded.text, versions={}, places=loaded.places
    )


def sealed(body: bytes) -> bytes:
    """What a person makes who knows the format."""
    return body + b"\nmixcore sha256:" + hashlib.sha256(body).digest()


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def archive(body: bytes, change: Callable[[str, bytes], tuple[str, bytes] | None], kind: int = 0) -> bytes:
    """The zip archive with every entry put through `change`; None leaves one out."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(body)) as old, zipfile.ZipFile(made, "w", kind) as new:
        for name in old.namelist():
            entry = change(name, old.read(name))
            if entry is not None:
                new.writestr(*entry)
    return made.getvalue()


def with_pickle(body: bytes, program: bytes) -> bytes:
    return archive(body, lambda name, data: (name, program if name.endswith("data.pkl") else data))


def anything(rng: random.Random, depth: int = 3) -> Any:
    """Plain values and tensors of a random shape."""
    kinds: list[Callable[[], Any]] = [
        lambda: None,
        lambda: rng.random() * 10 ** rng.randrange(-300, 300),
        lambda: rng.randrange(-(2**70), 2**70),
        lambda: "".join(rng.choices("abc/\0é", k=rng.randrange(9))),
        lambda: torch.randn(rng.randrange(4), 2, generator=torch.Generator().manual_seed(rng.randrange(99))),
    ]
    if depth:
        kinds += [
            lambda: [anything(rng, depth - 1) for _ in range(rng.randrange(4))],
            lambda: {anything_hashable(rng): anything(rng, depth - 1) for _ in range(rng.randrange(4))},
        ]
    return rng.choice(kinds)()


def anything_hashable(rng: random.Random) -> Any:
    return rng.choice([rng.randrange(9), "epoch", "step", None, 2.5])


PROGRAMS = (
    b"\x80\x02" + b"]" * 200_000 + b".",  # deep
    b"\x80\x02]q\x00h\x00a.",  # a list inside itself
    b"\x80\x02cposix\nsystem\nX\x08\x00\x00\x00echo ran\x85R.",
    b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
    b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a frame of 2^63 bytes
    b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a number of 2 GB
    b"\x80\x02ccollections\nOrderedDict\n)R.",
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02K\x03tR.",
    b"\x80\x02Q.",
    b"",
)


def junk(rng: random.Random, good: bytes, best: bytes) -> Iterator[tuple[str, bytes]]:
    """Kinds of junk in turn, made of good files; none of them is a checkpoint to go on from."""
    content = torch.load(io.BytesIO(good), weights_only=True)
    body = good[:-SEAL]
    while True:
        at, length = rng.randrange(len(good)), rng.randrange(1, 200)
        yield "flipped", good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1 :]
        yield "cut", good[:at]
        yield "cut at its start", good[at + 1 :]
        yield "spliced", good[:at] + best[rng.randrange(len(best)) :]
        yield "a part left out", good[:at] + good[at + length :]
        yield "a part doubled", good[: at + length] + good[at:]
        yield "zeroed", good[:at] + bytes(length) + good[at + length :] if any(good[at : at + length]) else b""
        yield "followed by more", good + rng.randbytes(length)
        yield "noise", rng.randbytes(rng.randrange(2000))
        yield "best.pt", best
        yield "a pickle", pickle.dumps(anything(rng), rng.randrange(6))
        yield "of torch, unsealed", saved({"format": 2, "step": anything(rng)})
        yield "sealed noise", sealed(rng.randbytes(length))
        yield "sealed values", sealed(saved(anything(rng)))
        key = rng.choice(sorted(content))
        yield "sealed, a key missing", sealed(saved({k: v for k, v in content.items() if k != key}))
        yield "sealed, a key of another kind", sealed(saved({**content, key: -1}))
        yield "sealed code", sealed(saved({**content, key: Evil()}))
        yield "sealed program", sealed(with_pickle(body, rng.choice(PROGRAMS)))
        yield "sealed and compressed", sealed(archive(body, lambda *entry: entry, zipfile.ZIP_DEFLATED))
        lost = rng.choice(["data.pkl", "/data/0", "/data/1"])
        yield (
            "sealed, an entry lost",
            sealed(archive(body, lambda name, data, lost=lost: None if name.endswith(lost) else (name, data))),
        )
        yield "sealed, entries renamed", sealed(archive(body, lambda name, data: (f"../{name}", data)))
        yield "sealed, entries cut", sealed(archive(body, lambda name, data: (name, data[: len(data) // 2])))
        start = body.rindex(b"PK\6\6") + 48  # where the 64-bit end of a zip archive says that its directory is
        place = struct.pack("<Q", rng.randrange(2**64))
        yield "sealed, a directory elsewhere", sealed(body[:start] + place + body[start + 8 :])


def refusal(files: Checkpoints) -> CheckpointError | None:
    """Why last.pt is refused; None where it is read."""
    try:
        files.read(files.last)
    except CheckpointError as error:
        return error
    return None


def refusals(files: Checkpoints, count: int) -> collections.Counter[str]:
    """How many of `count` files were refused, by kind; anything but a refusal fails."""
    rng, good, best = random.Random(SEED), files.last.read_bytes(), files.best.read_bytes()
    refused: collections.Counter[str] = collections.Counter()
    for number, (kind, content) in zip(range(count), junk(rng, good, best), strict=False):
        files.last.write_bytes(content)
        error = refusal(files)
        assert error is not None, f"seed {SEED}, file {number}: {kind} was read"
        assert error.exit_code == 2
        assert "--resume-from previous" in str(error)
        assert "weights_only" not in str(error)
        assert len(str(error)) < 1000, error
        refused[kind] += 1
    assert not Path("ran").exists()
    print(f"seed {SEED}: {refused.total()} of {count} junk files refused with exit 2: {dict(refused)}")
    return refused


def test_junk_is_refused(files: Checkpoints) -> None:
    assert refusals(files, 345).total() == 345


@pytest.mark.slow
def test_three_thousand_junk_files_are_refused(files: Checkpoints) -> None:
    assert refusals(files, 3000).total() == 3000


def test_a_flipped_bit_is_refused_wherever_it_is(files: Checkpoints) -> None:
    """Also in the parts of a zip archive that carry nothing: none is read as equal, because all bytes are summed."""
    rng, good = random.Random(SEED), files.last.read_bytes()
    refused = 0
    for position in rng.sample(range(8 * len(good)), 100):
        flipped = bytearray(good)
        flipped[position // 8] ^= 1 << position % 8
        files.last.write_bytes(flipped)
        refused += refusal(files) is not None
    print(f"seed {SEED}: {refused} of 100 flipped bits refused, {100 - refused} read")
    assert refused == 100


def test_what_is_forged_bit_by_bit_is_refused_or_read_but_never_anything_else(files: Checkpoints) -> None:
    """Sealed again after the flip, as only a person can: torch may read another number, and nothing worse happens."""
    rng, good = random.Random(SEED), files.last.read_bytes()
    body = good[:-SEAL]
    seen: collections.Counter[str] = collections.Counter()
    for _ in range(300):
        forged, at = bytearray(body), rng.randrange(len(body))
        forged[at] ^= 1 << rng.randrange(8)
        files.last.write_bytes(sealed(bytes(forged)))
        try:
            read_checkpoint(files.last)
            seen["read"] += 1
        except CheckpointError:
            seen["refused"] += 1
    print(f"seed {SEED}: {dict(seen)}")
    assert seen.total() == 300
