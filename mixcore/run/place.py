"""Which process of a run this one is, by the variables that its launcher set."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from mixcore.errors import ConfigError

__all__ = ["Place", "find_place", "integer"]


@attrs.frozen(kw_only=True)
class Place:
    """One process among `world`, as its launcher numbered it."""

    rank: int = 0
    local_rank: int = 0
    """Rank among the processes of this machine: the number of the device it takes."""
    world: int = 1


def find_place(environment: Mapping[str, str]) -> Place:
    """Place of this process by torchrun's variables, else by those of a Slurm job step, else alone.

    Raises ConfigError where a variable is no number, or the numbers do not fit together.
    """
    for rank, local_rank, world in (
        ("RANK", "LOCAL_RANK", "WORLD_SIZE"),
        ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"),
    ):
        if rank in environment and world in environment:
            processes = integer(environment, world, at_least=1)
            number = integer(environment, rank)
            if number >= processes:
                raise ConfigError(
                    f"the environment says {rank}={number} and {world}={processes}; expected a {rank} from 0 to "
                    f"{processes - 1}. {_way_out(rank, world)}"
                )
            local = integer(environment, local_rank) if local_rank in environment else number
            return Place(rank=number, local_rank=local, world=processes)
    return Place()


def integer(environment: Mapping[str, str], name: str, *, at_least: int = 0) -> int:
    """The number that the variable `name` holds. Raises ConfigError naming the variable."""
    text = environment[name]
    # int() would also take spaces, underscores and thousands of digits
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= at_least):
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        raise ConfigError(
            f"the environment variable {name} is {shown!r}; expected a whole number of at least {at_least}. "
            f"{_way_out(name)}"
        )
    return int(text)


def _way_out(*names: str) -> str:
    unset = " ".join(f"-u {name}" for name in names)
    return f"Launchers of several processes set it; for a run of one process leave it out: env {unset} mixcore run ..."
