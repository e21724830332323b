"""The segmentation model: its loss, its predictions, its figures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from sfc.config import Backbone, Evaluation, Segmentation
from sfc.data.crops import Crop
from sfc.data.images import read_mask
from sfc.metrics import confusion, summarise
from sfc.models.deeplab import build_deeplab
from sfc.stages.evaluation import predict
from sfc.stages.segmentation import PixelLoss
from tests.sfc.stages.conftest import World


@pytest.fixture
def net(small: Backbone) -> nn.Module:
    torch.manual_seed(0)
    return build_deeplab(Segmentation(rates=(1, 2)), small, 3).eval()


def crop(mask: torch.Tensor) -> Crop:
    image = torch.randint(0, 255, (len(mask), 3, *mask.shape[1:]), dtype=torch.uint8)
    box = torch.tensor([[0, mask.shape[1], 0, mask.shape[2]]] * len(mask))
    return Crop(image, box, torch.zeros(len(mask), 2), mask)


def test_the_loss_is_the_mean_over_labelled_pixels(net: nn.Module, small: Backbone) -> None:
    mask = torch.randint(0, 3, (2, 16, 16), dtype=torch.uint8)
    mask[:, :5] = 255
    batch = crop(mask)
    logits = net((batch.image.float() / 255 - 0.5) / 0.25)["out"]
    chosen = logits.log_softmax(1).gather(1, mask.long().clamp(max=2)[:, None])[:, 0]
    torch.testing.assert_close(PixelLoss(net, small)(batch, 0.0)["total"], -chosen[mask != 255].mean())


def test_a_batch_without_a_labelled_pixel_has_no_loss(net: nn.Module, small: Backbone) -> None:
    loss = PixelLoss(net, small)(crop(torch.full((2, 16, 16), 255, dtype=torch.uint8)), 0.0)["total"]
    loss.backward()
    assert loss == 0 and all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_predictions_are_probabilities_at_image_size(net: nn.Module) -> None:
    image = torch.randn(1, 3, 21, 30)
    with torch.inference_mode():
        probability = predict(net, image, Evaluation(scales=(1.0, 0.5)))
        mirrored = predict(net, image.flip(-1), Evaluation(scales=(1.0, 0.5)))
        plain = predict(net, image, Evaluation(scales=(1.0,), mirror=False))
        expected = net(image)["out"].softmax(1)[0]
    assert probability.shape == (3, 21, 30) and probability.min() >= 0
    torch.testing.assert_close(probability.sum(0), torch.ones(21, 30))
    torch.testing.assert_close(probability, mirrored.flip(-1), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(plain, expected)


def test_a_single_pixel_is_predicted(net: nn.Module) -> None:
    with torch.inference_mode():
        assert predict(net, torch.randn(1, 3, 1, 1), Evaluation(scales=(0.5, 1.0))).shape == (3, 1, 1)


def test_the_figures_are_those_of_the_predictions_on_the_reporting_split(world: World) -> None:
    folder = world.folder("evaluation")
    predictions = {path.stem: read_mask(path) for path in (folder / "predictions").iterdir()}
    assert set(predictions) == set(world.val.ids)
    matrix = sum(confusion(world.data.mask(name), predictions[name], 5) for name in world.val.ids)
    assert np.array_equal(np.load(folder / "confusion.npy"), matrix) and matrix.sum() == 4 * 32 * 32
    metrics = json.loads((folder / "metrics.json").read_text())
    expected = summarise(matrix, world.counts)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_training_leaves_its_network_and_its_history(world: World) -> None:
    folder = world.folder("segmentation")
    assert {path.name for path in folder.iterdir()} == {"model.pt", "history.json"}
    (epoch,) = json.loads((folder / "history.json").read_text())
    assert 0 < epoch["total"] < 10
