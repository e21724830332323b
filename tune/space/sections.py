"""The sections of a space file."""

from __future__ import annotations

import itertools
import math
import re
import time
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from sfc.config import Count, Section, plugins
from sfc.errors import UserError
from sfc.scoring.names import PARTS
from tune.space.parameter import Parameter

SEED_MIOU = "seed/best_miou"
"""Number by which trials are compared before a later stage, and objectives without masks always."""
MASKED = ("seed/best_miou", "seed/miou", "pseudo/miou", "segmentation/miou")
"""Objectives that are measured against masks; each also for a part of the classes, such as `seed/miou_tail`."""
PROXIES = ("proxy/map_agreement", "proxy/crf_agreement", "proxy/classification_map")
"""Objectives that need no mask."""
SAMPLERS = ("TPESampler", "RandomSampler", "GPSampler", "QMCSampler", "NSGAIISampler")
PUBLISHED, PLAIN_CAM, CHOSEN, UPPER_BOUND = "published", "plain CAM", "chosen", "true masks"
"""Arms that every comparison has, the last where the training images have masks."""
METRICS = (*(metric + part for metric in MASKED for part in PARTS), *PROXIES)


def _sampler(name: str) -> str:
    if name not in SAMPLERS:
        raise ValueError(f"{name} is none of Optuna's samplers that a search can use: {', '.join(SAMPLERS)}")
    return name


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


class Round(Section):
    """One round of the confirmation: the leading trials on seeds that the search did not use."""

    trials: Count
    """How many go into it."""
    seeds: Count
    """Seeds of each, those of the rounds before included."""


class Compare(Section):
    """The comparison at the end: the chosen setting and the references through the stages, with the same seeds, which
    neither the search nor the confirmation used."""

    seeds: Count = 3
    references: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """References beside the published setting and plain CAM, by name: settings put over the base."""
    upper_bound: bool = True
    """Also train the segmentation model on the masks of the training images, where there are any."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings of the comparison alone, such as longer training."""


class SpaceFile(Section):
    """A space file."""

    base: str
    objective: Objective = Objective()
    parameters: Annotated[dict[str, Parameter], Field(min_length=1)]
    published: dict[str, Any]
    start: tuple[dict[str, Any], ...] = ()
    sampler: Annotated[str, AfterValidator(_sampler)] = "TPESampler"
    """A class of optuna.samplers."""
    asha: Asha | None = Asha()
    budget: Budget = Budget()
    confirm: tuple[Round, ...] = (Round(trials=3, seeds=2), Round(trials=2, seeds=3))
    """Rounds of the confirmation, each with fewer trials on more seeds; none: the best single number is chosen."""
    compare: Compare = Compare()

    @property
    def sweeps(self) -> bool:
        """Whether each run takes the background threshold that is best for the seeds of the select split: where masks
        are the objective and no setting of the rule is."""
        masked = self.objective.needs_masks and not self.objective.metric.startswith("seed/miou")
        return masked and "pseudo.threshold" not in self.parameters

    @model_validator(mode="after")
    def _rounds(self) -> SpaceFile:
        for i, (before, after) in enumerate(itertools.pairwise(self.confirm)):
            if after.trials > before.trials or after.seeds <= before.seeds:
                raise ValueError(f"confirm: round {i + 2} needs no more trials and more seeds than round {i + 1}")
        taken = {PUBLISHED, PLAIN_CAM, CHOSEN, UPPER_BOUND} & set(self.compare.references)
        if taken:
            raise ValueError(f"compare.references: {taken.pop()} names an arm that every comparison has")
        return self


def seconds(text: str) -> float:
    """`90s`, `20m`, `3h` in seconds.

    Raises:
        ValueError: the text is not of that form.
    """
    match = re.fullmatch(r"([0-9.]+)\s*([smh])", text.strip())
    if not match:
        raise ValueError(f"time: {text!r} is not of the form 90s, 20m or 3h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


class Limits(NamedTuple):
    """Ends of a command's steps, in `time.monotonic`."""

    search: float
    confirmation: float
    comparison: float


SHARES = Limits(0.45, 0.65, 1.0)
"""Parts of a time limit by whose end each step is over; on the default set the steps take about as long."""


def limits_of(limit: str | None, *, confirms: bool, compares: bool) -> Limits:
    """The ends of a command's steps, if it starts now and has a limit such as `40m`. The search gets the time of the
    steps that do not follow it.

    Raises:
        UserError: the limit is not of that form.
    """
    if not limit:
        return Limits(math.inf, math.inf, math.inf)
    now = time.monotonic()
    try:
        total = seconds(limit)
    except ValueError as error:
        raise UserError(f"--time: {error}") from None
    search = SHARES.search if compares and confirms else SHARES.confirmation if compares else SHARES.comparison
    return Limits(now + search * total, now + SHARES.confirmation * total, now + total)
