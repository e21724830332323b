"""A training step of SFC."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from sfc.config import Backbone, Classifier, SfcOptions
from sfc.data import Dataset
from sfc.data.crops import Augmentation, Crop, Crops
from sfc.method.build import build_method
from sfc.method.image_bank import BLANK, Recipe
from sfc.method.protocol import TrainingSet
from sfc.stages.classifier import Step

WEIGHTS = torch.tensor([0.5, 0.7, 1.2, 1.6])


@pytest.fixture
def batch(tiny: Dataset) -> Crop:
    crops = Crops(tiny, tiny.split("train"), Augmentation(40, flip=False), seed=0)
    return default_collate([crops[Recipe(i, 0)] for i in range(4)])


@pytest.fixture
def step(small: Backbone):
    def build(weights: torch.Tensor = WEIGHTS, **options) -> Step:
        torch.manual_seed(0)
        training = TrainingSet(("a", "b", "c", "d"), (4, 3, 2, 1), 0.0)
        method = build_method(Classifier(options=SfcOptions(**options)), small, training)
        method.weight_C.copy_(weights)
        return Step(method, small)

    return build


def test_the_losses_add_up_and_all_parts_learn(step, batch: Crop) -> None:
    model = step()
    losses = model(batch, 0.0)
    assert set(losses) == {"classification", "prototype", "scale", "total"}
    torch.testing.assert_close(losses["total"], losses["classification"] + losses["prototype"] + losses["scale"])
    losses["total"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_consistency_losses_follow_their_weights(step, batch: Crop) -> None:
    one, two = step()(batch, 0.0), step(prototype_weight=3.2, scale_weight=0.4)(batch, 0.0)
    torch.testing.assert_close(two["prototype"], 2 * one["prototype"])
    torch.testing.assert_close(two["scale"], one["scale"] / 2)
    torch.testing.assert_close(two["classification"], one["classification"])


def test_a_loss_without_weight_is_left_out(step, batch: Crop) -> None:
    assert set(step(prototype_weight=0.0)(batch, 0.0)) == {"classification", "scale", "total"}
    assert set(step(scale_weight=0.0)(batch, 0.0)) == {"classification", "prototype", "total"}
    assert set(step(scale_weight=0.0, prototype_weight=0.0)(batch, 0.0)) == {"classification", "total"}


def test_the_warm_up_raises_the_consistency_losses_linearly(step, batch: Crop) -> None:
    model, full = step(warmup=0.5), step()(batch, 0.0)
    for progress, part in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.9, 1.0)):
        losses = model(batch, progress)
        for name in ("prototype", "scale"):
            torch.testing.assert_close(losses[name], part * full[name])
        torch.testing.assert_close(losses["classification"], full["classification"])


def test_the_scale_loss_is_the_mean_over_views(step, batch: Crop) -> None:
    apart = [step(scales=(scale,))(batch, 0.0)["scale"] for scale in (0.5, 0.75)]
    torch.testing.assert_close(step(scales=(0.5, 0.75))(batch, 0.0)["scale"], sum(apart) / 2)


def test_distribution_weights_reach_both_consistency_losses(step, batch: Crop) -> None:
    flat, steep = step(torch.ones(4))(batch, 0.0), step(torch.full((4,), 2.0))(batch, 0.0)
    torch.testing.assert_close(steep["scale"], 2 * flat["scale"])
    assert flat["prototype"] < steep["prototype"] < 2 * flat["prototype"]
    torch.testing.assert_close(steep["classification"], flat["classification"])


def test_a_blank_image_of_the_bank_gives_numbers(step, tiny: Dataset) -> None:
    crops = Crops(tiny, tiny.split("train"), Augmentation(40, flip=False), seed=0)
    model = step()
    losses = model(default_collate([crops[BLANK], crops[Recipe(0, 0)]]), 0.0)
    losses["total"].backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_what_lies_outside_the_box_does_not_count(step, batch: Crop) -> None:
    painted = batch.image.clone()
    for image, (top, bottom, left, right) in zip(painted, batch.box.tolist(), strict=True):
        outside = torch.ones(40, 40, dtype=torch.bool)
        outside[top:bottom, left:right] = False
        image[:, outside] = 199
    assert not np.array_equal(painted, batch.image)
    assert step()(batch._replace(image=painted), 0.0) == step()(batch, 0.0)


def test_the_distribution_weights_are_no_parameter_and_not_saved(step) -> None:
    model = step()
    assert "method.weight_C" not in model.state_dict() and "method.weight_C" in dict(model.named_buffers())
