"""What a number has seen, where splits share images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sfc.config import Config, Data
from sfc.pipeline import Pipeline
from sfc.results import Result
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
    assert pipeline.masks_seen(split) == expected
    assert pipeline.masks_seen(None) == ("image-labels" if selected_on is None else "held-out masks")


def test_a_stage_s_numbers_are_added_under_its_prefix_with_their_masks() -> None:
    result = Result()
    metrics = {"miou": 0.5, "iou": [0.5, 0.4], "best": {"miou": 0.6, "iou": [0.6]}, "test_time": {"mirror": True}}
    result.add("val", metrics, {"": "held-out masks", "best": "same masks"})
    assert result.metrics == {"val/miou": 0.5, "val/best_miou": 0.6} and result.iou == {"val": [0.5, 0.4]}
    assert result.supervision == {"val/miou": "held-out masks", "val/best_miou": "same masks"}
    assert result.conditions == {"val": {"test_time": {"mirror": True}}} and "iou" in metrics


def test_the_numbers_as_a_table() -> None:
    result = Result()
    result.add("seed", {"miou": 0.5, "accuracy": 0.9}, {"": "image-labels", "best": "same masks"})
    frame = result.frame()
    assert list(frame.index) == ["seed/miou", "seed/accuracy"] and list(frame.columns) == ["value", "supervision"]
    assert frame.loc["seed/accuracy", "value"] == 0.9
