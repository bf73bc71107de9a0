"""Attention of unmodified timm models, caught by forward hooks: queries and keys, never the softmax matrix.

Covered: `timm.layers.attention.Attention` (ViT, DeiT and their kin, with query and key norms), Swin's window attention,
and PVTv2's where it is not reduced. Attention that rotates queries and keys after their norm, or changes the logits in
another way (RoPE, talking heads, Swin v2), is not covered: a wrong row would be worse than none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixcore.autocast import autocast_off
from mixcore.errors import MixcoreError
from mixcore.networks.layout import prefix_tokens
from mixcore.types import Attention

__all__ = ["AttentionTap", "Hide", "WindowAttention", "attention_taps", "has_attention"]


@attrs.frozen(eq=False, kw_only=True)
class WindowAttention(Attention):
    """Attention inside windows of a grid, as one matrix over the whole grid that is zero between windows.

    Queries and keys are [M·windows,heads,n,d], window by window in row order, of the grid rolled by `-shift` and padded
    to whole windows. `bias` [1,heads,n,n] is added to the logits, and `mask` [windows,n,n] where the grid is rolled.
    """

    bias: Tensor
    mask: Tensor | None
    grid: tuple[int, int]
    window: tuple[int, int]
    shift: tuple[int, int]

    def _matrix(self) -> Tensor:
        """[M·windows,n,n], averaged over heads."""
        with autocast_off(self.queries.device):
            scores = self.scale * self.queries.float() @ self.keys.float().transpose(-2, -1) + self.bias.float()
            if self.mask is not None:
                windows = self.mask.shape[0]
                scores = (scores.unflatten(0, (-1, windows)) + self.mask.float()[:, None]).flatten(0, 1)
            return scores.softmax(-1).mean(1)

    def _split(self, weights: Tensor) -> Tensor:
        """[M,T] to [M·windows,n]; zero on padding."""
        (height, width), (wh, ww) = self.grid, self.window
        grid = weights.unflatten(1, self.grid).roll((-self.shift[0], -self.shift[1]), (1, 2))
        grid = F.pad(grid, (0, -width % ww, 0, -height % wh))
        rows, columns = grid.shape[1] // wh, grid.shape[2] // ww
        return grid.unflatten(2, (columns, ww)).unflatten(1, (rows, wh)).transpose(2, 3).reshape(-1, wh * ww)

    def _merge(self, values: Tensor) -> Tensor:
        """[M·windows,n] to [M,T], padding dropped."""
        (height, width), (wh, ww) = self.grid, self.window
        rows, columns = -(-height // wh), -(-width // ww)
        grid = values.reshape(-1, rows, columns, wh, ww).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return grid[:, :height, :width].roll(self.shift, (1, 2)).flatten(1)

    def received(self) -> Tensor:
        """[M,T] attention that each patch receives from the patches of its window, averaged over all T patches."""
        patches = self.grid[0] * self.grid[1]
        real = self._split(self.queries.new_ones(1, patches, dtype=torch.float32))
        real = real.repeat(self.queries.shape[0] // real.shape[0], 1)
        return self._merge((real[:, :, None] * self._matrix()).sum(1)) / patches

    def apply(self, weights: Tensor) -> Tensor:
        """A w, [M,T], for `weights` [M,T]."""
        return self._merge((self._matrix() * self._split(weights.float())[:, None]).sum(-1))


Hide: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What is done to a hook before it is registered: torch.compiler.disable where the network gets compiled."""


class AttentionTap(Protocol):
    """What listens to one attention block."""

    def listen(self) -> None:
        """Catch queries and keys of the forward that comes."""

    def result(self) -> Attention:
        """The attention of the forward that ended. MixcoreError when it never called the block."""

    def rest(self) -> None:
        """Forget everything and listen no more."""


class _Tap:
    """Keeps the first of each thing that hooks offer while listening."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._heard: dict[str, Any] | None = None

    def listen(self) -> None:
        self._heard = {}

    def rest(self) -> None:
        self._heard = None

    def _keep(self, key: str, value: Any) -> None:
        if self._heard is not None:
            self._heard.setdefault(key, value)

    def _take(self, key: str) -> Any:
        if self._heard is None or key not in self._heard:
            raise MixcoreError(f"the forward never called the attention block {self.name!r}")
        return self._heard[key]


class _TokenTap(_Tap):
    """timm's Attention: what leaves `q_norm` and `k_norm` (identities where a model has none) is [M,heads,P+T,d]."""

    def __init__(self, name: str, block: nn.Module, hide: Hide, model: nn.Module) -> None:
        super().__init__(name)
        self._scale, self._prefix = float(block.scale), prefix_tokens(model)  # type: ignore[arg-type]
        self._class_token = getattr(model, "cls_token", None) is not None
        block.get_submodule("q_norm").register_forward_hook(hide(self._hook_queries))
        block.get_submodule("k_norm").register_forward_hook(hide(self._hook_keys))

    def _hook_queries(self, _module: nn.Module, _arguments: Any, output: Tensor) -> None:
        self._keep("queries", output.detach())

    def _hook_keys(self, _module: nn.Module, _arguments: Any, output: Tensor) -> None:
        self._keep("keys", output.detach())

    def result(self) -> Attention:
        queries, keys = self._take("queries"), self._take("keys")
        return Attention(queries, keys, self._scale, self._prefix, self._class_token)


class _PoolingTap(_Tap):
    """PVTv2: `q` gives [M,T,heads·d], `kv` gives [M,T,2·heads·d] with the keys first."""

    def __init__(self, name: str, block: nn.Module, hide: Hide) -> None:
        super().__init__(name)
        self._scale, self._heads = float(block.scale), int(block.num_heads)  # type: ignore[arg-type]
        block.get_submodule("q").register_forward_hook(hide(self._hook_queries))
        block.get_submodule("kv").register_forward_hook(hide(self._hook_keys))

    def _hook_queries(self, _module: nn.Module, _arguments: Any, output: Tensor) -> None:
        self._keep("queries", output.detach().unflatten(2, (self._heads, -1)).transpose(1, 2))

    def _hook_keys(self, _module: nn.Module, _arguments: Any, output: Tensor) -> None:
        self._keep("keys", output.detach().unflatten(2, (2, self._heads, -1))[:, :, 0].transpose(1, 2))

    def result(self) -> Attention:
        return Attention(self._take("queries"), self._take("keys"), self._scale, 0, False)


class _WindowTap(_Tap):
    """Swin: the block is given the grid, its attention the mask, and `qkv` gives [M·windows,n,3·heads·d]."""

    def __init__(self, name: str, block: Any, hide: Hide) -> None:
        super().__init__(name)
        self._block, self._attention = block, block.attn
        block.register_forward_pre_hook(hide(self._hook_grid))
        self._attention.register_forward_pre_hook(hide(self._hook_mask), with_kwargs=True)
        self._attention.qkv.register_forward_hook(hide(self._hook_qkv))

    def _hook_grid(self, _module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self._keep("grid", tuple(arguments[0].shape[1:3]))

    def _hook_mask(self, _module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._keep("mask", named["mask"] if "mask" in named else (*arguments, None)[1])

    def _hook_qkv(self, _module: nn.Module, _arguments: Any, output: Tensor) -> None:
        qkv = output.detach().unflatten(2, (3, self._attention.num_heads, -1)).transpose(1, 3)
        self._keep("queries", qkv[:, :, 0])
        self._keep("keys", qkv[:, :, 1])
        # the parameters may have moved when somebody asks for the matrix
        self._keep("bias", self._attention._get_rel_pos_bias().detach())

    def result(self) -> Attention:
        return WindowAttention(
            queries=self._take("queries"),
            keys=self._take("keys"),
            scale=float(self._attention.scale),
            prefix=0,
            class_token=False,
            bias=self._take("bias"),
            mask=self._take("mask"),
            grid=self._take("grid"),
            window=tuple(self._block.window_size),
            shift=tuple(self._block.shift_size),
        )


def _kind(module: nn.Module) -> str | None:
    """Which tap fits the module: tokens, pooling (where keys stand for single patches), window, or None."""
    from timm.layers.attention import Attention as TokenAttention
    from timm.models.pvt_v2 import Attention as PoolingAttention
    from timm.models.swin_transformer import SwinTransformerBlock

    if type(module) is TokenAttention:
        return "tokens"
    if type(module) is PoolingAttention and module.sr is None:
        return "pooling"
    return "window" if type(module) is SwinTransformerBlock else None


def has_attention(model: nn.Module) -> bool:
    """Whether `model` has attention blocks that can be read."""
    return any(_kind(module) for module in model.modules())


def attention_taps(model: nn.Module, hide: Hide) -> tuple[AttentionTap, ...]:
    """A tap on every attention block of `model` that can be read, in the order of its modules."""
    taps: list[AttentionTap] = []
    for name, module in model.named_modules():
        kind = _kind(module)
        if kind == "tokens":
            taps.append(_TokenTap(name, module, hide, model))
        elif kind == "pooling":
            taps.append(_PoolingTap(name, module, hide))
        elif kind == "window":
            taps.append(_WindowTap(name, module, hide))
    return tuple(taps)
