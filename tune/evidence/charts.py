"""The report's charts, each as a data URI: SVG for marks and lines, PNG for pictures. No display, no network.

Charts of `optuna.visualization.matplotlib` would not serve: they raise on a choice with a `$`, change pyplot's style
for the whole process, draw neither the published setting nor stopped and failed trials, and take results for previews.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike
from optuna.trial import FrozenTrial, TrialState

from sfc.config import Pseudo
from sfc.data import Dataset
from sfc.plots import make_figure, maps_grid
from tune.evidence.importance import inner_of, is_numeric
from tune.space.parameter import decode
from tune.study.study import how_ended

P = ParamSpec("P")

BLUE, GREY = "#0072b2", "#767676"
STATES = {
    TrialState.COMPLETE: (BLUE, "in full"),
    TrialState.PRUNED: ("#e69f00", "stopped early"),
    TrialState.FAIL: ("#d55e00", "failed"),
}
"""Colours that the colour-blind tell apart, and words for the end of a trial."""
SERIES = {"published": GREY, "best": BLUE}
STYLE: Any = {
    "text.parse_math": False,  # a class or a choice may hold a dollar sign
    "svg.fonttype": "none",  # the browser's fonts know more letters than ours
    "svg.hashsalt": "sfc",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def _uri(file: io.BytesIO, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _svg(draw: Callable[P, Figure]) -> Callable[P, str]:
    """A drawing function that runs in the report's style and gives its figure as a data URI."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        file = io.BytesIO()
        with matplotlib.rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # measured with our font, shown with the browser's
            draw(*args, **kwargs).savefig(file, format="svg", metadata={"Date": None})
        return _uri(file, "image/svg+xml")

    return drawn


def _legend(axis: Axes) -> None:
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)


def _whole(axis: Axes, label: str) -> None:
    """Label a horizontal axis of epochs or trials, with ticks at whole numbers alone."""
    axis.set_xlabel(label)
    axis.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True, min_n_ticks=1))


@_svg
def history(trials: Sequence[FrozenTrial], metric: str, published: FrozenTrial | None) -> Figure:
    """Above: the metric of each complete trial, before and after its inner search where it has one, the best so far,
    and the published setting's. Below: epochs that every trial trained."""
    figure, axes = make_figure(9, 4.4, 2, 1, sharex=True, height_ratios=[2.4, 1])
    above, below = axes[:, 0]
    done = sorted((t for t in trials if how_ended(t) == TrialState.COMPLETE), key=lambda t: t.number)
    numbers, values = [t.number for t in done], [t.value or 0.0 for t in done]
    if done:
        last = max(t.number for t in trials)
        above.step([*numbers, last], [*np.maximum.accumulate(values), max(values)], where="post", color=BLUE, lw=1.2)
        above.plot(numbers, values, "o", color=BLUE, label="trial in full; the line is the best so far")
    if inner := [t for t in done if inner_of(t)]:
        low = [math.nan if (value := inner_of(t)[0]["value"]) is None else value for t in inner]
        above.vlines([t.number for t in inner], low, [t.value or 0.0 for t in inner], color=BLUE, lw=0.8, alpha=0.6)
        above.plot([t.number for t in inner], low, "o", mfc="white", color=BLUE, label="before its inner search")
    if published is not None and published.value is not None:
        above.axhline(published.value, color=GREY, ls="--", lw=1, label="published setting")
    above.set_ylabel(metric)
    if done:
        _legend(above)
    for state, (colour, title) in STATES.items():
        if some := [t for t in trials if how_ended(t) == state]:
            epochs = [t.user_attrs.get("epoch", 0) for t in some]
            below.bar([t.number for t in some], epochs, color=colour, label=title)
            if state == TrialState.FAIL:  # one that failed at once has no bar
                below.plot([t.number for t in some], epochs, "x", color=colour, clip_on=False)
    below.set_ylabel("epochs")
    _whole(below, "trial")
    _legend(below)
    return figure


@_svg
def previews(trials: Sequence[FrozenTrial]) -> Figure:
    """The previews that early stopping compared, by epoch, a line a trial."""
    figure, axes = make_figure(9, 3)
    axis = axes[0, 0]
    for state, (colour, title) in STATES.items():
        for i, trial in enumerate(t for t in trials if how_ended(t) == state):
            # The last value of a complete trial is its result: another measure than the previews before it.
            last = trial.user_attrs.get("epoch", 0) if state == TrialState.COMPLETE else None
            points = {epoch: value for epoch, value in sorted(trial.intermediate_values.items()) if epoch != last}
            label = title if i == 0 else None
            axis.plot(list(points), list(points.values()), ".-", color=colour, lw=1, alpha=0.8, label=label)
    _whole(axis, "epoch")
    axis.set_ylabel("preview")
    _legend(axis)
    return figure


def _level(choice: Any) -> str:
    """A choice's label, a long one without its middle."""
    text = choice if isinstance(choice, str) else json.dumps(choice)
    return text if len(text) <= 24 else f"{text[:11]}…{text[-12:]}"


@_svg
def slices(trials: Sequence[FrozenTrial], score: str, best: Mapping[str, Any], published: Mapping[str, Any]) -> Figure:
    """For each parameter a panel: score of the trial by value of the parameter, over the complete trials that have it.
    A line marks the best setting, a dashed one the published."""
    names = list(dict.fromkeys(name for t in trials for name in t.params))
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = make_figure(9, 2 * rows, rows, columns, sharey=True)
    for axis, name in zip(axes.flat, names, strict=False):
        having = [t for t in trials if name in t.params]
        values: list[Any] = [decode(t.params[name]) for t in having]
        numeric = is_numeric(values)
        levels = [] if numeric else list(dict.fromkeys(map(_level, values)))
        across = values if numeric else [levels.index(_level(v)) for v in values]
        axis.plot(across, [t.value for t in having], "o", ms=4, color=BLUE, alpha=0.6)
        for settings, colour, dashes in ((published, GREY, "--"), (best, BLUE, "-")):
            if name in settings and (numeric or _level(settings[name]) in levels):
                x = settings[name] if numeric else levels.index(_level(settings[name]))
                axis.axvline(x, color=colour, ls=dashes, lw=1, zorder=0)
        if any(getattr(t.distributions[name], "log", False) for t in having):
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
        elif numeric:
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=all(isinstance(v, int) for v in values)))
        else:
            axis.set_xticks(range(len(levels)), levels, fontsize=7, rotation=20)
            axis.margins(x=0.2)
        axis.set_title(name)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    figure.supylabel(score, fontsize=9)
    return figure


@_svg
def scatter(pairs: Mapping[str, tuple[ArrayLike, ArrayLike]], y: str, errors: ArrayLike | None = None) -> Figure:
    """A panel for each x, by name: the numbers y of the same trials against it, with the standard deviations `errors`
    of y where it was measured more than once."""
    figure, axes = make_figure(max(4.6, 3 * len(pairs)), 2.7, 1, len(pairs), sharey=True)
    for axis, (x, (across, up)) in zip(axes[0], pairs.items(), strict=True):
        axis.errorbar(across, up, yerr=errors, fmt="o", ms=4, color=BLUE, alpha=0.75, capsize=2)
        axis.set_xlabel(x)
        axis.xaxis.set_major_locator(MaxNLocator(4))
    axes[0, 0].set_ylabel(y)
    return figure


@_svg
def losses(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Losses by epoch, a panel a loss, a line a setting: by title its epochs' numbers, at least one epoch."""
    every = dict.fromkeys(name for entries in histories.values() for name in entries[0])
    names = [name for name in every if name not in ("epoch", "images_per_second")]
    figure, axes = make_figure(9, 2.2, 1, len(names))
    for axis, name in zip(axes[0], names, strict=True):
        for title, entries in histories.items():
            own = [entry for entry in entries if name in entry]
            axis.plot([e["epoch"] for e in own], [e[name] for e in own], ".-", color=SERIES[title], label=title)
        axis.set_title(name)
        _whole(axis, "epoch")
    axes[0, 0].legend()
    return figure


def maps(data: Dataset, names: Sequence[str], settings: Mapping[str, tuple[Path, Pseudo]]) -> str:
    """`sfc.plots.maps_grid` of the same images under each setting, as a PNG."""
    file = io.BytesIO()
    maps_grid(file, data, names, settings, dpi=120)
    return _uri(file, "image/png")
