"""The losses of SFC."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sfc.method.cam import over_maximum
from sfc.method.losses import classification_loss, prototype_consistency, scale_consistency
from sfc.networks.deeplab import pixel_loss


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_classification_loss_is_the_mean_over_views_and_prefers_the_truth() -> None:
    label = torch.tensor([[1.0, 0.0, 1.0]])
    right, wrong = (2 * label - 1) * 4, (1 - 2 * label) * 4
    good, bad = classification_loss([right, right], label), classification_loss([wrong, wrong], label)
    assert good < 0.05 < 3 < bad
    torch.testing.assert_close(classification_loss([right, wrong], label), (good + bad) / 2)


def test_prototype_consistency_is_zero_for_equal_maps_whatever_the_prototype_s_height() -> None:
    prototype = torch.rand(2, 4, 5, 5) * 3
    weight = torch.tensor([0.5, 1.0, 1.5])
    assert prototype_consistency(over_maximum(prototype), prototype, weight) == 0
    assert prototype_consistency(over_maximum(prototype) + 0.1, prototype, weight) > 0


def test_prototype_consistency_by_pixel() -> None:
    cam, prototype, weight = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4), torch.tensor([0.5, 2.0])
    total = 0.0
    for n in range(2):
        for k, w in enumerate([1.0, 0.5, 2.0]):
            scaled = prototype[n, k] / (prototype[n, k].max() + 1e-5)
            total += w * float((cam[n, k] - scaled).abs().sum())
    assert float(prototype_consistency(cam, prototype, weight)) == pytest.approx(total / (2 * 3 * 16), rel=1e-5)


def test_scale_consistency_by_pixel_over_the_foreground_of_the_labels() -> None:
    full, small = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 4, 4)
    label, weight = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([0.5, 2.0])
    resized = F.interpolate(full, (4, 4), mode="bilinear", align_corners=True)
    total = 0.0
    for n in range(2):
        for c in range(2):
            present = label[n, c]
            difference = (present * resized[n, c + 1] - present * small[n, c + 1]).abs()
            total += float(weight[c] * difference.sum())
    assert float(scale_consistency(full, small, label, weight)) == pytest.approx(total / (2 * 2 * 16), rel=1e-5)


def test_scale_consistency_is_zero_for_equal_maps_and_blind_to_background_and_absent_classes() -> None:
    cam = torch.rand(1, 3, 4, 4)
    label, weight = torch.tensor([[1.0, 0.0]]), torch.ones(2)
    other = cam.clone()
    other[:, 0] += 0.5
    other[:, 2] += 0.5
    assert scale_consistency(cam, cam, label, weight) == 0
    assert scale_consistency(cam, other, label, weight) == 0
    assert scale_consistency(cam, other, torch.ones(1, 2), weight) > 0


def test_gradients_flow_into_both_maps_of_both_losses() -> None:
    weight, label = torch.tensor([0.5, 1.5]), torch.ones(2, 2)
    for loss in (
        lambda a, b: prototype_consistency(a, b, weight),
        lambda a, b: scale_consistency(a, b, label, weight),
    ):
        a, b = torch.rand(2, 3, 6, 6, requires_grad=True), torch.rand(2, 3, 6, 6, requires_grad=True)
        loss(a, b).backward()
        assert a.grad[:, 1:].abs().sum() > 0 and b.grad[:, 1:].abs().sum() > 0


def test_a_class_with_twice_the_weight_is_pulled_twice_as_hard() -> None:
    cam = torch.rand(1, 3, 4, 4, requires_grad=True)
    prototype = torch.rand(1, 3, 4, 4)
    gradients = []
    for weight in ([1.0, 1.0], [1.0, 2.0]):
        (gradient,) = torch.autograd.grad(prototype_consistency(cam, prototype, torch.tensor(weight)), cam)
        gradients.append(gradient)
    torch.testing.assert_close(gradients[1][:, :2], gradients[0][:, :2])
    torch.testing.assert_close(gradients[1][:, 2], 2 * gradients[0][:, 2])


@pytest.fixture
def pixels() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.tensor([0, 0, 0, 1, 2, 255])[torch.randint(0, 6, (2, 8, 9), generator=generator)]
    return torch.randn(2, 3, 8, 9, generator=generator), target.to(torch.uint8)


def test_the_pixel_loss_is_the_mean_over_labelled_pixels(pixels) -> None:
    logits, target = pixels
    expected = F.cross_entropy(logits, target.long(), ignore_index=255)
    torch.testing.assert_close(pixel_loss(logits, target), expected)


def test_the_balanced_loss_weighs_background_and_foreground_alike(pixels) -> None:
    logits, target = pixels
    each = F.cross_entropy(logits, target.long().clamp(max=2), reduction="none")
    background, foreground = each[target == 0].mean(), each[(target != 0) & (target != 255)].mean()
    torch.testing.assert_close(pixel_loss(logits, target, balanced=True), (background + foreground) / 2)
    only = torch.where(target == 0, target, 255)
    torch.testing.assert_close(pixel_loss(logits, only, balanced=True), background / 2)


@pytest.mark.parametrize("balanced", [False, True])
def test_no_label_at_all_is_no_loss_and_no_gradient(pixels, balanced: bool) -> None:
    logits = pixels[0].requires_grad_()
    loss = pixel_loss(logits, torch.full((2, 8, 9), 255, dtype=torch.uint8), balanced=balanced)
    loss.backward()
    assert loss == 0 and not logits.grad.any()
