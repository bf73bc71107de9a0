from __future__ import annotations

import attrs
import pytest
import torch

from mixcore.data.checks import check_task
from mixcore.data.named import evaluation_sets, for_evaluation
from mixcore.errors import ConfigError, DataError
from mixcore.types import Data, Resident, Task

TASK = Task(num_classes=3, in_channels=1, image_size=(4, 4), mean=(0.5,), std=(0.25,))


def resident(count: int) -> Resident:
    return Resident(images=torch.zeros(count, 1, 4, 4, dtype=torch.uint8), labels=torch.arange(count) % 3)


def test_sets_by_name_with_the_validation_set_first() -> None:
    data = Data(train=resident(9), validation=resident(3), task=TASK, evaluation={"hard": resident(5)})
    assert list(evaluation_sets(data)) == ["val", "hard"]
    assert for_evaluation(data, "val").validation is data.validation
    assert for_evaluation(data, "hard").validation is data.evaluation["hard"]
    with pytest.raises(ConfigError, match=r"no evaluation set 'easy'; this run's data has: val, hard$"):
        for_evaluation(data, "easy")
    with pytest.raises(DataError, match='called "val"'):
        evaluation_sets(attrs.evolve(data, evaluation={"val": resident(5)}))


@pytest.mark.parametrize("names", [("ant", "bee"), "abc", (1, 2, 3)])
def test_class_names_are_one_string_per_class(names: object) -> None:
    check_task(attrs.evolve(TASK, class_names=("ant", "bee", "fly")))
    with pytest.raises(DataError, match="class_names"):
        check_task(attrs.evolve(TASK, class_names=names))
