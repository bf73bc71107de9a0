"""The classifier of a network, and how many classes it tells apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

__all__ = ["class_count", "classes_in", "classifiers"]


def classifiers(network: nn.Module) -> Iterator[nn.Linear]:
    """The linear classifiers that `get_classifier()` gives: one, none without classes, two of a distilled network."""
    found = getattr(network, "get_classifier", lambda: None)()
    for module in found if isinstance(found, tuple) else (found,):
        if isinstance(module, nn.Linear):
            yield module


def _classifier(network: nn.Module) -> nn.Linear | nn.Conv2d | None:
    found = getattr(network, "get_classifier", lambda: None)()
    return found if isinstance(found, nn.Linear | nn.Conv2d) else None


def class_count(network: nn.Module) -> int | None:
    """Classes of the network's classifier; None where it has none, several, or one of another kind."""
    classifier = _classifier(network)
    return None if classifier is None else classifier.weight.shape[0]


def classes_in(state: Mapping[str, Tensor], network: nn.Module) -> int | None:
    """Classes of the classifier in `state`, tensors of a network built like this one; None where it cannot be told."""
    classifier = _classifier(network)
    names = [name for name, module in network.named_modules() if module is classifier]
    weight = state.get(f"{names[0]}.weight") if names else None
    return None if weight is None else weight.shape[0]
