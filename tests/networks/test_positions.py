"""A network's head at every position."""

from __future__ import annotations

import pytest
import timm
import torch

from mixcore.networks.layout import as_map, as_tokens
from mixcore.networks.positions import head_of_positions, position_logits

NETWORKS = {
    "resnet10t": {},
    "convnext_atto": {},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1, 1, 1), "embed_dim": 24, "img_size": 64, "window_size": 2},
    "vit_tiny_patch16_224": {"depth": 1, "img_size": 64},
    "deit_tiny_distilled_patch16_224": {"depth": 1, "img_size": 64},
    "vit_base_patch16_siglip_gap_224": {"depth": 1, "img_size": 64, "embed_dim": 48, "num_heads": 2},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_each_position_is_classified_alone(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **NETWORKS[name]).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = model.forward_features(images)
        found = position_logits(model, features, 64, 64)
        maps = as_map(model, features, 64, 64)
        assert found.shape == (2, 5, *maps.shape[2:])
        # one position alone, through the head by hand
        changed = features.clone()
        if features.ndim == 3:
            spot = changed[:, -1].clone()
            changed[:] = spot[:, None]
        elif maps.shape[1] == features.shape[1]:
            changed[:] = features[:, :, -1:, -1:]
        else:
            changed[:] = features[:, -1:, -1:]
        torch.testing.assert_close(found[:, :, -1, -1], model.forward_head(changed), atol=1e-5, rtol=1e-5)


def test_without_a_norm_in_the_head_the_mean_is_the_logit() -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=5).eval()
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        found = position_logits(model, model.forward_features(images), 96, 64)
        torch.testing.assert_close(found.mean((2, 3)), model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_mean_of_positions_through_the_head_and_to_the_classifier(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **NETWORKS[name]).eval()
    with torch.no_grad():
        features = model.forward_features(torch.randn(3, 3, 64, 64))
        means = as_tokens(model, features).mean(1)
        found = head_of_positions(model, features, means)
        assert found.shape == (3, 5)
        inputs = head_of_positions(model, features, means, pre_logits=True)
        classifiers = model.get_classifier()
        classifiers = classifiers if isinstance(classifiers, tuple) else (classifiers,)
        by_hand = sum(classifier(inputs) for classifier in classifiers) / len(classifiers)
        torch.testing.assert_close(found, by_hand, atol=1e-5, rtol=1e-5)
        if getattr(model, "global_pool", "") == "avg":  # its own logits are of the mean of all positions
            torch.testing.assert_close(found, model.forward_head(features), atol=1e-5, rtol=1e-5)
