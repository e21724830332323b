"""Seeds and pseudo-labels of a split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sfc.config import Crf
from sfc.data.images import read_mask, write_mask
from sfc.refine.seeds import hard_labels
from sfc.runtime.map_files import load_maps
from sfc.scoring.metrics import THRESHOLDS, confusion, summarise
from tests.sfc.stages.conftest import PSEUDO, World


def labels(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: read_mask(path) for path in (folder / "labels").iterdir()}


def test_every_image_has_labels_of_its_classes_and_of_its_size(world: World) -> None:
    made = labels(world.folder("labels"))
    assert set(made) == set(world.train.ids)
    for name, label in zip(world.train.ids, world.train.labels, strict=True):
        assert made[name].shape == (32, 32)
        assert set(np.unique(made[name])) <= {0, *(np.flatnonzero(label) + 1)}


def test_argmax_labels_are_the_seeds(world: World) -> None:
    for name, label in labels(world.folder("labels")).items():
        keys, maps = load_maps(world.folder("maps") / f"{name}.npz")
        assert np.array_equal(label, keys[hard_labels(maps, PSEUDO)])


@pytest.mark.parametrize("stage", ["seeds", "labels"])
def test_the_metrics_are_those_of_one_confusion_matrix(world: World, stage: str) -> None:
    made = labels(world.folder("labels"))
    matrix = sum(confusion(world.data.mask(name), made[name], 5) for name in world.train.ids)
    metrics = json.loads((world.folder(stage) / "metrics.json").read_text())
    assert np.array_equal(np.load(world.folder(stage) / "confusion.npy"), matrix)
    expected = summarise(matrix, world.counts)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert len(metrics["iou"]) == 5


def test_the_best_threshold_is_the_best_of_all_that_could_be_configured(world: World, tmp_path: Path) -> None:
    best = json.loads((world.folder("seeds") / "metrics.json").read_text())["best"]
    scores = {}
    for threshold in THRESHOLDS[::10]:
        matrix = np.zeros((5, 6), np.int64)
        for name in world.train.ids:
            keys, maps = load_maps(world.folder("maps") / f"{name}.npz")
            section = PSEUDO.model_copy(update={"threshold": float(threshold)})
            matrix += confusion(world.data.mask(name), keys[hard_labels(maps, section)], 5)
        scores[float(threshold)] = summarise(matrix, world.counts)["miou"]
    assert best["miou"] >= max(scores.values()) - 1e-9 and best["threshold"] in THRESHOLDS
    at_best = world.run("seeds", tmp_path, pseudo=PSEUDO.model_copy(update={"threshold": best["threshold"]}))
    assert at_best["miou"] == pytest.approx(best["miou"], abs=1e-6)


def test_the_crf_moves_labels_within_the_image_s_classes(world: World, tmp_path: Path) -> None:
    crf = {"method": "crf", "crf": Crf(iterations=2, gt_prob=0.5)}
    world.run("labels", tmp_path, pseudo=PSEUDO.model_copy(update=crf))
    made, before = labels(tmp_path), labels(world.folder("labels"))
    assert any(not np.array_equal(made[name], before[name]) for name in made)
    for name, label in zip(world.train.ids, world.train.labels, strict=True):
        assert set(np.unique(made[name])) <= {0, *(np.flatnonzero(label) + 1)}


def test_labels_that_are_done_are_left_alone_and_counted(world: World, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    first = world.train.ids[0]
    write_mask(tmp_path / "labels" / f"{first}.png", world.data.mask(first))
    whole = world.run("labels", tmp_path)
    assert np.array_equal(read_mask(tmp_path / "labels" / f"{first}.png"), world.data.mask(first))
    assert whole["accuracy"] > json.loads((world.folder("labels") / "metrics.json").read_text())["accuracy"]
