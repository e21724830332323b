"""The training loop, by the stage that uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sfc.config import Backbone, Classifier, Config, SfcOptions, Training
from sfc.data import Dataset
from sfc.data.crops import Augmentation, Crop, Crops
from sfc.errors import Diverged
from sfc.method.image_bank import Recipe
from sfc.runtime.engine import LocalEngine
from sfc.runtime.training import CHECKPOINT, HISTORY, WEIGHTS, Batches, build_optimiser, fit, poly, split_evenly
from sfc.runtime.warn import WARNINGS
from sfc.stages import classifier
from sfc.stages.spec import Work

SECTION = Classifier(
    epochs=2, batch=4, bank_images=2, crop=32, resize_long=(24, 40), lr=0.05, head_lr=0.05, precision="fp32"
)


class Stop(Exception):
    """An interruption."""


def train(folder: Path, data: Dataset, backbone: Backbone, *, stop_after: int = 0, seed: int = 4, **changes: Any):
    """Train into `folder`; the network's state and the history."""
    folder.mkdir(exist_ok=True)

    def on_report(metrics: dict[str, float], state: dict[str, Any]) -> None:
        if metrics["epoch"] == stop_after:
            raise Stop

    split = data.split("train")
    options = {key: changes.pop(key) for key in list(changes) if key in SfcOptions.model_fields}
    section = SECTION.model_copy(update=changes | {"options": SfcOptions(**options)})
    settings = Config().model_copy(update={"classifier": section, "backbone": backbone, "seed": seed})
    classifier.run(Work(folder, settings, {}, data, split, split), LocalEngine(1, on_report=on_report))
    return torch.load(folder / WEIGHTS, weights_only=True), json.loads((folder / HISTORY).read_text())


def without_speed(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in epoch.items() if k != "images_per_second"} for epoch in history]


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: Dataset):
    """An uninterrupted run."""
    small = Backbone(name="small", mean=(0.5,) * 3, std=(0.25,) * 3, frozen_stages=0, freeze_norm=False)
    folder = tmp_path_factory.mktemp("whole")
    return (folder, *train(folder, tiny, small))


def test_a_run_leaves_its_network_and_its_history_alone(whole) -> None:
    folder, _, history = whole
    assert {path.name for path in folder.iterdir()} - {WARNINGS} == {WEIGHTS, HISTORY}
    assert [epoch["epoch"] for epoch in history] == [1, 2]
    for epoch in history:
        assert epoch["total"] == pytest.approx(epoch["classification"] + epoch["prototype"] + epoch["scale"], rel=1e-5)
        assert epoch["images_per_second"] > 0 and min(epoch.values()) > 0


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(
    whole, tiny: Dataset, small: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        train(tmp_path, tiny, small, stop_after=1)
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT}
    torch.rand(7)
    state, history = train(tmp_path, tiny, small)
    assert same(state, whole[1]) and without_speed(history) == without_speed(whole[2])


def test_the_image_bank_is_where_it_was_after_an_interruption(tiny: Dataset, small: Backbone, tmp_path: Path) -> None:
    expected, history = train(tmp_path / "whole", tiny, small, batch=1)
    with pytest.raises(Stop):
        train(tmp_path / "cut", tiny, small, batch=1, stop_after=1)
    state, resumed = train(tmp_path / "cut", tiny, small, batch=1)
    assert same(state, expected) and without_speed(resumed) == without_speed(history)


def test_a_run_that_was_interrupted_after_its_last_epoch_is_finished(whole, tiny, small, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(tmp_path, tiny, small, stop_after=2)
    state, history = train(tmp_path, tiny, small)
    assert same(state, whole[1]) and without_speed(history) == without_speed(whole[2])


def test_a_finished_run_is_not_trained_again(whole, tiny: Dataset, small: Backbone) -> None:
    folder = whole[0]
    before = (folder / WEIGHTS).stat().st_mtime_ns
    assert same(train(folder, tiny, small, stop_after=1)[0], whole[1])
    assert (folder / WEIGHTS).stat().st_mtime_ns == before


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(whole, tiny, small, tmp_path: Path) -> None:
    state, history = train(tmp_path / "same", tiny, small)
    assert same(state, whole[1]) and without_speed(history) == without_speed(whole[2])
    assert not same(train(tmp_path / "other", tiny, small, seed=5, epochs=1)[0], whole[1])


def test_it_learns(tiny: Dataset, small: Backbone, tmp_path: Path) -> None:
    _, history = train(tmp_path, tiny, small, epochs=30, prototype_weight=0.0, scale_weight=0.0)
    assert history[-1]["total"] < 0.95 * history[0]["total"]


def test_a_loss_that_is_not_finite_stops_the_run_with_its_name_and_epoch(tiny, small, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"classification.* in epoch 1, step [23] of 3 \(rate 1e\+30\)"):
        train(tmp_path, tiny, small, lr=1e30, head_lr=1e30)
    assert not (tmp_path / WEIGHTS).exists()


@pytest.mark.parametrize(
    ("step", "steps", "power", "factor"),
    [(0, 10, 0.9, 1.0), (5, 10, 0.9, 0.5358867), (9, 10, 0.9, 0.1258925), (7, 10, 0, 1.0), (5, 10, 1, 0.5)],
)
def test_poly(step: int, steps: int, power: float, factor: float) -> None:
    assert poly(step, steps, power) == pytest.approx(factor, rel=1e-6)


class Probe(nn.Module):
    """A loss with a known gradient: `slope` for its one weight."""

    def __init__(self, slope: float = 1.0, losses: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.weight, self.slope, self.broken = nn.Parameter(torch.zeros(1)), slope, losses
        self.values: list[float] = []
        self.progress: list[float] = []

    def forward(self, crop: Crop, progress: float) -> dict[str, torch.Tensor]:
        self.values.append(float(self.weight.detach()))
        self.progress.append(progress)
        losses = {"one": self.slope * self.weight.sum(), "two": 0 * self.weight.sum()}
        if progress >= 0.5:
            losses |= {name: losses[name] / 0 * float("inf") for name in self.broken}
        return losses | {"total": losses["one"] + losses["two"]}


def probe(model: Probe, data: Dataset, folder: Path, **changes: Any) -> list[dict[str, float]]:
    crops = Crops(data, data.split("train"), Augmentation(32, flip=False), seed=0)
    seed, epochs = changes.pop("seed", 0), changes.pop("epochs", 2)
    options = {"momentum": 0.0, "weight_decay": 0.0, "clip": 1e9, "power": 0.9, "precision": "fp32"} | changes
    batches = Batches(crops, lambda epoch: [[Recipe(0, epoch), Recipe(1, epoch)]] * 2, epochs)
    groups = [{"params": [model.weight], "lr": 0.1}]
    histories: list[Any] = []
    LocalEngine(1).train(
        lambda context: histories.append(fit(context, model, batches, Training(**options), groups, seed)),
        folder=folder,
    )
    return histories[0]


def test_the_learning_rate_of_a_step_follows_poly_over_the_whole_run(tiny: Dataset, tmp_path: Path) -> None:
    model = Probe()
    probe(model, tiny, tmp_path)
    steps = -torch.tensor([*model.values, float(model.weight.detach())]).diff()
    torch.testing.assert_close(steps, torch.tensor([0.1 * (1 - t / 4) ** 0.9 for t in range(4)]))
    assert model.progress == [0, 0.25, 0.5, 0.75]


def test_the_gradient_is_clipped(tiny: Dataset, tmp_path: Path) -> None:
    model = Probe(slope=50.0)
    probe(model, tiny, tmp_path, clip=2.0, power=0.0, epochs=1)
    torch.testing.assert_close(model.values[1], -0.2, rtol=1e-4, atol=0)


def test_momentum_and_weight_decay_reach_the_optimiser(tiny: Dataset, tmp_path: Path) -> None:
    model = Probe()
    probe(model, tiny, tmp_path, momentum=0.5, weight_decay=0.1, power=0.0, epochs=1)
    first, decayed = -0.1, 1 - 0.1 * 0.1
    assert float(model.weight.detach()) == pytest.approx(first - 0.1 * (0.5 + decayed), rel=1e-5)


@pytest.mark.parametrize("broken", [("one",), ("two",), ("one", "two")])
def test_the_losses_that_are_not_finite_are_named_and_no_others(tiny, tmp_path: Path, broken: tuple[str, ...]) -> None:
    with pytest.raises(
        Diverged, match=rf"^the loss {' and '.join([*broken, 'total'])} is not finite in epoch 2, step 1 "
    ):
        probe(Probe(losses=broken), tiny, tmp_path)
    assert (tmp_path / CHECKPOINT).is_file()


def test_losses_are_averaged_over_the_steps_of_an_epoch(tiny: Dataset, tmp_path: Path) -> None:
    model = Probe()
    history = probe(model, tiny, tmp_path)
    for epoch in range(2):
        assert history[epoch]["one"] == pytest.approx(sum(model.values[2 * epoch : 2 * epoch + 2]) / 2, rel=1e-5)


def test_the_optimiser_as_published_has_the_weight_decay_for_its_momentum(tiny: Dataset, tmp_path: Path) -> None:
    for kind, momentum in (("sgd_as_published", 1e-4), ("sgd", 0.9)):
        groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1}]
        section = Training(optimiser=kind, momentum=0.9, weight_decay=1e-4)
        (group,) = build_optimiser(groups, section).param_groups
        assert (group["momentum"], group["weight_decay"]) == (momentum, 1e-4)
    model = Probe()
    options = {"momentum": 0.9, "weight_decay": 0.1, "power": 0.0, "epochs": 1}
    probe(model, tiny, tmp_path, optimiser="sgd_as_published", **options)
    first, decayed = -0.1, 1 - 0.1 * 0.1
    assert float(model.weight.detach()) == pytest.approx(first - 0.1 * (0.1 + decayed), rel=1e-5)


def test_without_a_bound_the_gradient_is_not_clipped(tiny: Dataset, tmp_path: Path) -> None:
    model = Probe(slope=50.0)
    probe(model, tiny, tmp_path, clip=None, power=0.0, epochs=1)
    torch.testing.assert_close(model.values[1], -5.0, rtol=1e-4, atol=0)


def test_gradients_of_pieces_add_up_to_those_of_the_batch(tiny: Dataset, small: Backbone, tmp_path: Path) -> None:
    one_step = {"batch": len(tiny.split("train")), "epochs": 1, "head_lr": 1.0}
    whole, history = train(tmp_path / "whole", tiny, small, **one_step)
    pieces, other = train(tmp_path / "pieces", tiny, small, micro_batch=3, **one_step)
    for name, tensor in whole.items():  # at a rate of 1 the heads differ by as much as their gradients
        torch.testing.assert_close(pieces[name], tensor, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for key in ("total", "classification", "prototype", "scale"):
        assert other[0][key] == pytest.approx(history[0][key], rel=1e-4)


@pytest.mark.parametrize(("number", "size", "lengths"), [(7, 3, [3, 2, 2]), (6, 3, [3, 3]), (2, 5, [2]), (0, 5, [0])])
def test_pieces_are_even_and_those_that_as_many_workers_take(number: int, size: int, lengths: list[int]) -> None:
    recipes = [Recipe(i, 0) for i in range(number)]
    pieces = split_evenly(recipes, size)
    assert [len(piece) for piece in pieces] == lengths
    assert pieces == [recipes[rank :: len(pieces)] for rank in range(len(pieces))]
