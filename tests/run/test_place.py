"""Who a process is, by the variables of its launcher."""

from __future__ import annotations

import pytest

from mixcore.cli.main import main
from mixcore.errors import ConfigError
from mixcore.run.place import Place, find_place, integer

TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}
SLURM = {"SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_STEP_NUM_TASKS": "4"}


def test_the_place_is_what_the_launcher_says() -> None:
    assert find_place({}) == Place(rank=0, local_rank=0, world=1)
    assert find_place(TORCHRUN) == Place(rank=5, local_rank=1, world=8)
    assert find_place(SLURM) == Place(rank=3, local_rank=3, world=4)
    assert find_place({**SLURM, **TORCHRUN}).world == 8
    # a batch script that calls mixcore without srun is one process, however many tasks the job has
    assert find_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == Place()


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({**TORCHRUN, "RANK": "abc"}, "the environment variable RANK is 'abc'; expected a whole number of at least 0"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK is '-1'"),
        ({**TORCHRUN, "RANK": "1" * 5000}, "RANK is '1111"),
        ({**TORCHRUN, "LOCAL_RANK": ""}, "LOCAL_RANK is ''"),
        ({**TORCHRUN, "WORLD_SIZE": "0"}, "WORLD_SIZE is '0'; expected a whole number of at least 1"),
        ({**TORCHRUN, "WORLD_SIZE": "4"}, "RANK=5 and WORLD_SIZE=4; expected a RANK from 0 to 3"),
        ({**SLURM, "SLURM_PROCID": "3.0"}, "SLURM_PROCID is '3.0'"),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "٤"}, "SLURM_STEP_NUM_TASKS is '٤'"),
    ],
)
def test_what_no_launcher_says_is_refused_by_name(places: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        find_place(places)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 400


def test_numbers_have_a_least_value() -> None:
    assert integer({"MASTER_PORT": "29500"}, "MASTER_PORT", at_least=1) == 29500
    with pytest.raises(ConfigError, match="MASTER_PORT is '0'"):
        integer({"MASTER_PORT": "0"}, "MASTER_PORT", at_least=1)


@pytest.mark.parametrize(
    ("name", "value"), [("RANK", "abc"), ("LOCAL_RANK", "x"), ("MASTER_PORT", "http"), ("SLURM_JOB_ID", "7_1")]
)
def test_the_command_refuses_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], toy_config: object, name: str, value: str
) -> None:
    for variable in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    for variable, number in {"RANK": "1", "WORLD_SIZE": "2", name: value}.items():
        monkeypatch.setenv(variable, number)
    assert main(["run", str(toy_config)]) == 2
    assert f"mixcore: the environment variable {name} is {value!r}; expected a whole number" in capsys.readouterr().err
