"""What passes between the core and plugins.

Letters, here and in every tensor module: N batch, M mixed images, C channels, H W pixels, h w any smaller grid,
K classes, S sources of a mixed image, T patch tokens, P prefix tokens, D features.
"""

from __future__ import annotations

from mixcore.types.analysis import RunData, Track
from mixcore.types.batch import Batch
from mixcore.types.data import Augment, Data, Resident, Task
from mixcore.types.metric import Metric
from mixcore.types.mix import Mix, Targets
from mixcore.types.names import LabelKind, Stage
from mixcore.types.output import Attention, ForwardOutput
from mixcore.types.part import Part
from mixcore.types.step import Step

__all__ = [
    "Attention",
    "Augment",
    "Batch",
    "Data",
    "ForwardOutput",
    "LabelKind",
    "Metric",
    "Mix",
    "Part",
    "Resident",
    "RunData",
    "Stage",
    "Step",
    "Targets",
    "Task",
    "Track",
]
