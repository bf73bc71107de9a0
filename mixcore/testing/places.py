"""Where in a plugin an error was raised."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pluggy
import timm
import torch
import torchvision

import mixcore

__all__ = ["place_of"]

_MODULES = (mixcore, pluggy, timm, torch, torchvision)
OTHERS = tuple(f"{Path(module.__file__ or '').parent}{os.sep}" for module in _MODULES)
"""Folders whose lines of a traceback say nothing about the plugin."""


def place_of(error: BaseException) -> str:
    """The innermost line of the plugin that led to it, as " (file:line: code)"; nothing where it called nothing."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(OTHERS)]
    return f" ({own[-1].filename}:{own[-1].lineno}: {own[-1].line})" if own else ""
