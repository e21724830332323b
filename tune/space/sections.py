"""The sections of a space file."""

from __future__ import annotations

import math
import re
import time
from typing import Annotated, Any

from pydantic import Field, model_validator

from sfc.config import Count, Section, plugins
from sfc.errors import UserError
from sfc.scoring.names import PARTS
from tune.space.parameter import Parameter

MASKED = ("seed/best_miou", "seed/miou", "pseudo/miou")
"""Objectives that are measured against masks; each also for a part of the classes, such as `seed/miou_tail`."""
PROXIES = ("proxy/map_agreement", "proxy/crf_agreement", "proxy/classification_map")
"""Objectives that need no mask."""
METRICS = (*(metric + part for metric in MASKED for part in PARTS), *PROXIES)


class Objective(Section):
    """What a trial is judged by."""

    metric: str = "seed/best_miou"
    """One of METRICS; or `module:function`, a function of one's own that takes a trial's Pipeline and returns a number,
    more is better."""
    split: str | None = None
    """Split whose images choose, put in data.select; None: the base's."""

    @property
    def is_plugin(self) -> bool:
        """Whether the metric is a function of the user's own."""
        return plugins.is_path(self.metric)

    @property
    def needs_masks(self) -> bool:
        """Whether the metric is measured against masks; what a function of the user's own reads is not known."""
        return self.metric not in PROXIES and not self.is_plugin

    @model_validator(mode="after")
    def _exists(self) -> Objective:
        if self.metric not in METRICS and not self.is_plugin:
            known = ", ".join(METRICS)
            raise ValueError(f"metric: {self.metric} can't be an objective. Known: {known}, or module:function")
        return self


class Asha(Section):
    """Early stopping by asynchronous successive halving, by epoch."""

    grace: Count = 1
    reduction: Annotated[int, Field(ge=2)] = 2

    def rungs(self, epochs: int) -> list[int]:
        """Epochs at which trials are compared, below `epochs`."""
        rungs, epoch = [], self.grace
        while epoch < epochs:
            rungs.append(epoch)
            epoch *= self.reduction
        return rungs


class Budget(Section):
    """When a search ends."""

    trials: Count = 20
    """In all, those of earlier runs of the same study included."""
    inner: Annotated[int, Field(ge=0)] = 10
    """Settings of the stages after the classifier that each trial tries on its own maps; 0: they are searched together
    with those of the classifier, one training for each."""
    time: str | None = None
    """Such as 90s, 20m or 3h, for one run of the command: trials that run then are stopped, and come first next."""
    seed: int = 0
    """Random seed of the sampler."""

    @model_validator(mode="after")
    def _time(self) -> Budget:
        if self.time is not None:
            seconds(self.time)
        return self


class Final(Section):
    """What goes through all stages in the end: the best `top` trials, each with `seeds` seeds."""

    top: Count = 4
    seeds: Count = 1
    """The base's and those after it. The trial with the best mean objective over them is the one that is kept."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings of the final run alone, such as longer training."""


class SpaceFile(Section):
    """A space file."""

    base: str
    objective: Objective = Objective()
    parameters: Annotated[dict[str, Parameter], Field(min_length=1)]
    published: dict[str, Any]
    start: tuple[dict[str, Any], ...] = ()
    asha: Asha | None = Asha()
    budget: Budget = Budget()
    final: Final = Final()


def seconds(text: str) -> float:
    """`90s`, `20m`, `3h` in seconds.

    Raises:
        ValueError: the text is not of that form.
    """
    match = re.fullmatch(r"([0-9.]+)\s*([smh])", text.strip())
    if not match:
        raise ValueError(f"time: {text!r} is not of the form 90s, 20m or 3h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def deadline_of(limit: str | None) -> float:
    """The end of a command that starts now and has a limit such as `20m`, in `time.monotonic`.

    Raises:
        UserError: the limit is not of that form.
    """
    try:
        return time.monotonic() + seconds(limit) if limit else math.inf
    except ValueError as error:
        raise UserError(f"--time: {error}") from None
