"""What a number has seen, where splits share images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sfc.config import Config, Data
from sfc.pipeline import Pipeline, Result
from sfc.runtime.engine import LocalEngine
from sfc.runtime.store import Store


@pytest.mark.parametrize(
    ("selected_on", "split", "expected"),
    [
        (None, "train_aug", "image-labels"),
        ("train", "train", "same masks"),
        ("train", "train_aug", "same masks"),
        ("train", "val", "held-out masks"),
        ("elsewhere", "train", "held-out masks"),
    ],
)
def test_masks_of_shared_images_are_the_same_masks(
    voc: Callable[..., Path], tmp_path: Path, selected_on: str | None, split: str, expected: str
) -> None:
    names = ("a", "b", "c")
    root = voc(
        dict.fromkeys(names, np.zeros((4, 4, 3), np.uint8)),
        csv=dict.fromkeys(names, "cat"),
        splits={"train": ["a"], "train_aug": ["a", "b"], "val": ["c"]},
    )
    data = Data(format="folder", root=str(root), train="train_aug", select="train")
    pipeline = Pipeline(Config(selected_on=selected_on, data=data), Store(tmp_path / "store"), LocalEngine())
    (tmp_path / "metrics.json").write_text(json.dumps({"miou": 0.5, "iou": [0.5], "best": {"miou": 0.6, "iou": [0.6]}}))
    result = Result()
    pipeline.collect(result, "name", tmp_path, split)
    assert result.supervision == {"name/miou": expected, "name/best_miou": "same masks"}
