"""An ablation's numbers as data frames, written as Markdown, LaTeX and tidy CSV. Points are hundredths of mIoU.

A difference is bold where the interval over seeds and the interval over images both exclude zero, and nowhere else.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from sfc.scoring.metrics import frequency_thirds
from sfc.scoring.names import PARTS, title_of
from sfc.scoring.tally import IMAGES, read_images
from tune.evidence.stats import RESAMPLES, Interval, holm, over_images, paired

Numbers = dict[str, Any]
"""The content of an ablation's numbers.json; see `tune.ablate`."""
STAGES = ("seed_val", "pseudo_train", "val")
"""Prefixes of the numbers that arms are compared by: masks of their images chose no threshold."""
TEMPLATES = Environment(
    loader=PackageLoader("tune.evidence"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
OVERVIEW = ("seed/best_miou", *(f"seed_val/miou{part}" for part in PARTS), "pseudo_train/miou", "val/miou")


class Bold(str):
    """A cell in bold."""


def number(value: float | None, form: str = ".4f", missing: str = "–") -> str:
    """A number in a cell; `missing` for one that was not measured or is not finite."""
    return missing if value is None or not math.isfinite(value) else format(value, form)


def spread(values: Iterable[float], form: str = ".4f", missing: str = "–") -> str:
    """Mean ± standard deviation of the finite values."""
    finite = [v for v in values if math.isfinite(v)]
    mean = number(statistics.mean(finite) if finite else None, form, missing)
    return f"{mean} ± {statistics.stdev(finite):{form}}" if len(finite) > 1 else mean


def _points(values: Iterable[float]) -> str:
    return spread([100 * value for value in values], ".1f", "-")


def _signed(value: float) -> str:
    return number(100 * value, "+.1f", "-")


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else number(p, ".3f", "-")


@dataclass(frozen=True)
class Difference:
    """An arm minus the reference in one number, in [-1, 1]."""

    seeds: Interval
    spread: float
    """Standard deviation over seeds; NaN for one."""
    images: Interval
    p: float
    """Result of the paired t-test, without correction."""

    def cell(self, *, spread: bool = False) -> str:
        """The difference in points, bold where both intervals exclude zero."""
        text = _signed(self.seeds.value)
        if spread and math.isfinite(self.spread):
            text += f" ± {100 * self.spread:.1f}"
        return Bold(text) if self.seeds.excludes_zero and self.images.excludes_zero else text


Differences = dict[str | int, Difference]
"""By part of the mIoU (`""`, `_head`, ...), and by channel of a class."""


def heading(name: str) -> str:
    """Title of an mIoU: `val/miou_tail` -> `segmentation, val, tail`."""
    return title_of(name) + next((part.replace("_", ", ") for part in PARTS[1:] if name.endswith(part)), "")


def ran(numbers: Numbers, arm: str) -> dict[int, dict[str, Any]]:
    """The runs of an arm that gave numbers, by seed."""
    return {run["seed"]: run for run in numbers["arms"][arm]["runs"] if "failed" not in run}


def values(numbers: Numbers, arm: str, name: str) -> list[float]:
    """A number of every run of an arm that gave numbers; NaN where a run lacks it."""
    return [run["metrics"].get(name, math.nan) for run in ran(numbers, arm).values()]


def mean(numbers: Numbers, arm: str, name: str) -> float:
    """Mean over the seeds of an arm's number; NaN where a run lacks it, or none gave numbers."""
    own = values(numbers, arm, name)
    return statistics.fmean(own) if own else math.nan


def _value(run: dict[str, Any], stage: str, part: str | int) -> float:
    """A part of the mIoU (`_head`), or a class by its channel; NaN where the run has no such number."""
    if isinstance(part, int):
        value = run["iou"].get(stage, {part: None})[part]
        return math.nan if value is None else value
    return run["metrics"].get(f"{stage}/miou{part}", math.nan)


def differences(numbers: Numbers, stage: str, arm: str, reference: str | None = None) -> Differences:
    """An arm against a reference on a stage: the mIoU, its parts, and every class by channel.

    Args:
        numbers: with folders that hold the counts of each image.
        stage: one of `STAGES`.
        arm: another than the reference.
        reference: None: the numbers' own.

    Returns:
        Only numbers that both have; seeds that one of them lacks are left out.
    """
    ours, theirs = ran(numbers, arm), ran(numbers, reference or numbers["reference"])
    seeds = [seed for seed in theirs if seed in ours]
    channels = range(len(numbers["classes"]))
    groups: dict[str | int, Sequence[int] | np.ndarray] = {"": channels, **{c: [c] for c in channels}}
    groups |= {f"_{name}": third for name, third in frequency_thirds(numbers["counts"]).items()}
    folders = [[Path(runs[seed]["folders"].get(stage, "/nowhere")) for seed in seeds] for runs in (ours, theirs)]
    if not seeds or not all((folder / IMAGES).is_file() for side in folders for folder in side):
        return {}
    pixels = [[read_images(folder)[1] for folder in side] for side in folders]
    result: Differences = {}
    for part, images in zip(groups, over_images(pixels[0], pixels[1], list(groups.values())), strict=True):
        values = np.array([_value(ours[s], stage, part) - _value(theirs[s], stage, part) for s in seeds])
        if np.isfinite(values).all():
            spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
            seeds_interval, p = paired(values)
            result[part] = Difference(seeds_interval, spread, images, p)
    return result


def overview(numbers: Numbers) -> pd.DataFrame:
    """Arms by numbers, mean and deviation; the first row says which masks each number has seen."""
    runs = {arm: ran(numbers, arm).values() for arm in numbers["arms"]}
    masks: dict[str, str] = {}
    for run in (run for own in runs.values() for run in own):  # the first arm's; true masks as labels come last
        masks = {name: run["supervision"][name] for name in run["metrics"]} | masks
    names = [name for name in OVERVIEW if name in masks]
    rows = [["masks it has seen", *(masks[name] for name in names)]]
    for arm, own in runs.items():
        rows.append([arm, *(_points(run["metrics"].get(name, math.nan) for run in own) for name in names)])
    return pd.DataFrame(rows, columns=["arm", *map(heading, names)], dtype=object)


def comparison(numbers: Numbers, stage: str, by_arm: dict[str, Differences]) -> pd.DataFrame:
    """Arms by mIoU, its difference to the reference, both intervals, and p after Holm's correction over the arms."""
    corrected = dict(zip(by_arm, holm([d[""].p if "" in d else math.nan for d in by_arm.values()]), strict=True))
    rows = []
    for arm in numbers["arms"]:
        runs, cells = ran(numbers, arm).values(), ["-"] * 4
        if (d := by_arm.get(arm, {}).get("")) is not None:
            ranges = [
                f"{_signed(i.low)} to {_signed(i.high)}" if math.isfinite(i.low) else "-" for i in (d.seeds, d.images)
            ]
            cells = [d.cell(), *ranges, _probability(corrected[arm])]
        rows.append([arm, _points(_value(run, stage, "") for run in runs), *cells, str(len(runs))])
    columns = ["arm", "mIoU", "difference", "95 % over seeds", "95 % over images", "p (Holm)", "seeds"]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def by_class(numbers: Numbers, stage: str, by_arm: dict[str, Differences]) -> pd.DataFrame:
    """Thirds by class frequency, then every class: the reference's IoU, and each arm's difference to it."""
    parts: list[tuple[str, str, str | int]] = [(part[1:], "", part) for part in PARTS[1:]]
    images = ["", *map(str, numbers["counts"])]
    parts += [(name, images[c], c) for c, name in enumerate(numbers["classes"])]
    rows = []
    for name, count, part in parts:
        mean = _points(_value(run, stage, part) for run in ran(numbers, numbers["reference"]).values())
        cells = [d[part].cell(spread=True) if part in d else "-" for d in by_arm.values()]
        if {mean, *cells} != {"-"}:
            rows.append([name, count, mean, *cells])
    return pd.DataFrame(rows, columns=["class", "images", numbers["reference"], *by_arm], dtype=object)


def by_seed(numbers: Numbers, stage: str) -> pd.DataFrame:
    """The mIoU of every run."""
    seeds, rows = numbers["seeds"], []
    for arm in numbers["arms"]:
        runs = ran(numbers, arm)
        rows.append([arm, *(_points([_value(runs[s], stage, "")] if s in runs else []) for s in seeds)])
    return pd.DataFrame(rows, columns=["arm", *(f"seed {seed}" for seed in seeds)], dtype=object)


def tables(numbers: Numbers) -> dict[str, pd.DataFrame]:
    """Every table by its title: the overview, then three for each stage that has masks."""
    result = {"Overview": overview(numbers)}
    for stage in STAGES:
        if any(f"{stage}/miou" in run["metrics"] for arm in numbers["arms"] for run in ran(numbers, arm).values()):
            by_arm = {arm: differences(numbers, stage, arm) for arm in numbers["arms"] if arm != numbers["reference"]}
            title = title_of(stage).capitalize()
            result[f"{title}: comparison"] = comparison(numbers, stage, by_arm)
            result[f"{title}: classes"] = by_class(numbers, stage, by_arm)
            result[f"{title}: every run"] = by_seed(numbers, stage)
    return result


def tidy(numbers: Numbers) -> pd.DataFrame:
    """Every number: a row an arm, seed, metric and class (empty for a mean), with the masks that it has seen."""
    rows: list[tuple[Any, ...]] = []
    for arm in numbers["arms"]:
        for seed, run in ran(numbers, arm).items():
            rows += [(arm, seed, name, "", value, run["supervision"][name]) for name, value in run["metrics"].items()]
            for stage, iou in run["iou"].items():
                masks, classes = run["supervision"][f"{stage}/miou"], zip(numbers["classes"], iou, strict=True)
                rows += [(arm, seed, f"{stage}/iou", name, value, masks) for name, value in classes]
    return pd.DataFrame(rows, columns=["arm", "seed", "metric", "class", "value", "supervision"])


def _escaped(table: pd.DataFrame, escape: Callable[[str], str], bold: str) -> pd.DataFrame:
    """Names and cells escaped, bold ones put into the format `bold`."""
    cells = table.map(lambda cell: bold.format(escape(cell)) if isinstance(cell, Bold) else escape(cell))
    return cells.set_axis([escape(name) for name in table.columns], axis=1)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([]\\`*_{}[<>&|$~])", r"\\\1", text)


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table; names are escaped."""
    align = ["left", *["right"] * (len(table.columns) - 1)] if len(table) else None
    return _escaped(table, _plain, "**{}**").to_markdown(index=False, disable_numparse=True, colalign=align)


ESCAPES = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {c: f"${c}$" for c in "<>|"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
)


def latex(table: pd.DataFrame, caption: str) -> str:
    """A tabular that needs no package, under a comment that says what it is; names are escaped."""
    minus = r"(^|(?<= ))-(?=\d)"
    cells = _escaped(table, lambda text: re.sub(minus, "$-$", text.translate(ESCAPES)), r"\textbf{{{}}}")
    text = cells.to_latex(index=False, escape=False, column_format="l" + "r" * (len(table.columns) - 1))
    return f"% {caption}\n" + re.sub(r"^\\(top|mid|bottom)rule$", r"\\hline", text, flags=re.MULTILINE).strip()


def document(numbers: Numbers) -> str:
    """The Markdown document: command, how it was measured, tables, settings of the arms."""
    values = {"tables": {title: markdown(table) for title, table in tables(numbers).items()}, "draws": f"{RESAMPLES:,}"}
    template = TEMPLATES.get_template("ablation.md")
    return template.render(numbers=numbers, plain=_plain, json=json.dumps, **values).strip()


def latex_document(numbers: Numbers) -> str:
    """Every table of the document as a tabular."""
    return "\n\n".join(latex(table, f"{title}, in points") for title, table in tables(numbers).items()) + "\n"
