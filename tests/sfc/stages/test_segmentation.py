"""The segmentation model: its loss, its predictions, its figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sfc.config import Backbone, Evaluation, Segmentation
from sfc.data import Split
from sfc.data.crops import Crop
from sfc.data.images import read_mask
from sfc.errors import UserError
from sfc.networks.deeplab import build_deeplab
from sfc.refine.crf import PRESETS
from sfc.scoring.metrics import confusion, summarise
from sfc.scoring.tally import recompute
from sfc.stages.evaluation import predict
from sfc.stages.segmentation import PixelLoss, Schedule, check_batch
from tests.sfc.stages.conftest import EVALUATION, SEGMENTATION, World


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


def train(world: World, folder: Path, split: Split | None = None, **changes) -> list[dict]:
    section = SEGMENTATION.model_copy(update=changes)
    world.run("segmentation", folder, segmentation=section, split=split or world.train)
    return json.loads((folder / "history.json").read_text())


def evaluate(world: World, folder: Path, model: Path, section: Segmentation = SEGMENTATION, **changes) -> dict:
    evaluation = EVALUATION.model_copy(update=changes)
    return world.run("evaluation", folder, segmentation=section, evaluation=evaluation, inputs={"segmentation": model})


def one_image(world: World) -> Split:
    return Split("one", world.train.ids[:1], world.train.labels[:1], "", True)


def test_deeplabv2_trains_and_predicts(world: World, tmp_path: Path) -> None:
    history = train(world, tmp_path, architecture="deeplabv2", loss="balanced", epochs=2, head_lr=0.01)
    assert all(np.isfinite(epoch["total"]) for epoch in history) and len(history) == 2
    section = SEGMENTATION.model_copy(update={"architecture": "deeplabv2"})
    assert 0 <= evaluate(world, tmp_path / "evaluation", tmp_path, section)["miou"] <= 1


def test_iterations_end_the_training_in_the_middle_of_an_epoch(world: World, tmp_path: Path) -> None:
    assert [epoch["epoch"] for epoch in train(world, tmp_path, iterations=4)] == [1, 2]  # three steps and one
    schedule = Schedule(SEGMENTATION.model_copy(update={"iterations": 4}), world.train.labels, 0)
    assert [len(schedule(epoch)) for epoch in range(schedule.epochs)] == [3, 1] and schedule.steps == 4
    whole = Schedule(SEGMENTATION, world.train.labels, 0)
    assert (whole.epochs, whole.steps) == (1, 3) and whole(0) == schedule(0)


def test_the_published_schedule_has_its_20_000_steps() -> None:
    schedule = Schedule(Segmentation(iterations=20_000, batch=10), np.zeros((10582, 20), np.uint8), 0)
    assert (schedule.epochs, schedule.steps) == (19, 20_000)
    assert [len(schedule(epoch)) for epoch in (0, 18)] == [1058, 20_000 - 18 * 1058]


def test_one_image_is_too_few_for_batch_norm_and_enough_without(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"split one has 1.*architecture=deeplabv2"):
        train(world, tmp_path, one_image(world))
    assert len(train(world, tmp_path, one_image(world), architecture="deeplabv2")) == 1


def test_the_workers_share_of_a_batch_is_checked_too(world: World) -> None:
    check_batch(SEGMENTATION, world.train, world_size=2, synchronised=False)
    check_batch(SEGMENTATION, world.train, world_size=4, synchronised=True)
    with pytest.raises(UserError, match="batch 4 over 3 workers gives 1"):
        check_batch(SEGMENTATION, world.train, world_size=3, synchronised=False)


def test_the_numbers_say_their_test_time_and_can_be_computed_again(world: World, tmp_path: Path) -> None:
    metrics = evaluate(world, tmp_path / "crf", world.folder("segmentation"), crf="seam", scales=(1.0,))
    assert metrics["test_time"] == {
        "scales": {"name": "single", "factors": [1.0]},
        "mirror": True,
        "crf": {"name": "seam"} | PRESETS["seam"]._asdict(),
    }
    assert metrics["initialisation"] == "small, no weights"
    again = recompute(tmp_path / "crf")
    assert again.pop("iou") == pytest.approx(metrics["iou"], nan_ok=True)
    assert again == {name: metrics[name] for name in again}
    plain = json.loads((world.folder("evaluation") / "metrics.json").read_text())
    assert plain["test_time"]["crf"] == {"name": "none"} and plain["test_time"]["scales"]["name"] == "custom"


def test_a_crf_leaves_predictions_alone_behind_it_and_goes_on_where_it_stopped(world: World, tmp_path: Path) -> None:
    model = world.folder("segmentation")
    whole = evaluate(world, tmp_path / "a", model, crf="deeplab")
    assert {path.suffix for path in (tmp_path / "a" / "predictions").iterdir()} == {".png"}
    assert len(list((tmp_path / "a" / "predictions").iterdir())) == len(world.val)
    first = tmp_path / "a" / "predictions" / f"{world.val.ids[0]}.png"
    first.unlink()
    assert evaluate(world, tmp_path / "a", model, crf="deeplab") == whole


def test_it_may_start_from_the_classifier_s_backbone(world: World, tmp_path: Path) -> None:
    section = SEGMENTATION.model_copy(update={"lr": 1e-12, "weight_decay": 0.0, "start": "classifier"})
    start = world.folder("classifier")
    world.run("segmentation", tmp_path, segmentation=section)
    trained, classifier = (torch.load(folder / "model.pt", weights_only=True) for folder in (tmp_path, start))
    name = "backbone.stem.0.weight"
    assert torch.allclose(trained[f"backbone.{name}"], classifier[name], atol=1e-9)
