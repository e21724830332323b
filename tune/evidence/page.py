"""The report's page: gathers its tables and figures; the words around them are in templates/report.html."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from markdown_it import MarkdownIt
from markupsafe import Markup
from optuna.trial import FrozenTrial

from sfc.config import Pseudo
from sfc.config.files import change_config
from sfc.data import Dataset, open_dataset
from sfc.errors import UserError
from tune.evidence import charts, trials
from tune.evidence.answer import Answer, confirmation, load_answer
from tune.evidence.importance import LEAST, STEADY, inner_trials, shares
from tune.evidence.tables import TEMPLATES, heading, number, spread
from tune.evidence.trials import Evidence
from tune.evidence.verdict import interval
from tune.study.study import proxies, sweeps, values_of
from tune.tracking.versions import versions

LISTED = 20
"""Complete trials in the leaderboard itself; the others are folded below it."""
PICTURED = 4
"""Images of the split that are shown, evenly spaced in its list."""
MIOU = "seed/best_miou"
"""Number against which objectives without masks are compared."""
Bars = tuple[list[str], list[tuple[str, list[float]]]]
"""Names of the series, and rows: a label with the value of each series."""


def importance(e: Evidence, some: Sequence[FrozenTrial], score: str) -> dict[str, Any]:
    """Shares of the variance, and the tried values of each parameter, over complete trials or `inner_trials` of them,
    whose value is called `score`."""
    result, names = shares(some), list(dict.fromkeys(name for t in some for name in t.params))
    partial = {name: f" (in {s.trials} of {len(some)})" for name, s in result.items() if s.trials < len(some)}
    best = values_of(e.best) if e.best else {}
    return {
        "trials": len(some),
        "score": score,
        "bars": ([score], [(name + partial.get(name, ""), [share.value]) for name, share in result.items()]),
        "conditional": bool(partial),
        "names": names,
        "slices": charts.slices(some, score, best, e.published_values) if names else "",
    }


def rule_of(e: Evidence, trial: FrozenTrial) -> Pseudo:
    """Fusion and background rule of a trial, with the threshold at which its objective was measured."""
    changes = dict(values_of(trial))
    threshold = trial.user_attrs.get("metrics", {}).get("seed/best_threshold")
    if sweeps(e.study) and threshold is not None:
        changes["pseudo.threshold"] = threshold
    return change_config(e.base, changes).pseudo


def maps(e: Evidence, data: Dataset) -> dict[str, Any] | None:
    """The same images under the published setting and under the best.

    Raises:
        UserError, OSError: an image, a mask or a map can't be read.
    """
    folders = {title: t.user_attrs.get("maps", "/nowhere") for title, t in e.compared.items()}
    settings = {k: (Path(v), rule_of(e, e.compared[k])) for k, v in folders.items() if Path(v).is_dir()}
    if not settings:
        return None
    ids = data.ids(e.base.data.select)
    names = ids[:: -(-len(ids) // PICTURED)]
    return {"src": charts.maps(data, names, settings), "titles": list(settings), "images": len(names)}


def class_bars(iou: dict[str, list[float]], data: Dataset, counts: list[int]) -> Bars | None:
    """IoU by class, the most frequent first, of each series that has it: (K,) values, background first."""
    iou = {title: values for title, values in iou.items() if values}
    order = np.argsort(-np.asarray(counts), kind="stable")
    rows = [(f"{data.classes[c]} ({counts[c]})", [values[c + 1] for values in iou.values()]) for c in order]
    return (list(iou), rows) if iou else None


def with_data(e: Evidence, answer: Answer | None) -> dict[str, Any]:
    """The figures that need the data set; `missing` and `no_maps` say why the page has none of them."""
    drawn: dict[str, Any] = dict.fromkeys(("maps", "seed_classes", "final_classes")) | {"missing": "", "no_maps": ""}
    try:
        data = open_dataset(e.base.data, cache=e.results / "store" / "readable")
        counts = data.split(e.base.data.train).labels.sum(0).tolist()
    except (UserError, OSError) as error:
        return drawn | {"missing": f"the data set can't be read: {error}"}
    seeds = {title: t.user_attrs.get("iou", {}).get("seed", []) for title, t in e.compared.items()}
    drawn["seed_classes"] = class_bars(seeds, data, counts)
    if answer:
        drawn["final_classes"] = class_bars(answer.iou(), data, counts)
    try:
        drawn["maps"] = maps(e, data)
    except (UserError, OSError) as error:
        drawn["no_maps"] = f"an image or its maps can't be read: {error}"
    return drawn


def tables_of(file: Path) -> Markup:
    """A file of Markdown tables as HTML, without its title; its headings are two levels lower."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    tokens = markdown.parse(file.read_text(encoding="utf-8"))
    if tokens and tokens[0].type == "heading_open":
        tokens = tokens[3:]
    for token in tokens:
        if token.type.startswith("heading_"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))  # escaped by the library


def ablations(e: Evidence) -> list[dict[str, Any]]:
    """Tables of the ablations in the results folder, those of other studies left out."""
    result = []
    for file in sorted(e.results.glob("ablations/*/tables.md")):
        about = file.with_name("numbers.json")
        origin = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
        if origin.get("study") in (None, e.study.study_name):
            result.append({"name": file.parent.name, "html": tables_of(file)})
    return result


def breakable(name: str) -> Markup:
    """A setting's or number's name that may break behind a dot, a slash or an underscore."""
    return Markup("<wbr>").join(re.split(r"(?<=[./_])", name))


def page(study: optuna.Study, results: Path, command: str = "") -> str:
    """The report.

    Args:
        study: any; a part that it lacks is left out, or the page says why.
        results: its results folder.
        command: the command that makes the page.

    Returns:
        HTML that needs no other file.
    """
    e = Evidence(study, results)
    answer = load_answer(e)
    scored = [t.user_attrs["metrics"] for t in e.ranked if MIOU in t.user_attrs.get("metrics", {})]
    seed_miou = [metrics[MIOU] for metrics in scored]
    taus = proxies(e.ranked)
    top = e.ranked[:LISTED]
    if e.reference is not None and e.reference not in top:
        top.append(e.reference)
    inner = inner_trials(e.ranked)
    values = {
        "leaderboard": trials.leaderboard(e, top),
        "others": trials.leaderboard(e, [t for t in e.ranked if t not in top]),
        "gains": trials.gains(e),
        "changes": trials.changes(e),
        "histories": {title: t.user_attrs["history"] for title, t in e.compared.items() if t.user_attrs.get("history")},
        "proxies": taus,
        "proxy_points": {name: ([metrics[name] for metrics in scored], seed_miou) for name in taus},
        "seed_miou": seed_miou,
        "outer": importance(e, e.ranked, e.metric),
        "inner": importance(e, inner, "difference from its trial's mean") if inner else None,
        "saved": trials.saved(e),
        "early": trials.unranked(e, e.early),
        "failed": trials.unranked(e, e.failed),
        "previewed": [t for t in (*e.ranked, *e.early) if t.intermediate_values],
        "search_masks": trials.search_masks(e.metric),
        "confirmation": confirmation(e),
        "comparison": tables_of(e.results / "final" / study.study_name / "tables.md") if answer else "",
        "ablations": ablations(e),
        "versions": versions(),
        **with_data(e, answer),
    }
    constants = {"least": LEAST, "steady": STEADY, "charts": charts, "command": command}
    environment = TEMPLATES.overlay()
    environment.filters |= {"number": number, "spread": spread, "breakable": breakable}
    environment.filters |= {"interval": interval, "heading": heading}
    template = environment.get_template("report.html")
    return template.render(e=e, answer=answer, **values, **constants)
