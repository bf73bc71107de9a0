"""A vision transformer that merges tokens in every forward, and its attention as other plugins see it."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from mixcore_plugin_mergemix import (
    MergedTap,
    TokenMerging,
    Tokens,
    merge_schedule,
    merge_tokens,
    merged_attention,
    pass_block,
)

from mixcore.api import ConfigError
from mixcore.mixers import create_step
from mixcore.networks.network import Network
from mixcore.testing import PluginContract, TinyConvNet

SIZE = (16, 24)


class TestContract(PluginContract):
    role = "extra"
    plugin = "token_merging"


def vit(depth=3, **options):
    torch.manual_seed(0)
    settings = {"img_size": SIZE, "patch_size": 4, "embed_dim": 16, "depth": depth, "num_heads": 2, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", **{**settings, **options}).eval()


@pytest.fixture
def images():
    return torch.randn(6, 3, *SIZE, generator=torch.Generator().manual_seed(2))


LABELS = torch.arange(6) % 5


def test_what_is_merged_stands_in_all_old_places(images):
    model = vit()
    with torch.no_grad():
        tokens = Tokens.whole(model._pos_embed(model.patch_embed(images)))
        for block, count in zip(model.blocks, merge_schedule(3, 12), strict=True):
            tokens = pass_block(block, tokens, count)
        expected = model.norm(tokens.spread(tokens.values))
        plain = model(images)
        found = merge_tokens(model).forward_features(images)
        assert found.shape == (6, 25, 16)
        torch.testing.assert_close(found, expected)
        assert not torch.allclose(model(images), plain)
        torch.testing.assert_close(merge_tokens(vit(), merge_num=0)(images), plain)
        assert found[0, 1:].unique(dim=0).shape[0] == 12


def test_parameters_copies_and_gradients(images):
    model = merge_tokens(vit())
    assert model.state_dict().keys() == vit().state_dict().keys()
    expected = model(images)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(images), expected, rtol=0, atol=0)
    expected.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def read(model, images):
    return Network(model, attention=True).forward(images, attention=True).attention


def whole_matrix(block):
    """Between all tokens, from the matrix between merged ones."""
    merged = (block.queries @ block.keys.transpose(2, 3) * block.scale).softmax(-1).mean(1)
    rows = []
    for image, places in enumerate(block.places):
        sizes = torch.bincount(places, minlength=merged.shape[1])
        rows.append((merged[image] / sizes)[places][:, places])
    return torch.stack(rows)


def test_attention_is_told_between_all_patches(images):
    model = merge_tokens(vit())
    for name, parameter in model.named_parameters():
        if name.endswith("qkv.weight"):
            torch.nn.init.normal_(parameter, std=0.5)
    blocks = read(model, images)
    assert [block.queries.shape[2] for block in blocks] == [25, 25 - 6, 25 - 10]
    weights, several = torch.rand(6, 25), torch.rand(6, 25, 3)
    for block in blocks:
        matrix = whole_matrix(block)
        torch.testing.assert_close(matrix.sum(2), torch.ones(6, 25))
        torch.testing.assert_close(block.row(), matrix[:, 0, 1:])
        torch.testing.assert_close(block.on_patches(), block.row())
        torch.testing.assert_close(block.received(), matrix[:, 1:, 1:].mean(1))
        torch.testing.assert_close(block.apply(weights), (matrix @ weights[..., None])[..., 0])
        torch.testing.assert_close(block.apply(several), matrix @ several)


def test_the_saliency_pass_is_the_same_on_a_network_that_merges_anyway(images):
    with torch.no_grad():
        plain = merged_attention(vit(), images, 98, 2)
        torch.testing.assert_close(merged_attention(merge_tokens(vit()), images, 98, 2), plain)


@pytest.mark.parametrize(
    ("mix", "labels"), [("mergemix", "weights"), ("cutmix", "transmix"), ("tla", None), ("mergemix", "tla_labels")]
)
def test_it_trains_with_what_reads_attention(mix, labels, images):
    """Whole patches, tokens and attention stay on their grid."""
    for name in ("transmix", "tla"):
        pytest.importorskip(f"mixcore_plugin_{name}", reason=f"mixcore-plugin-{name} is not installed")
    step = create_step(
        merge_tokens(vit()).train(), mix=mix, labels=labels, num_classes=5, iterations=50, image_size=SIZE
    )
    loss, report = step(images, LABELS, iteration=1)
    loss.backward()
    assert loss.isfinite()
    torch.testing.assert_close(report.targets.weights.sum(1), torch.ones(6))
    assert step.model.get_classifier().weight.grad.abs().sum() > 0


def test_it_wraps_the_backbone_of_a_run(tmp_path):
    from mixcore.cli.main import main

    config = tmp_path / "c.toml"
    config.write_text(
        f"""[data]
name = "fake"
batch_size = 8
[backbone]
name = "timm"
model = "vit_tiny_patch16_224"
options = {{ img_size = 32, patch_size = 8, depth = 2, embed_dim = 16, num_heads = 2 }}
[mix]
name = "mergemix"
[[extra]]
name = "token_merging"
merge_num = 49
[schedule]
epochs = 1
[run]
dir = "{tmp_path / "run"}"
device = "cpu"
"""
    )
    assert main(["run", str(config), "--set", "data.train_images=16", "--set", "data.validation_images=8"]) == 0
    from mixcore.run.open import load_run

    model = load_run(tmp_path / "run").model
    assert type(model.blocks).__name__ == "MergingBlocks"
    assert model.blocks.merge_num == 49


def test_refusals(images):
    with pytest.raises(ConfigError, match="token_merging merges tokens of timm's vision transformers"):
        merge_tokens(TinyConvNet(5))
    model = merge_tokens(vit())
    model.set_grad_checkpointing(False)
    with pytest.raises(ConfigError, match="leave token_merging out"):
        model.set_grad_checkpointing(True)
    with pytest.raises(ValueError, match="merge_num"):
        TokenMerging(merge_num=196)
    assert not MergedTap.reads(vit().blocks[0].attn)


@pytest.mark.slow
def test_it_compiles(images):
    model = merge_tokens(vit())
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="eager")(images), model(images))
