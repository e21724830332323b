"""A search from Python, such as in a notebook (docs/python.md)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import optuna
from rich.console import Console

from sfc.errors import UserError
from tune.search import parser, search
from tune.study.names import study_name
from tune.study.study import load_study


def run_search(
    space: str | Path,
    overrides: Sequence[str] = (),
    *,
    trials: int | None = None,
    study: str | None = None,
    results: str | Path = "results",
    final: bool = False,
) -> optuna.Study:
    """The study of `sfc search`, run in this process; the same call goes on with a search that was stopped.

    Args:
        space: a space file, or its bare name in experiments/spaces/.
        overrides: `section.key=value` words, put over the space's base.
        trials: in all, instead of the space's budget.
        study: its name; None: made from the space's name and content.
        results: folder for everything that is written.
        final: also take the best trials through all stages, as the command does.

    Raises:
        UserError: something in the space, the settings or the data is wrong.
    """
    options = parser().parse_args(["--space", str(space), "--results", str(results)])
    try:
        options.study = study and study_name(study)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"study: {error}") from None
    options.trials, options.overrides, options.words = trials, list(overrides), [f"--space={space}", *overrides]
    search(options, Console(), final=final)
    return load_study(options.study, options.results)
