"""The final runs of a study for the report: the best trials through every stage with several seeds."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sfc.scoring.names import PARTS
from tune.evidence.stats import NO_INTERVAL, Interval, kendall
from tune.evidence.tables import heading, number, spread
from tune.evidence.trials import Evidence, search_masks, table
from tune.study.names import FINALS

SHOWN = ("seed/miou", "seed_val/miou", "pseudo/miou", "val/miou", f"val/miou{PARTS[-1]}")


@dataclass(frozen=True)
class Finals:
    """The trials of a study that were taken through every stage, in the order of the search."""

    metric: str
    chosen: int
    """Number of a trial."""
    runs: pd.DataFrame
    """A row for each run that gave numbers: its `trial`, the search's `value`, and its numbers by name."""
    masks: dict[str, str]
    """Masks that each number has seen."""
    iou: dict[str, list[float]]
    """(K,) IoU by class of the chosen trial by prefix, mean over its runs, the background first; NaN for a class that
    does not occur, [] where a run has none."""

    def chosen_values(self, name: str) -> list[float]:
        """One number of every run of the chosen trial; NaN where a run lacks it."""
        return self.runs[self.runs.trial == self.chosen].reindex(columns=[name])[name].tolist()

    def table(self) -> pd.DataFrame:
        """A row a trial: the search's number, and each stage's over the seeds; the chosen trial stands out."""
        names, search = [name for name in SHOWN if name in self.runs], f"search: {self.metric}"
        rows = [
            {"trial": str(trial), "seeds": str(len(runs)), search: number(runs.value.iloc[0])}
            | {heading(name): spread(runs[name]) for name in names}
            for trial, runs in self.runs.groupby("trial", sort=False)
        ]
        masks = {search: search_masks(self.metric)} | {heading(name): self.masks.get(name, "") for name in names}
        return table(rows, masks, [row["trial"] == str(self.chosen) for row in rows])

    def points(self) -> pd.DataFrame:
        """A row a trial: the search's `value`, the `mean` over seeds of the final mIoU (NaN where no run has one), and
        its standard deviation `std` (0 for one seed)."""
        trials = self.runs.reindex(columns=["trial", "value", "val/miou"]).groupby("trial", sort=False)
        final = trials["val/miou"]
        return pd.DataFrame({"value": trials.value.first(), "mean": final.mean(), "std": final.std().fillna(0.0)})

    @property
    def comparable(self) -> bool:
        """Whether every one of several trials has a final mIoU."""
        return len(self.points()) > 1 and not self.points()["mean"].isna().any()

    @property
    def orders(self) -> int:
        """Number of orders in which the trials could stand."""
        return math.factorial(len(self.points()))

    def ranking(self) -> Interval:
        """Kendall's tau between the search's number and the final mIoU."""
        points = self.points().to_numpy()
        return kendall(points[:, 0], points[:, 1]) if self.comparable else NO_INTERVAL


def load_finals(e: Evidence) -> Finals | None:
    """The study's finals.json; None where no run gave numbers."""
    file = e.results / "final" / e.study.study_name / FINALS
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    pairs = [(trial, run) for trial in content["trials"] for run in trial["runs"] if run.get("metrics")]
    if not pairs:
        return None
    runs = pd.DataFrame([{"trial": t["trial"], "value": t["value"], **run["metrics"]} for t, run in pairs])
    trials = runs.trial.tolist()
    chosen = content.get("chosen") if content.get("chosen") in trials else trials[0]
    masks = {name: seen for _, run in pairs for name, seen in run["supervision"].items()}
    iou = {}
    for stage in ("pseudo", "val"):
        series = [run.get("iou", {}).get(stage) for trial, run in pairs if trial["trial"] == chosen]
        iou[stage] = np.array(series, np.float64).mean(0).tolist() if all(series) else []
    numbers = runs.columns.drop("trial")
    return Finals(content["metric"], chosen, runs.astype(dict.fromkeys(numbers, float)), masks, iou)
