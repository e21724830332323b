"""An ablation's numbers as tables: Markdown, tidy CSV, LaTeX. Points are hundredths of mIoU.

A difference is bold where the interval over seeds and the interval over images both exclude zero, and nowhere else.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfc.scoring.metrics import frequency_thirds
from sfc.scoring.tally import IMAGES, read_images
from tune.evidence.stats import COVERAGE, RESAMPLES, Interval, holm, over_images, p_value, paired

Numbers = dict[str, Any]
"""What numbers.json of an ablation holds; see `tune.runs.ablation`."""
Rows = list[list[str]]

COLUMNS = {
    "seed mIoU, select": "seed/best_miou",
    "seed mIoU, val": "seed_val/miou",
    "head": "seed_val/miou_head",
    "middle": "seed_val/miou_middle",
    "tail": "seed_val/miou_tail",
    "pseudo-label mIoU, train": "pseudo/miou",
    "segmentation mIoU, val": "val/miou",
}
STAGES = {"seed_val": "Seeds on val", "pseudo": "Pseudo-labels on train", "val": "Segmentation on val"}
PARTS = ("", "_head", "_middle", "_tail")


class Bold(str):
    """A cell in bold."""


@dataclass(frozen=True)
class Difference:
    """An arm minus the reference in one number, in [-1, 1]."""

    seeds: Interval
    spread: float
    """Standard deviation over seeds; NaN for one."""
    images: Interval
    p: float
    """Of the paired t-test, without correction."""

    def cell(self, *, spread: bool = False) -> str:
        """The difference in points, bold where both intervals exclude zero."""
        text = _signed(self.seeds.value)
        if spread and math.isfinite(self.spread):
            text += f" ± {100 * self.spread:.1f}"
        return Bold(text) if self.seeds.excludes_zero and self.images.excludes_zero else text


def ran(numbers: Numbers, arm: str) -> dict[int, dict[str, Any]]:
    """The runs of an arm that gave numbers, by seed."""
    return {run["seed"]: run for run in numbers["arms"][arm]["runs"] if "failed" not in run}


def others(numbers: Numbers) -> list[str]:
    """Every arm but the reference."""
    return [arm for arm in numbers["arms"] if arm != numbers["reference"]]


def _value(run: dict[str, Any], stage: str, part: str | int) -> float:
    """A part of the mIoU (`_head`), or a class by its channel; NaN where there is none."""
    if isinstance(part, int):
        value = run["iou"].get(stage, {part: None})[part]
        return math.nan if value is None else value
    return run["metrics"].get(f"{stage}/miou{part}", math.nan)


def differences(numbers: Numbers, stage: str, arm: str) -> dict[str | int, Difference]:
    """An arm against the reference on a stage: the mIoU, its parts, and every class by channel.

    Args:
        numbers: with folders that hold the counts of each image.
        stage: of `STAGES`.
        arm: another than the reference.

    Returns:
        Only numbers that both have; seeds that one of them lacks are left out.
    """
    ours, theirs = ran(numbers, arm), ran(numbers, numbers["reference"])
    seeds = [seed for seed in theirs if seed in ours]
    channels = range(len(numbers["classes"]))
    thirds = {f"_{name}": part for name, part in frequency_thirds(numbers["counts"]).items()}
    groups: dict[str | int, Sequence[int]] = {"": channels, **thirds, **{c: [c] for c in channels}}
    known = [[_images(runs[seed], stage) for seed in seeds] for runs in (ours, theirs)]
    if not seeds or any(pixels is None for runs in known for pixels in runs):
        return {}
    images = over_images(known[0], known[1], list(groups.values()))
    found: dict[str | int, Difference] = {}
    for part, interval in zip(groups, images, strict=True):
        values = np.array([_value(ours[s], stage, part) - _value(theirs[s], stage, part) for s in seeds])
        if np.isfinite(values).all():
            spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
            found[part] = Difference(paired(values), spread, interval, p_value(values))
    return found


def _images(run: dict[str, Any], stage: str) -> np.ndarray | None:
    folder = Path(run["folders"].get(stage, "/nowhere"))
    return read_images(folder)[1] if (folder / IMAGES).is_file() else None


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}" if math.isfinite(value) else "-"


def _range(interval: Interval) -> str:
    return f"{_signed(interval.low)} to {_signed(interval.high)}" if math.isfinite(interval.low) else "-"


def _probability(p: float) -> str:
    return "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _mean(values: Sequence[float]) -> str:
    """Mean ± standard deviation in points."""
    points = 100 * np.array([v for v in values if math.isfinite(v)])
    if not len(points):
        return "-"
    return f"{points.mean():.1f}" + (f" ± {points.std(ddof=1):.1f}" if len(points) > 1 else "")


def present(numbers: Numbers) -> dict[str, str]:
    """`COLUMNS` that any run has, and the masks that each has seen."""
    runs = [run for arm in numbers["arms"] for run in ran(numbers, arm).values()]
    seen = {metric: run["supervision"][metric] for run in runs for metric in run["metrics"]}
    return {title: seen[metric] for title, metric in COLUMNS.items() if metric in seen}


def overview(numbers: Numbers) -> Rows:
    """Arms by numbers, mean and deviation; under the titles the masks that each number has seen."""
    titles = present(numbers)
    rows = [["arm", *titles], ["masks it has seen", *titles.values()]]
    for arm in numbers["arms"]:
        runs = ran(numbers, arm).values()
        rows.append([arm, *(_mean([r["metrics"].get(COLUMNS[t], math.nan) for r in runs]) for t in titles)])
    return rows


def comparison(numbers: Numbers, stage: str, found: dict[str, dict[str | int, Difference]]) -> Rows:
    """Arms by mIoU, its difference to the reference, both intervals, and p after Holm's correction over the arms."""
    corrected = dict(zip(found, holm([d[""].p if "" in d else math.nan for d in found.values()]), strict=True))
    rows = [["arm", "mIoU", "difference", "95 % over seeds", "95 % over images", "p (Holm)", "seeds"]]
    for arm in numbers["arms"]:
        runs = ran(numbers, arm)
        row = [arm, _mean([_value(run, stage, "") for run in runs.values()])]
        difference = found.get(arm, {}).get("")
        if difference is None:
            row += ["-"] * 4
        else:
            row += [difference.cell(), _range(difference.seeds), _range(difference.images)]
            row.append(_probability(corrected[arm]))
        rows.append([*row, str(len(runs))])
    return rows


def by_class(numbers: Numbers, stage: str, found: dict[str, dict[str | int, Difference]]) -> Rows:
    """Thirds by class frequency, then every class: the reference's IoU, and each arm's difference to it."""
    reference = list(ran(numbers, numbers["reference"]).values())
    rows = [["class", "images", numbers["reference"], *found]]
    counts = ["", *map(str, numbers["counts"])]
    parts: list[tuple[str, str, str | int]] = [(part[1:], "", part) for part in PARTS[1:]]
    parts += [(name, counts[c], c) for c, name in enumerate(numbers["classes"])]
    for name, images, part in parts:
        mean = _mean([_value(run, stage, part) for run in reference])
        cells = [d[part].cell(spread=True) if part in d else "-" for d in found.values()]
        if mean != "-" or any(cell != "-" for cell in cells):
            rows.append([name, images, mean, *cells])
    return rows


def by_seed(numbers: Numbers, stage: str) -> Rows:
    """The mIoU of every run."""
    rows = [["arm", *(f"seed {seed}" for seed in numbers["seeds"])]]
    for arm in numbers["arms"]:
        runs = ran(numbers, arm)
        rows.append([arm, *(_mean([_value(runs[s], stage, "")]) if s in runs else "-" for s in numbers["seeds"])])
    return rows


def stage_tables(numbers: Numbers) -> dict[str, dict[str, Rows]]:
    """By stage that has masks: `comparison`, `by class` and `by seed`."""
    tables = {}
    for stage in STAGES:
        if any(f"{stage}/miou" in run["metrics"] for arm in numbers["arms"] for run in ran(numbers, arm).values()):
            found = {arm: differences(numbers, stage, arm) for arm in others(numbers)}
            tables[stage] = {
                "comparison": comparison(numbers, stage, found),
                "by class": by_class(numbers, stage, found),
                "by seed": by_seed(numbers, stage),
            }
    return tables


def markdown(rows: Rows) -> str:
    """A Markdown table, its first row the head."""

    def line(row: list[str]) -> str:
        cells = [re.sub(r"([|*_<`\\])", r"\\\1", cell) for cell in row]
        marked = (f"**{text}**" if isinstance(cell, Bold) else text for text, cell in zip(cells, row, strict=True))
        return "| " + " | ".join(marked) + " |"

    head, *body = rows
    return "\n".join([line(head), "|---" + "|---:" * (len(head) - 1) + "|", *map(line, body)])


ESCAPES = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "±": r"$\pm$",
}


def latex(rows: Rows, caption: str) -> str:
    """A tabular that needs no package, under a comment that says what it is."""

    def cell(text: str) -> str:
        escaped = re.sub(r"(^|(?<= ))-(?=\d)", "$-$", "".join(ESCAPES.get(c, c) for c in text))
        return rf"\textbf{{{escaped}}}" if isinstance(text, Bold) else escaped

    lines = [" & ".join(map(cell, row)) + r" \\" for row in rows]
    columns = "l" + "r" * (len(rows[0]) - 1)
    head = [f"% {caption}", rf"\begin{{tabular}}{{{columns}}}", r"\hline", lines[0], r"\hline"]
    return "\n".join([*head, *lines[1:], r"\hline", r"\end{tabular}"])


def tidy(numbers: Numbers) -> str:
    """CSV: a row an arm, seed, metric and class (empty for a mean), with the masks that it has seen."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "seed", "metric", "class", "value", "supervision"])
    for arm in numbers["arms"]:
        for seed, run in ran(numbers, arm).items():
            for metric, value in run["metrics"].items():
                writer.writerow([arm, seed, metric, "", value, run["supervision"][metric]])
            for stage, iou in run["iou"].items():
                seen = run["supervision"][f"{stage}/miou"]
                for name, value in zip(numbers["classes"], iou, strict=True):
                    writer.writerow([arm, seed, f"{stage}/iou", name, "" if value is None else value, seen])
    return text.getvalue()


def document(numbers: Numbers) -> str:
    """The Markdown document: command, how it was measured, tables, settings of the arms."""
    reference, n = numbers["reference"], len(numbers["seeds"])
    held = (
        f" With {n} seeds it holds the true difference in about {COVERAGE[n]} % of the cases." if n in COVERAGE else ""
    )
    intervals = (
        f"Differences are to `{reference}`, paired by seed; classes show them ± their standard deviation. Intervals at "
        f"95 %: over seeds by bootstrap, widened for few seeds.{held} Over images from {RESAMPLES:,} draws of the "
        f"scored images, the same for both arms and all seeds. p: paired t-test, with Holm's correction over the "
        f"{len(others(numbers))} arms of a table. Bold: both intervals exclude zero."
        if n > 1
        else f"Differences are to `{reference}`. One seed only: there is no interval over seeds and no p, and "
        "nothing is bold."
    )
    parts = [
        f"Command: `{numbers['command']}` (commit {numbers['commit']}, torch {numbers['torch']}).",
        f"{'Mean ± standard deviation over' if n > 1 else 'From'} {n} seed{'s' * (n > 1)} "
        f"({', '.join(map(str, numbers['seeds']))}), in points. "
        "Every arm has the same seeds, data and order of the data. Each run's background threshold is the best one on "
        "the masks of the select split; the first row says which masks a number has seen. Two runs with the same seed "
        "on the same machine give the same numbers.",
        markdown(overview(numbers)),
        intervals,
    ]
    for stage, tables in stage_tables(numbers).items():
        parts += [f"## {STAGES[stage]}", *map(markdown, tables.values())]
    failed = [
        f"- {arm}, seed {run['seed']}: {run['failed']}"
        for arm, entry in numbers["arms"].items()
        for run in entry["runs"]
        if "failed" in run
    ]
    if failed:
        parts += ["## Runs that failed, and are in no number", "\n".join(failed)]
    changes = [
        f"- {arm}: " + (", ".join(f"`{k}: {json.dumps(v)}`" for k, v in entry["changes"].items()) or "the reference")
        for arm, entry in numbers["arms"].items()
    ]
    return "\n\n".join([*parts, "## Settings that differ from the reference", "\n".join(changes)])


def latex_document(numbers: Numbers) -> str:
    """Every table of the document as a tabular."""
    parts = [latex(overview(numbers), "Mean and standard deviation, in points")]
    for stage, tables in stage_tables(numbers).items():
        parts += [latex(rows, f"{STAGES[stage]}, {name}") for name, rows in tables.items()]
    return "\n\n".join(parts) + "\n"
