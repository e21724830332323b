"""Trials that do no work, for benchmarks of what runs them: their processes import nothing more than a trial's do."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import ray.tune

from sfc.scoring import names

SPACE = """
base: synthetic.yaml
parameters:
  classifier.options.prototype_weight: {uniform: [0.0, 2.0]}
  classifier.options.scale_weight: {uniform: [0.0, 2.0]}
  classifier.options.warmup: {uniform: [0.0, 0.5]}
  pseudo.fusion: {uniform: [0.0, 1.0]}
published:
  classifier.options.prototype_weight: 1.6
  classifier.options.scale_weight: 1.6
  classifier.options.warmup: 0.1
  pseudo.fusion: 0.7
asha: null
budget: {trials: %d, inner: 0}
"""
PARTS = (*(f"best_miou{part}" for part in names.PARTS), "best_threshold", "miou", "precision", "recall")


def no_work(sample: dict[str, Any], *, job: Any) -> None:
    """Reports at once what a complete trial reports."""
    chosen = json.loads(sample["changes"])
    value = 1 - sum((v - 0.4) ** 2 for v in chosen.values()) / 10
    metrics = {f"seed/{part}": value for part in PARTS}
    attributes = {
        "settings": chosen,
        "inner": [{"values": {}, "value": value, "metrics": metrics}],
        "metrics": metrics,
        "supervision": dict.fromkeys(metrics, "same masks"),
        "iou": {"seed": [value] * 21},
        "history": [{"epoch": epoch, "total": 1 / epoch, "lr": 0.1 / epoch} for epoch in range(1, 11)],
        "maps": "-",
    }
    ray.tune.report({"objective": value, "epoch": 10, "complete": True, "attributes": json.dumps(attributes)})


def sleep(sample: dict[str, Any], *, job: Any, meeting: Path, slots: int, blocks: Sequence[tuple[float, int]]) -> None:
    """`no_work` after some seconds. The first `slots` trials wait for each other, so that all processes have started
    before a block does, and leave their bytes of memory, shared pages by their part.

    Args:
        sample: the trial's number and settings.
        job: as `tune.study.trial.run_trial` has it.
        meeting: empty folder.
        slots: trials at a time.
        blocks: seconds of the trials after those, and how many of each.
    """
    number = sample["number"] - slots
    if number < 0:
        (meeting / str(sample["number"])).touch()
        while len(list(meeting.iterdir())) < slots:
            time.sleep(0.5)
        (meeting / str(sample["number"])).write_text(str(psutil.Process().memory_full_info().pss))
    else:
        ends = [sum(count for _, count in blocks[: i + 1]) for i in range(len(blocks))]
        time.sleep(next(seconds for (seconds, _), end in zip(blocks, ends, strict=True) if number < end))
    no_work(sample, job=job)
