"""One HTML file on a study, which stands alone: python tune/report.py --study NAME."""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from optuna.trial import FrozenTrial

from sfc.__main__ import guarded, set_up_logging
from sfc.config import Pseudo
from sfc.config.files import change_config
from sfc.data import Dataset, open_dataset
from sfc.errors import UserError
from sfc.runtime.store import write_atomic
from tune.evidence import charts
from tune.evidence import findings as evidence
from tune.evidence.findings import Evidence, number, spread
from tune.evidence.importance import LEAST, STEADY, inner_trials, settings_of, shares
from tune.study.study import load_study, name_of
from tune.tracking.versions import versions

LISTED = 20
"""Complete trials in the leaderboard itself; the others are folded below it."""
PICTURED = 4
"""Images of the split that are shown, evenly spaced in its list."""


@dataclass(frozen=True)
class Picture:
    """A figure: its data URI, what it shows in words, and what to see in it."""

    src: str
    alt: str
    caption: str


def history(e: Evidence) -> Picture:
    """What was found when."""
    alt = (
        f"{e.metric} of {len(e.ranked)} complete trials in the order they began; epochs of all {len(e.trials)} trials."
    )
    if e.best is not None:
        alt += f" The best is trial {e.best.number} with {number(e.best.value)}."
    caption = (
        f"Above: {e.metric} ({e.seen(e.metric)}) of the trials that ran in full. Below: how far each trial trained; "
        "those stopped early and those that failed have no number above."
    )
    return Picture(charts.history(e.trials, e.metric, e.reference), alt, caption)


def previews(e: Evidence) -> Picture | None:
    """What early stopping compared."""
    shown = [t for t in (*e.ranked, *e.early) if t.intermediate_values]
    if not shown:
        return None
    seen = "image-labels" if e.metric.startswith("proxy/") else "same masks"
    caption = (
        f"Previews ({seen}) by epoch: few images at one scale, so they compare trials with each other, not with the "
        "numbers above. A line that ends early was stopped there."
    )
    return Picture(charts.previews(shown), f"Previews by epoch of {len(shown)} trials.", caption)


def losses(e: Evidence) -> Picture | None:
    """Training of the best against the published setting."""
    pairs = {"published": e.reference, "best": e.best}
    found = {k: t.user_attrs["history"] for k, t in pairs.items() if t is not None and t.user_attrs.get("history")}
    if not found:
        return None
    caption = "Losses of the classifier by epoch. Weights differ between settings, so compare shapes, not heights."
    return Picture(charts.losses(found), f"Losses by epoch: {', '.join(found)}.", caption)


def importance(e: Evidence, trials: Sequence[FrozenTrial], what: str, score: str) -> list[Picture]:
    """Shares of the variance, and what was tried of each parameter.

    Args:
        e: the study.
        trials: its complete trials, or `inner_trials` of them.
        what: they are called.
        score: the name of their value.
    """
    found, pictures = shares(trials), []
    if found:
        labels = {
            f"{name} (in {s.trials} of {len(trials)})" if s.conditional else name: s.value for name, s in found.items()
        }
        alt = f"Importance, {what}: " + ", ".join(f"{name} {share:.2f}" for name, share in labels.items())
        caption = f"Share in the variance of the {score} ({e.seen(e.metric)}), by fANOVA, from {len(trials)} {what}."
        if len(trials) < STEADY:
            caption += f" Fewer than {STEADY}: the order may change with the next one."
        if any(s.conditional for s in found.values()):
            caption += (
                " A parameter that only some have is judged among those; its share does not add up with the rest."
            )
        pictures.append(Picture(charts.importance(labels), alt, caption))
    if names := list(dict.fromkeys(name for t in trials for name in t.params)):
        best = settings_of(e.best) if e.best else {}
        caption = f"Every one of the {what} by the value of each parameter. Line: the best trial; dashed: published."
        src = charts.slices(trials, score, best, e.published_values)
        pictures.append(Picture(src, f"{score} by the values of {', '.join(names)}.", caption))
    return pictures


def rule_of(e: Evidence, trial: FrozenTrial) -> Pseudo:
    """Fusion and background rule of a trial, with the threshold at which its objective was measured."""
    changes = dict(settings_of(trial))
    threshold = trial.user_attrs.get("metrics", {}).get("seed/best_threshold")
    if e.metric.startswith("seed/best") and "pseudo.threshold" not in changes and threshold is not None:
        changes["pseudo.threshold"] = threshold
    return change_config(e.base, changes).pseudo


def maps(e: Evidence, data: Dataset) -> Picture | None:
    """The same images under the published setting and under the best.

    Raises:
        UserError, OSError: an image, a mask or a map can't be read.
    """
    pairs = {"published": e.reference, "best": e.best if e.best is not e.reference else None}
    settings = {
        title: (Path(t.user_attrs["maps"]), rule_of(e, t))
        for title, t in pairs.items()
        if t is not None and Path(t.user_attrs.get("maps", "/nowhere")).is_dir()
    }
    if not settings:
        return None
    split = e.base.data.select
    ids = data.ids(split)
    names = ids[:: -(-len(ids) // PICTURED)]
    caption = (
        f"{len(names)} images, evenly spaced in the list of the split {split}. Fused map: the strongest class at each "
        "pixel, bright where it is sure. Seeds: what is taken from it. Mask: the truth; white is void."
    )
    alt = f"Fused maps and seeds of {' and '.join(settings)} over {len(names)} images, with their masks."
    return Picture(charts.maps(data, names, settings), alt, caption)


def seed_classes(e: Evidence, data: Dataset, counts: list[int]) -> Picture | None:
    """Seed IoU by class of the best and the published setting."""
    pairs = {"published": e.reference, "best": e.best}
    iou = {
        k: t.user_attrs["iou"]["seed"]
        for k, t in pairs.items()
        if t is not None and "seed" in t.user_attrs.get("iou", {})
    }
    if not iou:
        return None
    caption = (
        f"Seeds on the split {e.base.data.select} ({e.seen_of_best('seed/miou')}), at the background threshold of the "
        "settings. In brackets: training images; the most frequent class is on top."
    )
    return Picture(charts.class_bars(iou, data.classes, counts), f"Seed IoU by class: {' and '.join(iou)}.", caption)


def final_classes(found: dict[str, Any], data: Dataset, counts: list[int]) -> Picture | None:
    """IoU by class of the stages behind the seeds, mean over the chosen trial's seeds."""
    chosen = evidence.chosen_of(found)
    iou, seen = {}, []
    for name, title in (("pseudo", "pseudo-labels, train"), ("val", "segmentation, val")):
        if all(run.get("iou", {}).get(name) for run in chosen["runs"]):
            series = zip(*(run["iou"][name] for run in chosen["runs"]), strict=True)
            iou[title] = [statistics.mean(math.nan if v is None else v for v in values) for values in series]
            seen.append(f"{title}: {chosen['runs'][0]['supervision'][f'{name}/miou']}")
    if not iou:
        return None
    caption = f"Trial {chosen['trial']} through all stages, mean over {len(chosen['runs'])} seeds ({'; '.join(seen)})."
    return Picture(charts.class_bars(iou, data.classes, counts), f"IoU by class: {', '.join(iou)}.", caption)


def with_data(e: Evidence, found: dict[str, Any] | None) -> dict[str, Any]:
    """The figures that need the data set; `missing` and `no_maps` say why there are none where it can't be read."""
    drawn: dict[str, Any] = dict.fromkeys(("maps", "seed_classes", "final_classes")) | {"missing": "", "no_maps": ""}
    try:
        data = open_dataset(e.base.data, cache=e.results / "store" / "readable")
        counts = data.split(e.base.data.train).labels.sum(0).tolist()
    except (UserError, OSError) as error:
        return drawn | {"missing": f"the data set can't be read: {error}"}
    drawn["seed_classes"] = seed_classes(e, data, counts)
    drawn["final_classes"] = final_classes(found, data, counts) if found else None
    try:
        drawn["maps"] = maps(e, data)
    except (UserError, OSError) as error:
        drawn["no_maps"] = f"an image or its maps can't be read: {error}"
    return drawn


def ablations(e: Evidence) -> list[dict[str, Any]]:
    """Tables of the ablations in the results folder, those of other studies left out."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    found = []
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
            found.append({"name": file.parent.name, "html": html})
    return found


def breakable(name: str) -> Markup:
    """A setting's or number's name that may break behind a dot, a slash or an underscore."""
    return Markup("<wbr>").join(re.split(r"(?<=[./_])", name))


def page(study: optuna.Study, results: Path, command: str = "") -> str:
    """The report.

    Args:
        study: any; what it lacks is left out, or the page says why.
        results: its results folder.
        command: that makes the page.

    Returns:
        HTML that needs no other file.
    """
    e = Evidence(study, results)
    found = evidence.finals(e)
    tau = evidence.ranking_held(found) if found else None
    target, proxies = evidence.mask_free(e)
    top = e.ranked[:LISTED]
    if e.reference is not None and e.reference not in top:
        top.append(e.reference)
    inner = inner_trials(e.ranked)
    environment = Environment(
        loader=PackageLoader("tune.evidence"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "spread": spread, "breakable": breakable}
    return environment.get_template("report.html").render(
        e=e,
        leaderboard=evidence.leaderboard(e, top),
        others=evidence.leaderboard(e, [t for t in e.ranked if t not in top]),
        gains=evidence.gains(e),
        changes=evidence.changes(e),
        history=history(e),
        losses=losses(e),
        outer=importance(e, e.ranked, "complete trials", e.metric),
        inner=importance(e, inner, "evaluations inside trials", "difference from its trial's mean") if inner else [],
        least=LEAST,
        saved=evidence.saved(e),
        early=evidence.unranked(e, e.early),
        failed=evidence.unranked(e, e.failed),
        previews=previews(e),
        target=target,
        proxies=proxies,
        proxy_scatter=charts.scatter({k: (x, y) for k, (x, y, _) in proxies.items()}, target) if proxies else "",
        found=found,
        chosen=evidence.chosen_of(found) if found else None,
        run_values=evidence.run_values,
        finals=evidence.finals_table(found) if found else None,
        final_scatter=final_scatter(found) if found else "",
        tau=tau,
        orders=math.factorial(len(found["trials"])) if found and tau.low > 1 - 1e-9 else 0,
        nothing=tau is None or math.isnan(tau.value),
        ablations=ablations(e),
        command=command,
        versions=versions(),
        **with_data(e, found),
    )


def final_scatter(found: dict[str, Any]) -> str:
    """The search's number of each trial taken through, and its final mIoU with the deviation over seeds."""
    finals = [[v for v in evidence.run_values(t, "val/miou") if math.isfinite(v)] for t in found["trials"]]
    if len(finals) < 2 or not all(finals):
        return ""
    errors = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in finals]
    values = [t["value"] for t in found["trials"]]
    return charts.scatter(
        {f"search: {found['metric']}": (values, [statistics.mean(v) for v in finals])}, "val/miou", errors
    )


def default_file(study: str, results: Path) -> Path:
    """`<results>/reports/<STUDY>.html`; what a file name can't hold becomes `_`."""
    return results / "reports" / (re.sub(r"[^\w.-]", "_", study) + ".html")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python tune/report.py", description=__doc__)
    parser.add_argument("--study", required=True)
    parser.add_argument("--results", type=lambda text: Path(text).absolute(), default="results")
    parser.add_argument("--out", type=Path, help="the file; by default RESULTS/reports/STUDY.html")
    given = parser.parse_args(arguments)
    words = shlex.join(sys.argv[1:] if arguments is None else arguments)

    def command() -> int:
        set_up_logging()
        html = page(load_study(given.study, given.results), given.results, f"python tune/report.py {words}")
        file = given.out or default_file(given.study, given.results)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, html)
        except OSError as error:
            raise UserError(f"--out {file}: can't be written: {error.strerror}") from None
        print(f"report: {file}")
        return 0

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
