"""Kinds of labels, and what a stage of a network is named by."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["LabelKind", "Stage"]

LabelKind: TypeAlias = Literal["class", "soft", "multi_label", "value"]
Stage: TypeAlias = str | int
