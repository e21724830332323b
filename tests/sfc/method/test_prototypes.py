"""Prototypes and their maps: against the slow formulation, their gradient against numeric ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfc.method.cam import valid_mask
from sfc.method.prototypes import _Similarity, prototype_map


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def naive_prototypes(cam: Tensor, feature: Tensor, valid: Tensor | None) -> Tensor:
    """The N x K x D x h x w formulation."""
    weighted = torch.cat([cam[:, :1] * 0.3, cam[:, 1:]], 1)
    seeds = F.one_hot(weighted.argmax(1), cam.shape[1]).permute(0, 3, 1, 2).double()
    if valid is not None:
        seeds = seeds * valid
    product = seeds[:, :, None] * feature.double()[:, None]
    prototype = product.sum((3, 4), keepdim=True) / seeds.sum((2, 3)).clamp(min=1)[:, :, None, None, None]
    return torch.cosine_similarity(prototype.expand_as(product), feature.double()[:, None].expand_as(product), 2).relu()


@pytest.mark.parametrize("masked", [False, True])
def test_prototype_map_equals_the_naive_formulation(masked: bool) -> None:
    cam, feature = torch.rand(3, 4, 5, 6), torch.randn(3, 7, 5, 6)
    valid = None
    if masked:
        label = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1]])
        box = torch.tensor([[0, 80, 0, 96], [16, 64, 0, 50], [0, 30, 32, 96]])
        valid = valid_mask(label, box, (80, 96), (5, 6))
    torch.testing.assert_close(
        prototype_map(cam, feature, valid).double(), naive_prototypes(cam, feature, valid), rtol=1e-4, atol=1e-6
    )


def test_a_class_without_seeds_gets_a_map_of_zeros() -> None:
    cam = torch.rand(1, 3, 4, 4)
    cam[:, 2] = -1
    maps = prototype_map(cam, torch.randn(1, 5, 4, 4))
    assert (maps[:, 2] == 0).all() and maps[:, :2].sum() > 0


def test_the_background_wins_seeds_at_three_tenths_of_its_height() -> None:
    feature = torch.eye(2)[:, :, None].repeat(1, 1, 1).view(1, 2, 1, 2)
    cam = torch.tensor([[[0.9, 0.9]], [[0.28, 0.26]]])[None]
    maps = prototype_map(cam, feature)
    torch.testing.assert_close(maps[0, :, 0], torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


def test_no_gradient_reaches_the_map_that_chooses_the_seeds() -> None:
    cam, feature = torch.rand(1, 3, 4, 4, requires_grad=True), torch.randn(1, 5, 4, 4, requires_grad=True)
    prototype_map(cam, feature).sum().backward()
    assert cam.grad is None and feature.grad.abs().sum() > 0


def test_prototype_map_leaves_its_argument_alone() -> None:
    cam = torch.rand(1, 3, 4, 4)
    before = cam.clone()
    prototype_map(cam, torch.randn(1, 5, 4, 4))
    assert torch.equal(cam, before)


def test_the_gradient_is_that_of_the_function() -> None:
    share = torch.rand(2, 3, 6, dtype=torch.float64)
    share[:, 2] = 0  # a class without seeds
    feature = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: _Similarity.apply(x, share), feature)


def test_the_gradient_at_blank_pixels_is_finite() -> None:
    feature = torch.randn(1, 4, 3, 3)
    feature[..., 1:] = 0
    feature.requires_grad_()
    prototype_map(torch.rand(1, 2, 3, 3), feature).sum().backward()
    assert torch.isfinite(feature.grad).all()


def test_the_map_is_float32_whatever_comes_in() -> None:
    assert prototype_map(torch.rand(1, 2, 4, 4), torch.rand(1, 3, 4, 4).bfloat16()).dtype == torch.float32
