"""The final runs of a study for the report: the best trials through every stage with several seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sfc.scoring.names import PARTS
from tune.evidence.stats import NO_INTERVAL, Interval, kendall
from tune.evidence.tables import heading
from tune.evidence.trials import Evidence, number, search_masks, table
from tune.study.names import FINALS
from tune.study.study import name_of

SHOWN = ("seed/miou", "seed_val/miou", "pseudo/miou", "val/miou", f"val/miou{PARTS[-1]}")


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation of the finite values."""
    finite = [v for v in values if math.isfinite(v)]
    if len(finite) < 2:
        return number(finite[0] if finite else None)
    return f"{statistics.mean(finite):.4f} ± {statistics.stdev(finite):.4f}"


@dataclass(frozen=True)
class Final:
    """One trial through every stage."""

    trial: int
    value: float
    """The search's number."""
    runs: list[dict[str, Any]]
    """Runs that gave numbers, one a seed."""

    def values(self, name: str) -> list[float]:
        """One number of every run; NaN where a run lacks it."""
        return [math.nan if (v := run["metrics"].get(name)) is None else v for run in self.runs]

    def class_iou(self, prefix: str) -> list[float]:
        """(K,) IoU by class, mean over the runs, NaN for a class that does not occur; empty where a run has none."""
        series = [run.get("iou", {}).get(prefix) for run in self.runs]
        return np.array(series, np.float64).mean(0).tolist() if all(series) else []


@dataclass(frozen=True)
class Finals:
    """The trials of a study that were taken through every stage, in the order of the search."""

    metric: str
    trials: list[Final]
    chosen: Final

    @property
    def masks(self) -> dict[str, str]:
        """Masks that each number has seen."""
        return {name: masks for t in self.trials for run in t.runs for name, masks in run["supervision"].items()}

    def table(self) -> pd.DataFrame:
        """A row a trial: the search's number, and each stage's over the seeds; the chosen trial stands out."""
        names = [name for name in SHOWN if any(name in run["metrics"] for t in self.trials for run in t.runs)]
        search = f"search: {self.metric}"
        rows = [
            {"trial": str(t.trial), "seeds": str(len(t.runs)), search: number(t.value)}
            | {heading(name): spread(t.values(name)) for name in names}
            for t in self.trials
        ]
        masks = {search: search_masks(self.metric)} | {heading(name): self.masks.get(name, "") for name in names}
        return table(rows, masks, [t is self.chosen for t in self.trials])

    def points(self) -> tuple[list[float], list[float], list[float]]:
        """The search's number of each trial, the final mIoU (mean over seeds; NaN without one), and the standard
        deviation of the final mIoU (0 for one seed)."""
        finals = [[v for v in t.values("val/miou") if math.isfinite(v)] for t in self.trials]
        means = [statistics.mean(v) if v else math.nan for v in finals]
        return [float(t.value) for t in self.trials], means, [statistics.stdev(v) if v[1:] else 0.0 for v in finals]

    @property
    def comparable(self) -> bool:
        """Whether every one of several trials has a final mIoU."""
        return len(self.trials) > 1 and all(map(math.isfinite, self.points()[1]))

    @property
    def orders(self) -> int:
        """Number of orders in which the trials could stand."""
        return math.factorial(len(self.trials))

    def ranking(self) -> Interval:
        """Kendall's tau between the search's number and the final mIoU."""
        return kendall(*self.points()[:2]) if self.comparable else NO_INTERVAL


def load_finals(e: Evidence) -> Finals | None:
    """The study's finals.json; None where no run gave numbers."""
    file = e.results / "final" / name_of(e.study) / FINALS
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    trials = [Final(t["trial"], t["value"], [r for r in t["runs"] if r.get("metrics")]) for t in content["trials"]]
    trials = [t for t in trials if t.runs]
    if not trials:
        return None
    return Finals(content["metric"], trials, next((t for t in trials if t.trial == content.get("chosen")), trials[0]))
