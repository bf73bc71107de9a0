"""The network that an export writes: one predictor of a run, whole, with nothing of the run hooked to it."""

from __future__ import annotations

import copy

import attrs
import torch
from torch import Tensor, nn

from mixcore.errors import ConfigError, MixcoreError
from mixcore.networks.interface import Passes, logits_of
from mixcore.run.open import LoadedRun

__all__ = ["Exported", "exported"]

ROWS = 3
"""Images that an export is verified with."""
RTOL, ATOL = 1e-3, 1e-5
"""How far logits of what was written may be from those of the run, relative and absolute."""


@attrs.frozen(eq=False, kw_only=True)
class Exported:
    """A network on the CPU in eval mode, from normalised images [N,C,H,W] float32 to logits [N,K]."""

    run: LoadedRun
    predictor: str
    network: nn.Module
    images: Tensor
    """[3,C,H,W] float32, standard normal, that what is written is verified with."""
    logits: Tensor
    """[3,K] float32, what the run's own predictor makes of them."""

    @property
    def architecture(self) -> str | None:
        """Name of timm's model that the network is, or was made from; None of another network."""
        name = (getattr(self.network, "pretrained_cfg", None) or {}).get("architecture")
        return None if name is None else str(name)

    def verify(self, what: str, logits: Tensor) -> None:
        """Refuse what gives other logits than the run: MixcoreError with the largest difference."""
        if logits.shape != self.logits.shape:
            raise MixcoreError(
                f"{what} gives {list(logits.shape)} of {ROWS} images, and the run {list(self.logits.shape)}; nothing "
                "was kept"
            )
        if not torch.allclose(logits, self.logits, rtol=RTOL, atol=ATOL):
            apart = (logits - self.logits).abs().max().item()
            raise MixcoreError(
                f"{what} gives other logits than the run, up to {apart:.3g} apart; nothing was kept. Try another --to, "
                "and report it"
            )


def exported(run: LoadedRun, predictor: str | None = None) -> Exported:
    """The network of `predictor`, by default the one whose value is the run's. ConfigError for one that it lacks.

    A head of its own takes the classifier's place; ConfigError where it cannot.
    """
    name = run.predictor if predictor is None else predictor
    if name not in run.predictors:
        raise ConfigError(f"--predictor {name}: this run has {', '.join(run.predictors)}; name one of them")
    trained, head = run.predictors[name]
    network = run.bare_network()
    network.load_state_dict(trained.state_dict())
    if head is not None:
        _replace_classifier(network, copy.deepcopy(head).cpu(), name)
    channels, (height, width) = run.task.in_channels, run.task.image_size
    images = torch.randn(ROWS, channels, height, width, generator=torch.Generator().manual_seed(0))
    return Exported(
        run=run, predictor=name, network=network, images=images, logits=_logits(run, trained, head, images).cpu()
    )


@torch.no_grad()
def _logits(run: LoadedRun, network: nn.Module, head: nn.Module | None, images: Tensor) -> Tensor:
    passes, sent = Passes(network), images.to(run.device)
    if head is None:
        return logits_of(passes.logits(sent)).float()
    return logits_of(head(passes.head(passes.first(sent), pre_logits=True))).float()


def _replace_classifier(network: nn.Module, head: nn.Module, predictor: str) -> None:
    own = getattr(network, "get_classifier", lambda: None)()
    names = [name for name, module in network.named_modules() if module is own]
    shapes = [module.weight.shape for module in (own, head) if isinstance(module, nn.Linear)]
    if not names or len(shapes) < 2 or shapes[0] != shapes[1]:
        raise ConfigError(
            f"predictor {predictor!r} has a head of its own ({head}), which does not fit in the place of the network's "
            f"classifier ({own}); export another with --predictor"
        )
    network.set_submodule(names[0], head.eval())
