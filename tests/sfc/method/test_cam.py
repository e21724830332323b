"""Maps as functions of tensors, against the slow formulations of the method."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfc.method.cam import (
    classifier_map,
    fuse,
    offset_background,
    over_maximum,
    prototype_map,
    resize,
    unit,
    valid_mask,
)


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


@pytest.mark.parametrize("side", [32, 33, 48, 65, 100, 321, 512])
@pytest.mark.parametrize("stride", [4, 16, 32])
def test_valid_mask_is_the_nearest_resize_of_a_full_mask(side: int, stride: int) -> None:
    boxes = torch.randint(0, side + 1, (64, 2, 2)).sort(dim=2).values.flatten(1)
    boxes[0], boxes[1] = torch.tensor([0, side, 0, side]), torch.zeros(4, dtype=torch.int64)
    labels = torch.randint(0, 2, (64, 3))
    size = (-(-side // stride), -(-side // stride))
    full = torch.zeros(64, 4, side, side)
    for n, (top, bottom, left, right) in enumerate(boxes.tolist()):
        for channel in [0, *(labels[n].nonzero().flatten() + 1).tolist()]:
            full[n, channel, top:bottom, left:right] = 1
    expected = F.interpolate(full, size, mode="nearest")
    assert torch.equal(valid_mask(labels, boxes, (side, side), size), expected)


def test_valid_mask_of_every_size_picks_the_pixels_of_nearest() -> None:
    for side, out in itertools.product(range(32, 200, 7), range(1, 33)):
        column = torch.arange(side, dtype=torch.float32)
        picked = F.interpolate(column[None, None, None], (1, out), mode="nearest")[0, 0, 0]
        right = side // 2
        got = valid_mask(torch.ones(1, 1), torch.tensor([[0, 1, 0, right]]), (1, side), (1, out))[0, 0, 0]
        assert torch.equal(got, (picked < right).float()), (side, out)


def test_classifier_map_is_normalised_and_its_background_counts_absent_classes() -> None:
    logits = torch.randn(2, 3, 4, 4) * 5
    cam = classifier_map(logits)
    assert cam.shape == (2, 4, 4, 4) and cam.min() >= 0 and cam.max() <= 1
    torch.testing.assert_close(cam[:, 1:].amax((2, 3)), torch.ones(2, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(cam[:, 0], 1 - cam[:, 1:].amax(1))
    valid = valid_mask(torch.tensor([[1, 0, 0], [0, 0, 1]]), torch.tensor([[0, 64, 0, 64]] * 2), (64, 64), (4, 4))
    masked = classifier_map(logits, valid)
    torch.testing.assert_close(masked[:, 0], cam[:, 0])
    assert (masked[0, 2:] == 0).all() and (masked[1, 1:3] == 0).all()
    torch.testing.assert_close(masked[0, 1], cam[0, 1])


def test_classifier_map_without_activation_is_background_alone() -> None:
    cam = classifier_map(-torch.rand(1, 3, 4, 4))
    assert (cam[:, 0] == 1).all() and (cam[:, 1:] == 0).all()


def test_maps_are_float32_whatever_comes_in() -> None:
    half = torch.rand(1, 3, 4, 4).bfloat16()
    assert classifier_map(half).dtype == torch.float32
    assert prototype_map(torch.rand(1, 2, 4, 4), half).dtype == torch.float32


@pytest.mark.parametrize("offset", [0.0, 0.4])
def test_background_wins_where_it_and_the_offset_exceed_twice_the_foreground(offset: float) -> None:
    cam = torch.rand(2, 4, 9, 9)
    before = cam.clone()
    wins = offset_background(cam, offset).argmax(1) == 0
    assert torch.equal(wins, cam[:, 0] + offset > 2 * cam[:, 1:].amax(1))
    assert wins.any() and not wins.all()
    assert torch.equal(cam, before)
    assert torch.equal(offset_background(cam[0], offset), offset_background(cam, offset)[0])


def test_fusion_is_a_mean_with_the_argmax_of_the_published_sum() -> None:
    a, b = torch.rand(4, 8, 8), torch.rand(4, 8, 8)
    fused = fuse({"a": a, "b": b}, 0.7)
    assert torch.equal(fused.argmax(0), (a + 0.7 * b).argmax(0))
    assert (
        fused.max() <= torch.maximum(a, b).max()
        and torch.equal(fuse({"a": a, "b": b}, 0), a)
        and torch.equal(fuse({"a": a}, 0.7), a)
    )
    torch.testing.assert_close(fuse({"a": a, "b": a, "c": a}, 0.3), a)


def test_unit_and_over_maximum_survive_zeros() -> None:
    assert (unit(torch.zeros(1, 3, 2, 2)) == 0).all() and (over_maximum(torch.zeros(1, 3, 2, 2)) == 0).all()
    torch.testing.assert_close(unit(torch.randn(2, 8, 3, 3)).norm(dim=1), torch.ones(2, 3, 3), atol=1e-4, rtol=0)


def test_resize_to_the_same_size_is_the_tensor_itself() -> None:
    x = torch.rand(1, 2, 5, 7)
    assert resize(x, (5, 7), align_corners=True) is x and resize(x, (3, 4), align_corners=True).shape == (1, 2, 3, 4)
