"""A run of several processes on one machine listens to nobody but itself."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

LISTENING = "0A"
"""State of a socket in /proc/net/tcp."""


@pytest.mark.ddp
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the system's list of sockets is read from /proc")
def test_nproc_listens_on_the_loopback_interface_alone(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = ("--set", "schedule.epochs=2000", "--set", "mix.pause=0.02")
    command = [sys.executable, "-m", "mixcore", "run", str(toy_config), "--nproc", "2", *settings]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        try:
            deadline = time.monotonic() + 120
            while not Path("run/metrics.jsonl").exists() and run.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            family = processes_under(run.pid)
            found = listening(family)
        finally:
            run.terminate()
        assert run.wait(120) == 75
    assert len(family) >= 3, "the launcher and two processes"
    assert found, "the processes that exchange gradients were not seen to listen at all"
    assert [address for address in found if not address.is_loopback] == []


@pytest.mark.ddp
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the system's list of sockets is read from /proc")
def test_the_contract_on_two_processes_listens_on_the_loopback_interface_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere")  # what the check does not set itself fails
    found = []
    with subprocess.Popen([sys.executable, "-c", TWO_PROCESSES]) as check:
        while check.poll() is None:
            with suppress(FileNotFoundError, ProcessLookupError):  # one of them ended just now
                found += listening(processes_under(check.pid))
            time.sleep(0.01)
    assert check.returncode == 0
    assert found, "the two processes were not seen to listen at all"
    assert [address for address in found if not address.is_loopback] == []


TWO_PROCESSES = """
from mixcore.testing import CHECKS, Harness, Subject

if __name__ == "__main__":
    CHECKS["two_processes"](Harness(Subject(plugin="none")))
"""


def processes_under(pid: int) -> list[int]:
    """The process and all that it started, themselves or through others."""
    family = [pid]
    for parent in family:
        for thread in Path(f"/proc/{parent}/task").glob("*"):
            family += [int(child) for child in (thread / "children").read_text().split()]
    return family


def listening(family: list[int]) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Addresses on which a process of the family waits for connections."""
    links = [str(link.readlink()) for pid in family for link in Path(f"/proc/{pid}/fd").glob("*") if link.is_symlink()]
    sockets = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTENING and inode in sockets:
                found.append(address(local.partition(":")[0]))
    return found


def address(written: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as the kernel writes it: words of 32 bits in the machine's own byte order."""
    words = [int(written[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(written), 8)]
    found = ipaddress.ip_address(b"".join(words))
    return getattr(found, "ipv4_mapped", None) or found


def test_addresses_are_read_as_the_kernel_writes_them() -> None:
    if sys.byteorder != "little":
        pytest.skip("the examples are those of a little-endian machine")
    assert address("0100007F").is_loopback
    assert address("00000000000000000000000001000000").is_loopback
    assert address("0000000000000000FFFF00000100007F").is_loopback
    assert not address("00000000000000000000000000000000").is_loopback
    assert not address("00000000").is_loopback
