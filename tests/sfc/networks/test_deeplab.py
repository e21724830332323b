"""DeepLabV2 and DeepLabV3 on our backbones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sfc.config import Backbone, Segmentation
from sfc.networks.backbone import build_backbone
from sfc.networks.deeplab import DeepLabV2, build_deeplab, parameter_groups

IMAGE = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
V2 = Segmentation(architecture="deeplabv2", lr=1.0, head_lr=10.0)


def backbone(name: str, **options: Any) -> Backbone:
    return Backbone.model_validate({"name": name, "frozen_stages": 0} | options)


@pytest.mark.parametrize(("name", "stride"), [("resnet18", 8), ("mobilenet_v2", 16), ("small", 4)])
def test_deeplabv2_works_at_its_backbone_s_stride_and_returns_the_image_s_size(name: str, stride: int) -> None:
    net = build_deeplab(V2, backbone(name), 5).eval()
    with torch.no_grad():
        assert tuple(net.backbone(IMAGE)[-1].shape[-2:]) == (64 // stride, 96 // stride)
        assert net(IMAGE)["out"].shape == (1, 5, 64, 96)


def test_resnet101_is_dilated_by_2_and_4_and_has_four_summed_branches_with_bias() -> None:
    with torch.device("meta"):
        stages = build_backbone(backbone("resnet101"), output_stride=8).stages
    for stage, dilation in ((stages[1], 1), (stages[2], 2), (stages[3], 4)):
        spread = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        assert {m.dilation[0] for m in spread} == {m.padding[0] for m in spread} == {dilation}
    assert {m.stride for s in stages[2:] for m in s.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}
    net = build_deeplab(V2, backbone("small"), 5).eval()
    assert isinstance(net, DeepLabV2) and [c.dilation[0] for c in net.classifier] == [6, 12, 18, 24]
    assert all(c.bias is not None and c.kernel_size == (3, 3) for c in net.classifier)


def test_dilation_keeps_the_parameters_of_the_classifier_s_backbone() -> None:
    one, two = (build_backbone(backbone("resnet18"), output_stride=s) for s in (8, 16))
    assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in two.state_dict().items()}


def test_the_branches_are_added() -> None:
    net = build_deeplab(V2, backbone("small"), 5).eval()
    with torch.no_grad():
        whole = net(IMAGE)["out"]
        parts = 0
        for branch in net.classifier:
            alone = DeepLabV2(net.backbone, 5, (1,)).eval()
            alone.classifier = nn.ModuleList([branch])
            parts = parts + alone(IMAGE)["out"]
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-4)


def test_frozen_batch_norm_stays_and_everything_else_learns() -> None:
    net = build_deeplab(V2, backbone("resnet18", freeze_norm=True), 5).train()
    assert not any(m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    net(IMAGE)["out"].mean().backward()
    assert all(p.grad is not None for p in net.backbone.stem.parameters())


def test_deeplabv2_s_groups_have_the_published_rates_and_decay() -> None:
    net = build_deeplab(V2, backbone("small"), 5)
    optimiser = torch.optim.SGD(parameter_groups(net, V2), momentum=0.9, weight_decay=5e-4)
    assert [(g["lr"], g["weight_decay"]) for g in optimiser.param_groups] == [(1.0, 5e-4), (10.0, 5e-4), (20.0, 0.0)]
    assert [len(g["params"]) for g in optimiser.param_groups[1:]] == [4, 4]
    assert all(p.ndim == 1 for p in optimiser.param_groups[2]["params"])


@pytest.mark.parametrize("architecture", ["deeplabv2", "deeplabv3"])
@pytest.mark.parametrize("frozen", [0, 4])
def test_what_learns_is_in_exactly_one_group(architecture: str, frozen: int) -> None:
    section = Segmentation(architecture=architecture)
    net = build_deeplab(section, backbone("small", frozen_stages=frozen), 5)
    given = [p for group in parameter_groups(net, section) for p in group["params"]]
    assert len(given) == len({id(p) for p in given})
    assert {id(p) for p in given} == {id(p) for p in net.parameters() if p.requires_grad}


def test_each_architecture_has_its_rates_unless_others_are_set() -> None:
    for rates, expected in ((None, [6, 12, 18]), ((1, 2), [1, 2])):
        net = build_deeplab(Segmentation(rates=rates), backbone("small"), 5)
        found = {m.dilation[0] for m in net.classifier.modules() if isinstance(m, nn.Conv2d)}
        assert found == {1, *expected}
