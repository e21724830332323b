"""SFC's network and the segmentation network."""

from __future__ import annotations

import pytest
import torch

from sfc.config import Backbone, Segmentation
from sfc.method.cam import valid_mask
from sfc.method.network import Features, SFCNet, score
from sfc.networks.backbone import build_backbone
from sfc.networks.deeplab import build_deeplab


@pytest.fixture
def net(small: Backbone) -> SFCNet:
    torch.manual_seed(0)
    return SFCNet(build_backbone(small), 3)


def test_heads_have_the_published_channels() -> None:
    net = SFCNet(build_backbone(Backbone(name="resnet50")), 20)
    assert [tuple(side.weight.shape[:2]) for side in net.sides] == [(128, 256), (128, 512), (256, 1024), (256, 2048)]
    assert tuple(net.f9.weight.shape) == (2048, 2051, 1, 1) and tuple(net.classifier.weight.shape) == (20, 2048, 1, 1)
    assert all(head.bias is None for head in [net.classifier, net.f9, *net.sides])


def test_features_have_the_last_stage_s_size(net: SFCNet) -> None:
    features = net.features(torch.randn(2, 3, 33, 48))
    h, w = features.logits.shape[-2:]
    assert (h, w) == (9, 12) and features.logits.shape[:2] == (2, 3)
    assert features.image.shape == (2, 3, h, w) and features.semantic.shape[-2:] == (h, w)
    assert features.hierarchical.shape == (2, sum(side.out_channels for side in net.sides), h, w)
    assert net.features(torch.randn(2, 3, 33, 48), hierarchical=False).hierarchical.shape == (2, 0, h, w)


def test_the_score_is_the_mean_of_the_raw_logits(net: SFCNet) -> None:
    features = net.features(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(score(features), features.logits.mean((2, 3)))
    assert score(Features(*(x.bfloat16() for x in features))).dtype == torch.float32


def test_maps_are_masked_by_labels_and_lie_in_their_range(net: SFCNet) -> None:
    features = net.features(torch.randn(2, 3, 32, 32))
    label = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    valid = valid_mask(label, torch.tensor([[0, 32, 0, 32]] * 2), (32, 32), features.logits.shape[-2:])
    cam, prototype = net.maps_of(features, valid)
    for maps in (cam, prototype):
        assert maps.shape == (2, 4, 8, 8) and maps.min() >= 0
        assert (maps[0, 2] == 0).all() and (maps[1, [1, 3]] == 0).all()
    assert prototype.max() <= 1 + 1e-5
    assert net.maps_of(features, valid, prototype=False)[1] is None


def test_correlation_is_what_sets_the_map_apart_from_plain_cam(net: SFCNet) -> None:
    features = net.features(torch.randn(1, 3, 32, 32))
    plain, _ = net.maps_of(features, correlation=False, prototype=False)
    spread, _ = net.maps_of(features, prototype=False)
    torch.testing.assert_close(plain[:, 1:].amax((2, 3)), torch.ones(1, 3), atol=1e-3, rtol=0)
    assert not torch.allclose(plain, spread, atol=1e-2) and spread.std() < plain.std()


def test_the_prototype_map_teaches_the_side_heads_and_not_the_backbone(net: SFCNet) -> None:
    _, prototype = net.maps_of(net.features(torch.randn(1, 3, 32, 32)))
    prototype.sum().backward()
    assert all(side.weight.grad is not None for side in net.sides)
    assert all(p.grad is None for p in net.backbone.parameters())


def test_the_correlated_map_teaches_backbone_classifier_and_f9(net: SFCNet) -> None:
    cam, _ = net.maps_of(net.features(torch.randn(1, 3, 32, 32)), prototype=False)
    (cam[:, 1:] ** 2).sum().backward()
    assert net.f9.weight.grad.abs().sum() > 0 and net.classifier.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in net.backbone.parameters())


def test_the_segmentation_network_gives_logits_at_image_size(small: Backbone) -> None:
    net = build_deeplab(Segmentation(rates=(1, 2)), small, 5).eval()
    with torch.no_grad():
        assert net(torch.randn(2, 3, 33, 50))["out"].shape == (2, 5, 33, 50)
    frozen = build_deeplab(Segmentation(rates=(1, 2)), small.model_copy(update={"frozen_stages": 4}), 5)
    assert not any(p.requires_grad for p in frozen.backbone.parameters())
    assert all(p.requires_grad for p in frozen.classifier.parameters())
