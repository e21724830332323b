"""Pixel correlation: against the slow formulation, its gradient against numeric ones, in every precision."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from sfc.method.correlation import pixel_correlation


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def naive_correlation(cam: Tensor, feature: Tensor) -> Tensor:
    """m A A in float64, pixel by pixel."""
    n, k, h, w = cam.shape
    m, f = cam.double().flatten(2), feature.double().flatten(2)
    for image in range(n):
        pixels = [f[image, :, i] / (f[image, :, i].norm() + 1e-5) for i in range(h * w)]
        a = torch.zeros(h * w, h * w, dtype=torch.float64)
        for i, j in itertools.product(range(h * w), repeat=2):
            a[i, j] = max(0.0, float(pixels[i] @ pixels[j]))
        for j in range(h * w):
            a[:, j] /= a[:, j].sum() + 1e-5
        m[image] = m[image] @ a @ a
    return m.view(n, k, h, w)


def test_pixel_correlation_is_two_steps_over_the_normalised_affinity() -> None:
    cam, feature = torch.rand(2, 3, 4, 5), torch.randn(2, 6, 4, 5)
    torch.testing.assert_close(
        pixel_correlation(cam, feature).double(), naive_correlation(cam, feature), rtol=1e-4, atol=1e-6
    )


def test_pixel_correlation_keeps_the_total_of_a_constant_map_and_follows_similarity() -> None:
    feature = torch.zeros(1, 2, 2, 4)
    feature[:, 0, :, :2], feature[:, 1, :, 2:] = 1, 1
    cam = torch.zeros(1, 1, 2, 4)
    cam[..., 0, 0] = 1
    spread = pixel_correlation(cam, feature)
    assert (spread[..., :2] > 0.2).all() and (spread[..., 2:] == 0).all()
    torch.testing.assert_close(
        pixel_correlation(torch.ones_like(cam), feature), torch.ones_like(cam), atol=1e-4, rtol=0
    )


def test_pixel_correlation_gives_gradients_to_both_arguments() -> None:
    cam, feature = torch.rand(1, 2, 3, 3, requires_grad=True), torch.randn(1, 4, 3, 3, requires_grad=True)
    (pixel_correlation(cam, feature) ** 2).sum().backward()
    assert cam.grad.abs().sum() > 0 and feature.grad.abs().sum() > 0


def test_pixel_correlation_of_blank_features_is_finite() -> None:
    assert torch.isfinite(pixel_correlation(torch.rand(1, 2, 3, 3), torch.zeros(1, 4, 3, 3))).all()


def test_its_gradient_is_that_of_the_function() -> None:
    cam = torch.rand(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    feature = torch.randn(2, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pixel_correlation, (cam, feature))


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_its_gradient_for_one_argument_alone(needed: tuple[bool, bool]) -> None:
    cam = torch.rand(1, 2, 3, 3, dtype=torch.float64, requires_grad=needed[0])
    feature = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=needed[1])
    assert torch.autograd.gradcheck(pixel_correlation, (cam, feature))


def test_its_gradient_at_blank_pixels_is_finite() -> None:
    cam, feature = torch.rand(1, 2, 3, 3, requires_grad=True), torch.randn(1, 4, 3, 3)
    feature[..., 1:] = 0
    feature.requires_grad_()
    pixel_correlation(cam, feature).sum().backward()
    assert torch.isfinite(cam.grad).all() and torch.isfinite(feature.grad).all()


def test_half_precision_rounds_the_large_product_alone() -> None:
    cam, feature = torch.rand(2, 3, 6, 6), torch.randn(2, 16, 6, 6)
    half = feature.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = pixel_correlation(cam, half)
    rounded.sum().backward()
    assert rounded.dtype == torch.float32 and half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(rounded, pixel_correlation(cam, feature), rtol=0.02, atol=0.02)
