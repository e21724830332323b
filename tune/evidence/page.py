"""The report's page: gathers its tables and figures; the words around them are in templates/report.html."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from optuna.trial import FrozenTrial

from sfc.config import Pseudo
from sfc.config.files import change_config
from sfc.data import Dataset, open_dataset
from sfc.errors import UserError
from sfc.scoring.names import title_of
from tune.evidence import charts, trials
from tune.evidence.finals import Finals, load_finals, spread
from tune.evidence.importance import LEAST, STEADY, inner_trials, shares
from tune.evidence.trials import Evidence
from tune.final import sweeps
from tune.study.study import name_of, values_of
from tune.tracking.tracker import versions

LISTED = 20
"""Complete trials in the leaderboard itself; the others are folded below it."""
PICTURED = 4
"""Images of the split that are shown, evenly spaced in its list."""


def importance(e: Evidence, some: Sequence[FrozenTrial], score: str) -> dict[str, Any]:
    """Shares of the variance, and the tried values of each parameter.

    Args:
        e: the study.
        some: its complete trials, or `inner_trials` of them.
        score: the name of their value.
    """
    result = shares(some)
    labels = {f"{n} (in {s.trials} of {len(some)})" if s.conditional else n: s.value for n, s in result.items()}
    names = list(dict.fromkeys(name for t in some for name in t.params))
    best = values_of(e.best) if e.best else {}
    return {
        "trials": len(some),
        "score": score,
        "shares": labels,
        "conditional": any(s.conditional for s in result.values()),
        "bars": charts.importance(labels) if labels else "",
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


def class_bars(iou: dict[str, list[float]], data: Dataset, counts: list[int]) -> dict[str, Any] | None:
    """IoU by class of each series that has it."""
    iou = {title: values for title, values in iou.items() if values}
    return {"src": charts.class_bars(iou, data.classes, counts), "titles": list(iou)} if iou else None


def with_data(e: Evidence, finals: Finals | None) -> dict[str, Any]:
    """The figures that need the data set; `missing` and `no_maps` say why the page has none of them."""
    drawn: dict[str, Any] = dict.fromkeys(("maps", "seed_classes", "final_classes")) | {"missing": "", "no_maps": ""}
    try:
        data = open_dataset(e.base.data, cache=e.results / "store" / "readable")
        counts = data.split(e.base.data.train).labels.sum(0).tolist()
    except (UserError, OSError) as error:
        return drawn | {"missing": f"the data set can't be read: {error}"}
    seeds = {title: t.user_attrs.get("iou", {}).get("seed", []) for title, t in e.compared.items()}
    drawn["seed_classes"] = class_bars(seeds, data, counts)
    if finals:
        stages = {title_of(stage): finals.chosen.class_iou(stage) for stage in ("pseudo", "val")}
        drawn["final_classes"] = class_bars(stages, data, counts)
    try:
        drawn["maps"] = maps(e, data)
    except (UserError, OSError) as error:
        drawn["no_maps"] = f"an image or its maps can't be read: {error}"
    return drawn


def ablations(e: Evidence) -> list[dict[str, Any]]:
    """Tables of the ablations in the results folder, those of other studies left out."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    result = []
    for file in sorted(e.results.glob("ablations/*/tables.md")):
        about = file.with_name("numbers.json")
        origin = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
        if origin.get("study") in (None, name_of(e.study)):
            tokens = markdown.parse(file.read_text(encoding="utf-8"))
            if tokens and tokens[0].type == "heading_open":  # the page has a heading for each file
                tokens = tokens[3:]
            for token in tokens:
                if token.type.startswith("heading_"):
                    token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
            html = Markup(markdown.renderer.render(tokens, markdown.options, {}))  # escaped by the library
            result.append({"name": file.parent.name, "html": html})
    return result


def final_scatter(finals: Finals) -> str:
    """The search's number of each trial taken through, and its final mIoU with the deviation over seeds."""
    values, means, spreads = finals.points()
    if len(means) < 2 or not all(map(math.isfinite, means)):
        return ""
    return charts.scatter({f"search: {finals.metric}": (values, means)}, "val/miou", spreads)


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
    finals = load_finals(e)
    target, proxies = trials.mask_free(e)
    top = e.ranked[:LISTED]
    if e.reference is not None and e.reference not in top:
        top.append(e.reference)
    inner = inner_trials(e.ranked)
    previewed = [t for t in (*e.ranked, *e.early) if t.intermediate_values]
    histories = {title: t.user_attrs["history"] for title, t in e.compared.items() if t.user_attrs.get("history")}
    environment = Environment(
        loader=PackageLoader("tune.evidence"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": trials.number, "spread": spread, "breakable": breakable}
    return environment.get_template("report.html").render(
        e=e,
        leaderboard=trials.leaderboard(e, top),
        others=trials.leaderboard(e, [t for t in e.ranked if t not in top]),
        gains=trials.gains(e),
        changes=trials.changes(e),
        history=charts.history(e.trials, e.metric, e.reference) if e.trials else "",
        losses=charts.losses(histories) if histories else "",
        histories=histories,
        outer=importance(e, e.ranked, e.metric),
        inner=importance(e, inner, "difference from its trial's mean") if inner else None,
        least=LEAST,
        steady=STEADY,
        saved=trials.saved(e),
        early=trials.unranked(e, e.early),
        failed=trials.unranked(e, e.failed),
        previews=charts.previews(previewed) if previewed else "",
        previewed=previewed,
        search_masks=trials.search_masks(e.metric),
        target=target,
        proxies=proxies,
        proxy_scatter=charts.scatter({k: (x, y) for k, (x, y, _) in proxies.items()}, target) if proxies else "",
        finals=finals,
        final_scatter=final_scatter(finals) if finals else "",
        tau=finals.ranking() if finals else None,
        orders=math.factorial(len(finals.trials)) if finals else 0,
        ablations=ablations(e),
        command=command,
        versions=versions(),
        **with_data(e, finals),
    )
