"""Seeds under both background rules, and the sweep's view of the same maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfc.config import Pseudo
from sfc.refine.seeds import as_classes, hard_labels, ruled_maps, strongest
from sfc.scoring.metrics import THRESHOLDS, confusion, seed_histogram, sweep


@pytest.fixture
def maps() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(4, 12, 15, generator=generator) for name in ("classifier", "prototype")}


@pytest.mark.parametrize("fusion", [0.0, 0.7])
def test_background_where_no_fused_map_is_above_the_threshold(maps, fusion: float) -> None:
    cam, prototype = maps.values()
    labels = hard_labels(maps, Pseudo(fusion=fusion, threshold=0.6))
    fused = (cam + fusion * prototype) / (1 + fusion)
    expected = torch.where(fused[1:].amax(0) > 0.6, fused[1:].argmax(0) + 1, 0)
    assert np.array_equal(labels, expected.numpy()) and set(np.unique(labels)) == {0, 1, 2, 3}
    assert labels.dtype == np.uint8


def test_published_rule_of_the_background(maps) -> None:
    cam, prototype = maps.values()
    section = Pseudo(background="offset", offset=0.3, fusion=0.5)
    labels = hard_labels(maps, section)
    fused = (cam + 0.5 * prototype) / 1.5
    background = fused[0] + 0.3 > 2 * fused[1:].amax(0)
    expected = torch.where(background, 0, fused[1:].argmax(0) + 1)
    assert np.array_equal(labels, expected.numpy()) and 0 < background.float().mean() < 1


def test_the_ends_of_the_threshold(maps) -> None:
    assert (hard_labels(maps, Pseudo(threshold=1.0)) == 0).all()
    assert (hard_labels(maps, Pseudo(threshold=0.0)) > 0).all()


def test_a_tie_goes_to_the_background() -> None:
    cam = torch.full((3, 2, 2), 0.5)
    assert (hard_labels({"classifier": cam}, Pseudo(threshold=0.5)) == 0).all()


@pytest.mark.parametrize("background", ["threshold", "offset"])
def test_an_image_without_a_class_is_background_and_maps_are_left_alone(maps, background: str) -> None:
    section = Pseudo(background=background)
    assert (hard_labels({name: m[:1] for name, m in maps.items()}, section) == 0).all()
    before = {name: m.clone() for name, m in maps.items()}
    hard_labels(maps, section)
    hard_labels({"classifier": maps["classifier"]}, section)
    assert all(torch.equal(maps[name], before[name]) for name in maps)


def test_the_strongest_class_is_named_by_its_key(maps) -> None:
    keys = np.array([0, 4, 9, 17])
    label, height = strongest(keys, maps, 0.7)
    fused = (maps["classifier"] + 0.7 * maps["prototype"]) / 1.7
    assert np.array_equal(height, fused[1:].amax(0).numpy()) and set(np.unique(label)) == {4, 9, 17}
    label, height = strongest(np.array([0]), {name: m[:1] for name, m in maps.items()}, 0.7)
    assert (label == 0).all() and (height == 0).all() and label.shape == height.shape == (12, 15)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("levels", [None, 10])
def test_the_sweep_agrees_with_the_configured_rule(maps, threshold: float, levels: int | None) -> None:
    keys, truth = np.array([0, 1, 3, 4]), np.random.default_rng(0).integers(0, 5, (12, 15)).astype(np.uint8)
    cam = maps["classifier"]
    alone = {"classifier": cam if levels is None else (cam * levels).round() / levels}
    labels = keys[hard_labels(alone, Pseudo(threshold=threshold))]
    matrices = sweep(seed_histogram(truth, *strongest(keys, alone, 0), 5))
    (index,) = np.flatnonzero(np.isclose(THRESHOLDS, threshold))
    assert np.array_equal(matrices[index], confusion(truth, labels, 5)[:, :5])


@pytest.mark.parametrize("background", ["threshold", "offset"])
def test_the_argmax_of_the_ruled_maps_gives_the_seeds(maps, background: str) -> None:
    section = Pseudo(background=background, threshold=0.5)
    ruled = ruled_maps(maps, section, section.fusion)
    assert ruled.shape == maps["classifier"].shape and ruled.min() >= 0
    assert np.array_equal(ruled.argmax(0).numpy(), hard_labels(maps, section))


def test_indices_become_classes_and_void_stays() -> None:
    label = np.array([[0, 1, 2], [255, 2, 0]], np.uint8)
    found = as_classes(label, np.array([0, 7, 80]))
    assert found.tolist() == [[0, 7, 80], [255, 80, 0]] and found.dtype == np.uint8
