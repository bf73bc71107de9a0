"""mixcore: train image classifiers with mixup methods, compare the methods fairly, or write a new one.

`create_mixer` and `create_step` bring any method into any loop, `as_backbone` any network to them, `load_run` opens a
trained run. They are looked up when asked for, so that importing mixcore imports neither torch nor timm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixcore.mixers import create_mixer, create_step
    from mixcore.networks.backbone import as_backbone
    from mixcore.run.open import load_run

    __version__: str

__all__ = ["__version__", "as_backbone", "create_mixer", "create_step", "load_run"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mixcore")
    if name in ("create_mixer", "create_step"):
        from mixcore import mixers

        return getattr(mixers, name)
    if name == "load_run":
        from mixcore.run.open import load_run

        return load_run
    if name == "as_backbone":
        from mixcore.networks import backbone

        return backbone.as_backbone
    raise AttributeError(f"module 'mixcore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
