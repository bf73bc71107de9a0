"""What environment.json says about where a run happened."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mixcore.discovery.plugins import Plugins
from mixcore.hooks.version import SPEC_VERSION
from mixcore.run.commit import git_commit
from mixcore.run.numerics import described_numerics

__all__ = ["describe_environment", "plugin_versions"]


def describe_environment(plugins: Plugins, device: torch.device, world: int) -> dict[str, Any]:
    """Versions of python, torch and every plugin of the run, the device, how exactly it computes, and the git commit.

    Plain types only, for environment.json. `git` is None outside a git checkout.
    """
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "mixcore": version("mixcore"),
        "spec_version": list(SPEC_VERSION),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "timm": version("timm"),
        "plugins": plugin_versions(plugins),
        "device": _device_name(device),
        "processes": world,
        "threads": torch.get_num_threads(),
        "numerics": described_numerics(),
        "git": git_commit(Path.cwd()),
    }


def plugin_versions(plugins: Plugins) -> dict[str, str]:
    """Name of each plugin of the run, with the distribution and version that it came from."""
    return {name: f"{distribution} {number}" for _, name, distribution, number, _ in plugins.described()}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
