"""Maps as functions of tensors, against their slow formulations."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from sfc.method.cam import (
    classifier_map,
    fuse,
    offset_background,
    over_maximum,
    resize,
    unit,
    valid_mask,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


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


def test_the_gradient_of_unit_is_that_of_the_function() -> None:
    assert torch.autograd.gradcheck(unit, torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True))
    x = torch.zeros(1, 4, 2, 2, requires_grad=True)
    unit(x).sum().backward()
    assert torch.isfinite(x.grad).all()
