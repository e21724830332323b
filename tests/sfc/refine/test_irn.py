"""IRN's network on any backbone."""

from __future__ import annotations

import pytest
import torch

from sfc.config import Backbone
from sfc.refine.irn import IRN, infer, pair_edge


@pytest.fixture
def net(small: Backbone) -> IRN:
    torch.manual_seed(0)
    return IRN(small).eval()


@pytest.mark.parametrize("name", ["small", "resnet18", "resnet50", "mobilenet_v2"])
@pytest.mark.parametrize("size", [(64, 64), (33, 50), (1, 1), (5, 66)])
def test_outputs_have_a_quarter_of_the_image_s_size_rounded_up(name: str, size: tuple[int, int]) -> None:
    net = IRN(Backbone(name=name)).eval()
    with torch.inference_mode():
        edge, displacement = net(torch.randn(2, 3, *size))
    a, b = -(-size[0] // 4), -(-size[1] // 4)
    assert edge.shape == (2, 1, a, b) and displacement.shape == (2, 2, a, b)
    assert torch.isfinite(edge).all() and torch.isfinite(displacement).all()


def test_the_backbone_learns_nothing_and_every_other_parameter_does(net: IRN) -> None:
    net.train()
    edge, displacement = net(torch.randn(2, 3, 64, 64))
    (edge.square().mean() + displacement.square().mean()).backward()
    branches = [*net.edge_parameters(), *net.displacement_parameters()]
    assert all(p.grad is not None and p.grad.any() for p in branches)
    assert {id(p) for p in branches} == {id(p) for n, p in net.named_parameters() if not n.startswith("backbone.")}
    assert all(p.grad is None and not p.requires_grad for p in net.backbone.parameters())


def test_batch_norm_of_the_backbone_never_trains() -> None:
    net = IRN(Backbone(name="resnet18", frozen_stages=0, freeze_norm=False)).train()
    before = {k: v.clone() for k, v in net.backbone.state_dict().items()}
    net(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(v, before[k]) for k, v in net.backbone.state_dict().items())


def test_the_mean_displacement_is_taken_off_in_eval_alone(net: IRN) -> None:
    image = torch.randn(1, 3, 32, 32)
    net.running_mean.copy_(torch.tensor([1.0, -2.0]))
    with torch.no_grad():
        (_, evaluated), (_, trained) = net.eval()(image), net.train()(image)
    torch.testing.assert_close(trained - evaluated, torch.tensor([1.0, -2.0])[:, None, None].expand_as(trained))


def test_a_larger_image_than_the_canvas_is_not_cut(net: IRN) -> None:
    image = torch.randn(1, 3, 70, 45)
    with torch.inference_mode():
        assert infer(net, image, 32)[0].shape == (1, 1, 18, 12)
        assert pair_edge(net, image, 32).shape == (1, 18, 12)
        small, padded = infer(net, image, 0)[0], infer(net, image, 96)[0]
    assert small.shape == padded.shape and not torch.allclose(small, padded)


def test_the_edge_of_a_mirrored_image_is_mirrored(net: IRN) -> None:
    image = torch.randn(2, 3, 40, 64)
    with torch.inference_mode():
        edge, mirrored = pair_edge(net, image, 0), pair_edge(net, image.flip(-1), 0)
    torch.testing.assert_close(edge, mirrored.flip(-1))
    assert edge.min() >= 0 and edge.max() <= 1
