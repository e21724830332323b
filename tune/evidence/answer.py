"""What a study came to, for the report: the rounds of its confirmation and its comparison with the references."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sfc.scoring.names import PARTS
from tune.evidence.stats import paired
from tune.evidence.tables import Numbers, heading, number, ran, spread, values
from tune.evidence.trials import Evidence, search_masks, table
from tune.evidence.verdict import Verdict, bound_line, interval, verdict
from tune.runs.confirm import read_rounds
from tune.space.sections import CHOSEN, UPPER_BOUND
from tune.study.names import COMPARISON

SHOWN = (
    "seed_val/miou",
    "pseudo_train/miou",
    "pseudo_train/miou_tail",
    "val/miou",
    *(f"val/miou{p}" for p in PARTS[1:]),
)


@dataclass(frozen=True)
class Answer:
    """The comparison of a study."""

    numbers: Numbers
    verdicts: list[Verdict]
    """The chosen setting against each reference."""

    @property
    def trial(self) -> int:
        """Number of the chosen trial."""
        return int(self.numbers["trial"])

    @property
    def chosen(self) -> str:
        """The arm that was chosen."""
        return str(self.numbers["chosen"])

    @property
    def is_reference(self) -> bool:
        """Whether the chosen setting is one of the references."""
        return self.chosen != CHOSEN

    @property
    def bound(self) -> str | None:
        """What part each arm reaches of the full supervision."""
        return bound_line(self.numbers)

    @property
    def failed(self) -> int:
        """Number of runs without numbers."""
        return sum("failed" in run for arm in self.numbers["arms"].values() for run in arm["runs"])

    @property
    def warnings(self) -> list[str]:
        """What stages said of outputs that can't be meant, by arm and seed."""
        arms = self.numbers["arms"]
        return [
            f"{a}, seed {r['seed']}: {text}" for a in arms for r in arms[a]["runs"] for text in r.get("warnings", [])
        ]

    def masks(self, name: str) -> str:
        """Masks that a number of the chosen arm has seen."""
        runs = ran(self.numbers, self.chosen).values()
        return next((run["supervision"][name] for run in runs if name in run["supervision"]), "")

    def values(self, arm: str, name: str) -> list[float]:
        """A number of every run of an arm; NaN where a run lacks it."""
        return values(self.numbers, arm, name)

    def table(self) -> pd.DataFrame:
        """A row an arm: mean and deviation of each stage's number; what is kept stands out."""
        arms = [arm for arm in self.numbers["arms"] if ran(self.numbers, arm)]
        names = [
            n for n in (f"{self.numbers['metric']}", *SHOWN) if any(np.isfinite(self.values(a, n)).any() for a in arms)
        ]
        rows = []
        for arm in arms:
            supervised = " (full supervision)" if arm == UPPER_BOUND else ""
            row = {"arm": arm + supervised, "seeds": str(len(ran(self.numbers, arm)))}
            rows.append(row | {heading(n): spread(self.values(arm, n)) for n in dict.fromkeys(names)})
        masks = {heading(name): self.masks(name) for name in names}
        return table(rows, masks, [arm == self.numbers["kept"] for arm in arms])

    def iou(self) -> dict[str, list[float]]:
        """(K,) segmentation IoU by class of each arm, mean over its runs, the background first."""
        result = {}
        for arm in self.numbers["arms"]:
            runs = [run["iou"]["val"] for run in ran(self.numbers, arm).values() if run["iou"].get("val")]
            if runs:
                result[arm] = np.array(runs, np.float64).mean(0).tolist()
        return result


def load_answer(e: Evidence) -> Answer | None:
    """The study's comparison; None where none has given numbers."""
    file = e.results / "final" / e.study.study_name / COMPARISON
    numbers = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if "kept" not in numbers:
        return None
    chosen = numbers["chosen"]
    others = [arm for arm in numbers["arms"] if arm not in (chosen, UPPER_BOUND)]
    return Answer(numbers, [verdict(numbers, chosen, arm) for arm in others])


def confirmation(e: Evidence) -> pd.DataFrame | None:
    """A row for each confirmed trial, the best mean first: its number in the search, each further seed's, their mean
    with its standard error, and its paired difference to the chosen trial. None without a confirmation."""
    folder: Path = e.results / "final" / e.study.study_name
    rounds = read_rounds(folder)
    if not rounds:
        return None
    metric, latest = rounds[0]["metric"], {arm: numbers for numbers in rounds for arm in numbers["arms"]}
    by_seed = {
        arm: {seed: run["metrics"][metric] for seed, run in ran(numbers, arm).items() if metric in run["metrics"]}
        for arm, numbers in latest.items()
    }
    chosen = f"trial {e.study.user_attrs.get('chosen', '')}"
    seeds = list(dict.fromkeys(seed for numbers in rounds for seed in numbers["seeds"]))

    def standing(arm: str) -> tuple[int, float]:
        return len(by_seed[arm]), float(np.mean(list(by_seed[arm].values()) or [-math.inf]))

    rows, order = [], sorted(by_seed, key=standing, reverse=True)
    for arm in order:
        own = by_seed[arm]
        spread_ = float(np.std(list(own.values()), ddof=1)) if len(own) > 1 else math.nan
        row = {"trial": arm.removeprefix("trial "), "search": number(latest[arm]["search"][arm])}
        row |= {f"seed {seed}": number(own.get(seed)) for seed in seeds}
        row["mean"] = number(float(np.mean(list(own.values()))) if own else None)
        row["standard error"] = number(spread_ / math.sqrt(len(own)) if own else None)
        both = [seed for seed in own if seed in by_seed.get(chosen, {})]
        if arm != chosen and both:
            difference, _ = paired([own[seed] - by_seed[chosen][seed] for seed in both])
            row["to the chosen, points"] = f"{100 * difference.value:+.1f} ({interval(difference)})"
            row["told apart"] = "yes" if difference.excludes_zero else "no"
        rows.append(row)
    masks = dict.fromkeys(
        ["search", "mean", "standard error", *(f"seed {seed}" for seed in seeds)], search_masks(metric)
    )
    return table(rows, masks, [arm == chosen for arm in order])
