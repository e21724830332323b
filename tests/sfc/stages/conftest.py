"""All stages once over the generated data, each output made by the one before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sfc.config import Backbone, Cam, Classifier, Evaluation, Pseudo, Segmentation
from sfc.data import Dataset, Split
from sfc.runtime.engine import LocalEngine
from sfc.stages import classifier, evaluation, segmentation
from sfc.stages import labels as pseudo
from sfc.stages import maps as cam
from sfc.stages import seeds as seed

BACKBONE = Backbone(name="small", mean=(0.5,) * 3, std=(0.25,) * 3, frozen_stages=0, freeze_norm=False)
CLASSIFIER = Classifier(
    epochs=1, batch=4, bank_images=2, crop=32, resize_long=(24, 40), lr=0.05, head_lr=0.05, precision="fp32"
)
CAM = Cam(scales=(1.0, 0.5), precision="fp32")
PSEUDO = Pseudo(method="argmax", threshold=0.1)
SEGMENTATION = Segmentation(epochs=1, batch=4, crop=32, rates=(1, 2), precision="fp32")
EVALUATION = Evaluation(scales=(1.0, 0.5), precision="fp32")


@dataclass
class World:
    """Folders by stage, and what they were made of."""

    root: Path
    data: Dataset
    train: Split
    val: Split
    counts: np.ndarray
    engine: LocalEngine

    def folder(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(exist_ok=True)
        return path


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory, tiny: Dataset) -> World:
    train, val = tiny.split("train"), tiny.split("val")
    made = World(tmp_path_factory.mktemp("stages"), tiny, train, val, train.labels.sum(0), LocalEngine(1))
    common = {"backbone": BACKBONE, "data": tiny, "split": train}
    classifier.run(made.folder("classifier"), made.engine, section=CLASSIFIER, seed=0, **common)
    cam.run(made.folder("cam"), made.engine, section=CAM, classifier=made.folder("classifier"), **common)
    scored = {"data": tiny, "split": train, "counts": made.counts, "maps": made.folder("cam")}
    seed.run(made.folder("seed"), made.engine, section=PSEUDO, **scored)
    pseudo.run(made.folder("pseudo"), made.engine, section=PSEUDO, **scored)
    labels = made.folder("pseudo") / "labels"
    segmentation.run(
        made.folder("segmentation"), made.engine, section=SEGMENTATION, labels=labels, start=None, seed=0, **common
    )
    evaluation.run(
        made.folder("evaluation"),
        made.engine,
        section=EVALUATION,
        segmentation=SEGMENTATION,
        backbone=BACKBONE,
        model=made.folder("segmentation"),
        data=tiny,
        split=val,
        counts=made.counts,
    )
    return made
