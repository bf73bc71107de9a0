"""Attention caught from unmodified timm models equals the softmax matrix that they compute when not fused."""

from __future__ import annotations

import functools

import pytest
import timm
import torch
from timm.layers import set_fused_attn
from torch import Tensor, nn

from mixcore.errors import MixcoreError
from mixcore.networks.network import Network


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def vit(name: str = "vit_tiny_patch16_224", **options: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        name, num_classes=5, img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=2, **options
    )


def matrices(module: nn.Module, images: Tensor, dropout: str) -> list[Tensor]:
    """Head-averaged softmax matrices, read before their dropout, of a network built without fused attention."""
    kept: list[Tensor] = []
    handles = [
        part.register_forward_pre_hook(lambda _, arguments: kept.append(arguments[0].detach().mean(1)))
        for name, part in module.named_modules()
        if name.endswith(dropout)
    ]
    module(images)
    for handle in handles:
        handle.remove()
    return kept


@pytest.fixture
def unfused():
    set_fused_attn(False)
    yield
    set_fused_attn(True)


@pytest.mark.parametrize(
    ("name", "options", "prefix"),
    [
        ("vit_tiny_patch16_224", {}, 1),
        ("vit_tiny_patch16_224", {"qk_norm": True}, 1),
        ("vit_tiny_patch16_224", {"reg_tokens": 4}, 5),
        ("deit_tiny_distilled_patch16_224", {}, 2),
    ],
)
def test_class_rows_are_those_of_the_network(images, unfused, name, options, prefix) -> None:
    module = vit(name, **options).eval()
    expected = matrices(module, images, "attn_drop")
    caught = Network(module, attention=True).forward(images, attention=True).attention
    assert len(caught) == len(expected) == 2
    weights, several = torch.rand(2, 16 + prefix), torch.rand(2, 16 + prefix, 15)
    for block, matrix in zip(caught, expected, strict=True):
        torch.testing.assert_close(block.row(), matrix[:, 0, prefix:])
        torch.testing.assert_close(block.received(), matrix[:, prefix:, prefix:].mean(1))
        torch.testing.assert_close(block.apply(weights), torch.einsum("mij,mj->mi", matrix, weights))
        torch.testing.assert_close(block.apply(several), torch.einsum("mij,mjs->mis", matrix, several))


def test_fused_attention_is_read_the_same(images) -> None:
    rows = []
    for fused in (False, True):
        set_fused_attn(fused)
        module = vit().eval()
        assert module.blocks[0].attn.fused_attn is fused
        rows.append(Network(module, attention=True).forward(images, attention=True).attention[-1].row())
    torch.testing.assert_close(rows[0], rows[1])


def test_reading_changes_nothing(images) -> None:
    module = vit(drop_path_rate=0.5, attn_drop_rate=0.1).train()
    torch.manual_seed(1)
    plain = module(images)
    torch.manual_seed(1)
    output = Network(module, attention=True).forward(images, attention=True)
    torch.testing.assert_close(output.logits, plain, rtol=0, atol=0)
    assert not output.attention[0].queries.requires_grad


def test_registers_alone_are_no_class_token(images) -> None:
    module = vit(class_token=False, reg_tokens=2, global_pool="avg").eval()
    block = Network(module, attention=True).forward(images, attention=True).attention[-1]
    assert block.received().shape == (2, 16)
    with pytest.raises(MixcoreError, match="no class token"):
        block.row()


def test_rows_are_float32_under_autocast(images) -> None:
    autocast = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    block = Network(vit(), attention=True, autocast=autocast).forward(images, attention=True).attention[-1]
    assert block.queries.dtype == torch.bfloat16
    with autocast():
        assert block.row().dtype == torch.float32
        whole = block.apply(torch.ones(2, 17))
    torch.testing.assert_close(whole, torch.ones(2, 17), rtol=1e-6, atol=1e-6)


def swin(**options: object) -> nn.Module:
    torch.manual_seed(0)
    settings = {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 8, "num_heads": (2,), "depths": (2,)}
    module = timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **{**settings, **options})
    for block in module.layers[0].blocks:
        nn.init.normal_(block.attn.relative_position_bias_table)
    return module


def gathered(block: nn.Module, windows: Tensor, rows: int) -> Tensor:
    """The whole matrix [M,T,T] from its windows [M·windows,n,n], place by place."""
    (wh, ww), (sh, sw), side = block.window_size, block.shift_size, 8
    whole = torch.zeros(rows, 64, 64)
    per_image = windows.unflatten(0, (rows, -1))
    for i in range(side):
        for j in range(side):
            # where this position lies after the roll by -shift
            y, x = (i - sh) % side, (j - sw) % side
            number, inside = (y // wh) * (side // ww) + x // ww, (y % wh) * ww + x % ww
            for k in range(side):
                for n in range(side):
                    v, u = (k - sh) % side, (n - sw) % side
                    if (v // wh) * (side // ww) + u // ww == number:
                        whole[:, i * side + j, k * side + n] = per_image[:, number, inside, (v % wh) * ww + u % ww]
    return whole


def test_swin_windows_are_put_together(images) -> None:
    module = swin().eval()
    blocks = module.layers[0].blocks
    assert not any(blocks[0].shift_size)
    assert all(blocks[1].shift_size)
    windows = matrices(module, images, "attn_drop")
    caught = Network(module, attention=True).forward(images, attention=True).attention
    weights, several = torch.rand(2, 64), torch.rand(2, 64, 3)
    for block, attention, window in zip(blocks, caught, windows, strict=True):
        whole = gathered(block, window, 2)
        torch.testing.assert_close(whole.sum(-1), torch.ones(2, 64))
        torch.testing.assert_close(attention.received(), whole.mean(1))
        torch.testing.assert_close(attention.apply(weights), torch.einsum("mij,mj->mi", whole, weights))
        torch.testing.assert_close(attention.apply(several), torch.einsum("mij,mjs->mis", whole, several))
        with pytest.raises(MixcoreError, match="no class token"):
            attention.row()


def test_swin_grids_that_windows_do_not_divide(images) -> None:
    module = swin(window_size=3).eval()
    for attention in Network(module, attention=True).forward(images, attention=True).attention:
        assert attention.received().shape == (2, 64)
        assert bool((attention.received() > 0).all())
        assert bool((attention.apply(torch.ones(2, 64)) <= 1 + 1e-6).all())
        # the inverse of splitting is merging
        weights = torch.rand(2, 64)
        torch.testing.assert_close(attention._merge(attention._split(weights)), weights)


def test_pvt_blocks_that_reduce_are_left_out(images, unfused) -> None:
    torch.manual_seed(0)
    module = timm.create_model(
        "pvt_v2_b0",
        num_classes=5,
        depths=(1, 1, 1, 2),
        embed_dims=(8, 8, 16, 16),
        num_heads=(1, 1, 2, 2),
        sr_ratios=(8, 4, 2, 1),
    ).eval()
    images = torch.randn(2, 3, 64, 64)
    expected = matrices(module, images, "attn_drop")[-2:]
    caught = Network(module, attention=True).forward(images, attention=True).attention
    assert len(caught) == 2
    for block, matrix in zip(caught, expected, strict=True):
        torch.testing.assert_close(block.received(), matrix.mean(1))
