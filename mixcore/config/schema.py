"""What a configuration may say: one keyword-only class per table, its fields the keys of the table.

The string below a field is its help. A plugin's own keys are not here: they are the fields of its class.
"""

from __future__ import annotations

import re
from typing import Any, Literal, TypeAlias

import attrs
from attrs.validators import and_, ge, gt, le, lt, min_len, optional

from mixcore.hooks.roles import TABLE_ROLES

__all__ = [
    "PROTOCOL",
    "PROTOCOLS",
    "DataTable",
    "EvalConfig",
    "MixTable",
    "OptimizerConfig",
    "PluginTable",
    "RunConfig",
    "RunSection",
    "ScheduleConfig",
    "TrainConfig",
    "table_class",
]

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
Clock: TypeAlias = Literal["epoch", "iteration"]


MOST = 2**31 - 1
"""What any number of images, epochs or iterations stays below."""
MOST_WORKERS = 1024
LARGEST = 1e30
"""Largest number that float32 weights can be multiplied by and stay finite for a while."""


def _finite(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not abs(value) <= LARGEST:
        raise ValueError(f"'{attribute.name}' must be a finite number of at most {LARGEST:g}: {value}")


_NOT_NEGATIVE = and_(_finite, ge(0))
_POSITIVE = and_(_finite, gt(0))
_COUNT = and_(ge(1), le(MOST))


def _each_below_one(_instance: object, attribute: attrs.Attribute[Any], value: tuple[float, float]) -> None:
    if not all(0 <= beta < 1 for beta in value):
        raise ValueError(f"'{attribute.name}' must each be in [0, 1): {value}")


@attrs.frozen(kw_only=True)
class PluginTable:
    """A table that names a plugin; every key that is not the core's belongs to that plugin."""

    name: str = attrs.field(validator=min_len(1))
    """Name of the plugin, as `mixcore plugins` lists it."""
    options: dict[str, Any] = attrs.field(factory=dict)
    """The plugin's own keys, not yet checked against its class."""
    path: str = attrs.field(default="", eq=False)
    """Where the table stands, such as `mix[1]`; for messages only."""


@attrs.frozen(kw_only=True)
class MixTable(PluginTable):
    """`[mix]`, or one of several `[[mix]]` that take turns."""

    probability: float | None = attrs.field(default=None, validator=optional(and_(ge(0), le(1))))
    """Chance in [0, 1] that this mixer gets the batch; absent: an equal share of what the others leave."""
    group_size: int | None = attrs.field(default=None, validator=optional(_COUNT))
    """Samples that are mixed among themselves; absent: the batch of one process. Divides every process's share."""


@attrs.frozen(kw_only=True)
class DataTable(PluginTable):
    """`[data]`: the data set and how batches are read from it."""

    batch_size: int = attrs.field(default=100, validator=_COUNT)
    """Images per iteration, over all processes together."""
    workers: int = attrs.field(default=0, validator=and_(ge(0), le(MOST_WORKERS)))
    """Reading processes of each training process, for data sets that do not fit in memory; 0: read in the same."""
    drop_last: bool = True
    """Whether the incomplete last batch of an epoch is dropped."""


def table_class(role: str) -> type[PluginTable]:
    """The class of a role's table: that of all, but where the core has keys of its own in it."""
    return {"mix": MixTable, "data": DataTable}.get(role, PluginTable)


@attrs.frozen(kw_only=True)
class OptimizerConfig:
    """`[optimizer]`, in timm's words."""

    name: str = attrs.field(default="sgd", validator=min_len(1))
    """Name of an optimizer of timm's factory: sgd, adamw, lamb, ..."""
    lr: float = attrs.field(default=0.1, validator=_NOT_NEGATIVE)
    """Base learning rate."""
    momentum: float = attrs.field(default=0.9, validator=and_(ge(0), lt(1)))
    """Momentum in [0, 1), of optimizers that have one."""
    weight_decay: float = attrs.field(default=1e-4, validator=_NOT_NEGATIVE)
    """Weight decay of the parameters that are not exempt."""
    betas: tuple[float, float] | None = attrs.field(default=None, validator=optional(_each_below_one))
    """Decay rates of the running averages, each in [0, 1); absent: the optimizer's own."""
    eps: float | None = attrs.field(default=None, validator=optional(_POSITIVE))
    """Term that keeps the denominator from 0; absent: the optimizer's own."""
    nesterov: bool = False
    """Nesterov momentum; off also for "sgd", where timm would have it on."""
    exempt: tuple[str, ...] = ()
    """Spared from weight decay: "norm_bias" (all biases, all of at most one dimension), "no_weight_decay" (what the
    network itself declares), globs on names."""
    options: dict[str, Any] = attrs.field(factory=dict)
    """Further arguments of the optimizer, handed on as they are."""


@attrs.frozen(kw_only=True)
class ScheduleConfig:
    """`[schedule]`: how long the run is and how the learning rate falls."""

    name: Literal["cosine", "constant"] = "cosine"
    """Shape of the learning rate over the run."""
    epochs: int = attrs.field(default=200, validator=_COUNT)
    """Length of the run."""
    clock: Clock = "epoch"
    """Whether the learning rate changes once an epoch or every iteration."""
    min_lr: float = attrs.field(default=0.0, validator=_NOT_NEGATIVE)
    """Learning rate that the cosine falls to."""
    warmup_epochs: int = attrs.field(default=0, validator=and_(ge(0), le(MOST)))
    """Epochs of linear warm-up, always counted in iterations."""
    warmup_ratio: float = attrs.field(default=1e-5, validator=and_(ge(0), le(1)))
    """Factor in [0, 1] at which the warm-up starts."""


def _repeatable(train: TrainConfig, _attribute: attrs.Attribute[Any], value: bool) -> None:
    if value and train.benchmark:
        raise ValueError(
            "'deterministic' = true makes a CUDA run repeat bit for bit, and 'benchmark' = true picks the kernels that "
            "were fastest this time, others at another; set one of them to false"
        )


def _ema_warmup(value: bool | str) -> bool | str:
    """Two of the names are the booleans of before there were names."""
    return {"none": False, "timm": True}.get(value, value) if isinstance(value, str) else value


def _linear_alone(train: TrainConfig, _attribute: attrs.Attribute[Any], value: int) -> None:
    if (train.ema_warmup == "linear") != bool(value):
        raise ValueError(
            f"'ema_warmup' is {train.ema_warmup!r} and 'ema_warmup_epochs' {value}; a linear warm-up needs a number of "
            "epochs, and no other takes one"
        )


@attrs.frozen(kw_only=True)
class TrainConfig:
    """`[train]`: how an iteration is computed."""

    precision: Precision = "fp32"
    """Number format of the networks' forward passes; fp16 scales the loss."""
    accumulate: int = attrs.field(default=1, validator=_COUNT)
    """Iterations per optimizer step; each loss is divided by it."""
    compile: bool = False
    """Whether networks go through torch.compile."""
    channels_last: bool = False
    """Whether images and networks use the channels-last memory format."""
    matmul: Literal["highest", "high", "medium"] = "highest"
    """Number format inside float32 matrix products, torch.set_float32_matmul_precision: "high" is TF32 on CUDA."""
    benchmark: bool = False
    """Whether cuDNN tries its kernels and takes the fastest."""
    deterministic: bool = attrs.field(default=False, validator=_repeatable)
    """Whether a CUDA run repeats bit for bit, by kernels that do, which are slower; not together with `benchmark`."""
    clip_grad: float | None = attrs.field(default=None, validator=optional(_POSITIVE))
    """Largest norm of the gradient, over all parameters; absent: not clipped."""
    sync_bn: bool = False
    """Whether BatchNorm statistics are shared by all processes."""
    checkpoint: bool = False
    """Activation checkpointing: less memory, more time."""
    ema_decay: float | None = attrs.field(default=None, validator=optional(and_(gt(0), lt(1))))
    """Decay in (0, 1) of the averaged weights, evaluated as predictor "ema"; absent: none are kept."""
    ema_warmup: bool | Literal["none", "timm", "linear"] = attrs.field(default=False, converter=_ema_warmup)
    """How that decay grows at the start: "timm" (or true) from 0, "linear" from 0.9 of it; "none" (or false): not."""
    ema_warmup_epochs: int = attrs.field(default=0, validator=[_linear_alone, and_(ge(0), le(MOST))])
    """Epochs of a linear warm-up of that decay, counted in iterations; only with "linear", and needed there."""
    ema_buffers: bool = True
    """Whether statistics of BatchNorm are averaged as weights are; false: those of the network as it is."""
    precise_bn: int = attrs.field(default=0, validator=and_(ge(0), le(MOST)))
    """Training images on which statistics of BatchNorm are measured after every epoch, before validation; 0: none."""
    max_skipped: int = attrs.field(default=20, validator=_COUNT)
    """fp16: the run stops after so many optimizer steps in a row were skipped because scaled gradients overflowed."""
    log_every: int = attrs.field(default=50, validator=_COUNT)
    """Iterations between two lines of the log."""


_EPOCHS = "[1-9][0-9]{0,8}"
PROTOCOL = re.compile(
    rf"last|best(?P<best_legacy>-legacy)?|best-last-(?P<best>{_EPOCHS})"
    rf"|median-last-(?P<median>{_EPOCHS})(?P<median_legacy>-legacy)?"
)
PROTOCOLS = (
    '"last", "best" or "median-last-N" such as "median-last-10", "best-last-N", and "best-legacy" or '
    '"median-last-N-legacy" as scripts of published tables count'
)
"""The same in words."""


def _protocol(_instance: object, _attribute: attrs.Attribute[Any], value: str) -> None:
    if not PROTOCOL.fullmatch(value):
        raise ValueError(f"'protocol' must be {PROTOCOLS}: \"{value}\"")


@attrs.frozen(kw_only=True)
class EvalConfig:
    """`[eval]`: which accuracy counts."""

    protocol: str = attrs.field(default="last", validator=_protocol)
    """Accuracy that the run reports: "last" epoch's, "best", "best-last-N", "median-last-N", or a legacy form."""
    predictor: str | None = attrs.field(default=None, validator=optional(min_len(1)))
    """Predictor that picks best.pt; absent: what the mixer suggests, or "model"."""
    batch_size: int | None = attrs.field(default=None, validator=optional(_COUNT))
    """Images per evaluation batch, over all processes; absent: that of training."""


@attrs.frozen(kw_only=True)
class RunSection:
    """`[run]`: where and on what the run happens; nothing here is part of the configuration's digest."""

    dir: str | None = attrs.field(default=None, validator=optional(min_len(1)))
    """Run folder; absent: runs/<name of the file>-<what --set changed>."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; "auto" takes CUDA where there is one."""
    keep_every: int | None = attrs.field(default=None, validator=optional(_COUNT))
    """Epochs after which weights are kept, each time as checkpoints/epoch-<n>.pt; absent: only the best and newest."""
    trace_hooks: bool = False
    """Whether every hook call is timed (TensorBoard, perf/hooks) and marked for profilers."""
    port: int | None = attrs.field(default=None, validator=optional(and_(ge(1), le(65535))))
    """Port at which the tasks of a Slurm step meet; absent: one that follows from the job. `--nproc` needs none."""


@attrs.frozen(kw_only=True)
class RunConfig:
    """A whole configuration."""

    seed: int = attrs.field(default=0, validator=and_(ge(0), le(2**63 - 1)))
    """Key of every random draw."""
    data: DataTable
    backbone: PluginTable
    mix: tuple[MixTable, ...] = ()
    """Mixers that take turns; none: nothing is mixed."""
    labels: PluginTable | None = None
    """Label policy; absent: what the mixer suggests, or "weights"."""
    loss: PluginTable | None = None
    """Loss; absent: what the mixer suggests, or "soft_cross_entropy"."""
    extra: tuple[PluginTable, ...] = ()
    """Plugins without a role."""
    optimizer: OptimizerConfig = attrs.field(factory=OptimizerConfig)
    schedule: ScheduleConfig = attrs.field(factory=ScheduleConfig)
    train: TrainConfig = attrs.field(factory=TrainConfig)
    eval: EvalConfig = attrs.field(factory=EvalConfig)
    run: RunSection = attrs.field(factory=RunSection)

    def plugin_tables(self) -> dict[str, tuple[PluginTable, ...]]:
        """Role -> the tables that name its plugins; empty where the configuration has none."""
        values = {role: getattr(self, role) for role in TABLE_ROLES}
        return {
            role: value if isinstance(value, tuple) else () if value is None else (value,)
            for role, value in values.items()
        }
