"""Warnings of a stage whose output can't be meant: said when it happens, and kept beside the output."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sfc.runtime.store import write_atomic

log = logging.getLogger("sfc")

WARNINGS = "warnings.json"


def warn(folder: Path, text: str) -> None:
    """Log a warning on the output in a folder, and keep it there."""
    log.warning("%s", text)
    write_atomic(folder / WARNINGS, json.dumps([*read_warnings(folder), text], indent=1))


def read_warnings(folder: Path) -> list[str]:
    """The warnings kept beside an output."""
    file = folder / WARNINGS
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def check_losses(folder: Path, stage: str, history: Sequence[Mapping[str, float]]) -> None:
    """Warn of a training whose loss is no lower in its last epoch than in its first."""
    if len(history) > 1 and history[-1]["total"] >= history[0]["total"]:
        first, last = history[0]["total"], history[-1]["total"]
        warn(folder, f"{stage}: the loss did not fall, {first:.3g} in the first epoch and {last:.3g} in the last")


def check_classifier(folder: Path, history: Sequence[Mapping[str, float]], labels_NC: np.ndarray) -> None:
    """Warn of a classifier that knows no more than how frequent each class is: its classification loss in the last
    epoch is no lower than that of predicting the frequencies. `labels_NC`: of the images that train."""
    loss = history[-1].get("classification") if history else None
    p = np.clip(labels_NC.mean(0), 1e-6, 1 - 1e-6)
    chance = float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean())
    if loss is not None and loss >= chance:
        warn(folder, f"classifier: at chance; its loss {loss:.3g} is no lower than {chance:.3g}, that of guessing")


def check_labels(folder: Path, pixels_K: np.ndarray, what: str) -> None:
    """Warn of label maps with one class alone. `pixels_K`: pixels of each class, the background first."""
    present = np.flatnonzero(pixels_K)
    if present.tolist() == [0]:
        warn(folder, f"{what}: without foreground, every pixel is background")
    elif len(present) == 1:
        warn(folder, f"{what}: one class alone, every pixel is of class {present[0]}")


def check_edges(folder: Path, mean: float) -> None:
    """Warn of edges that hold nothing back, or everything. `mean`: of the probabilities over all images."""
    if not 0.005 <= mean <= 0.995:
        warn(folder, f"edges: all {'0' if mean < 0.5 else '1'} (mean probability {mean:.2g}), so they say nothing")
