"""The model card of an export: README.md with the metadata that model hubs index."""

from __future__ import annotations

import tomli_w
from huggingface_hub import EvalResult, ModelCardData

from mixcore import __version__
from mixcore.export.network import Exported
from mixcore.run.folder import RunFolder

__all__ = ["model_card"]


def model_card(exported: Exported, files: list[str], load: str) -> str:
    """README.md: metadata in YAML, what the network is, what it scored and by which protocol, how it is loaded.

    `load` is code that loads `files`. The value is that of the run's summary; of another predictor, or of a run that
    has not ended, there is none.
    """
    run, config, task = exported.run, exported.run.config, exported.run.task
    name, value = run.folder.resolve().name, _value(exported)
    network = exported.architecture or config.backbone.name
    shape = ",".join(map(str, ("N", task.in_channels, *task.image_size)))
    return "\n".join(
        [
            "---",
            _metadata(exported, name, value),
            "---",
            f"# {name}",
            "",
            f"`{network}` trained on `{config.data.name}` with mixcore {__version__}: {_mixers(exported)}, seed "
            f"{config.seed}. Predictor `{exported.predictor}`, weights of "
            f"`{run.checkpoint.name}` after epoch {run.epoch} of {config.schedule.epochs}.",
            "",
            *([f"The run reports {value[0]} {value[1]:.2f} (protocol `{config.eval.protocol}`).", ""] if value else []),
            f"Input: float32 [{shape}], pixels in [0,1] minus the mean {list(task.mean)}, divided by {list(task.std)}. "
            f"Output: {task.num_classes} logits.",
            "",
            f"Files: {', '.join(f'`{file}`' for file in files)}.",
            "",
            "```python",
            load,
            "```",
            "",
            "The run is repeated by `mixcore run config.toml` with",
            "",
            "```toml",
            tomli_w.dumps(run.resolved).strip(),
            "```",
            "",
        ]
    )


def _mixers(exported: Exported) -> str:
    names = [table.name for table in exported.run.config.mix]
    return f"images mixed by {', '.join(names)}" if names else "images not mixed"


def _value(exported: Exported) -> tuple[str, float] | None:
    summary = RunFolder(exported.run.folder).read_summary()
    if summary.get("predictor") != exported.predictor or not isinstance(summary.get("value"), int | float):
        return None
    return summary["metric"], summary["value"]


def _metadata(exported: Exported, name: str, value: tuple[str, float] | None) -> str:
    config = exported.run.config
    results = None
    if value is not None:
        results = [
            EvalResult(
                task_type="image-classification",
                dataset_type=config.data.name,
                dataset_name=config.data.name,
                dataset_split="validation",
                metric_type="accuracy" if value[0] == "top1" else value[0],
                metric_name=f"{value[0]} ({config.eval.protocol}, seed {config.seed})",
                metric_value=round(value[1], 4),
            )
        ]
    data = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "mixcore", *[table.name for table in config.mix]],
        model_name=name,
        eval_results=results,
    )
    return data.to_yaml()
