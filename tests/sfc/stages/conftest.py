"""All stages once over the generated data, each output made by the one before it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfc.config import Backbone, Cam, Classifier, Config, Evaluation, Pseudo, Segmentation
from sfc.data import Dataset, Split
from sfc.pipeline import STAGES
from sfc.runtime.engine import Engine, LocalEngine
from sfc.stages.spec import Work

BACKBONE = Backbone(name="small", mean=(0.5,) * 3, std=(0.25,) * 3, frozen_stages=0, freeze_norm=False)
CLASSIFIER = Classifier(
    epochs=1, batch=4, bank_images=2, crop=32, resize_long=(24, 40), lr=0.05, head_lr=0.05, precision="fp32"
)
CAM = Cam(scales=(1.0, 0.5), precision="fp32")
PSEUDO = Pseudo(method="argmax", threshold=0.1)
SEGMENTATION = Segmentation(epochs=1, batch=4, crop=32, rates=(1, 2), precision="fp32")
EVALUATION = Evaluation(scales=(1.0, 0.5), precision="fp32")
SETTINGS = Config(
    seed=0,
    backbone=BACKBONE,
    classifier=CLASSIFIER,
    cam=CAM,
    pseudo=PSEUDO,
    segmentation=SEGMENTATION,
    evaluation=EVALUATION,
)


@dataclass
class World:
    """Folders by stage, and what they were made of."""

    root: Path
    data: Dataset
    train: Split
    val: Split
    counts: np.ndarray
    engine: LocalEngine

    def folder(self, stage: str) -> Path:
        path = self.root / stage
        path.mkdir(exist_ok=True)
        return path

    def work(self, stage: str, folder: Path, **changes: Any) -> Work:
        """What a stage gets: sections of the settings, `data`, `split` and `inputs` may be others."""
        folder.mkdir(exist_ok=True)
        split = changes.pop("split", self.val if stage == "evaluation" else self.train)
        data, inputs = changes.pop("data", self.data), changes.pop("inputs", {})
        train = changes.pop("train", None) or data.split("train")
        settings = SETTINGS.model_copy(update=changes)
        before = {name: inputs.get(name, self.root / name) for name in STAGES}
        return Work(folder, settings, before, data, split, train)

    def run(self, stage: str, folder: Path, *, engine: Engine | None = None, **changes: Any) -> dict[str, Any]:
        """Run a stage; the content of its metrics.json, if it writes one."""
        STAGES[stage].run(self.work(stage, folder, **changes), engine or self.engine)
        metrics = folder / "metrics.json"
        return json.loads(metrics.read_text()) if metrics.is_file() else {}


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory, tiny: Dataset) -> World:
    train, val = tiny.split("train"), tiny.split("val")
    made = World(tmp_path_factory.mktemp("stages"), tiny, train, val, train.labels.sum(0), LocalEngine(1))
    for stage in ("classifier", "maps", "seeds", "labels", "segmentation", "evaluation"):
        made.run(stage, made.folder(stage))
    return made
