"""The sampler of both levels of a search."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from tune.space.parameter import Parameter


class SpaceSampler(optuna.samplers.TPESampler):
    """TPE that models together the parameters that apply under the same condition, and does not repeat what is running.

    Optuna's own `group=True` does the same, but keeps the ranges that the study's first trials had: in a space whose
    range was widened it would go on in the old one.

    Args:
        parameters: of the space as it is now, by name.
        seed: random seed.
    """

    def __init__(self, parameters: Mapping[str, Parameter], seed: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            super().__init__(
                seed=seed, multivariate=True, constant_liar=True, n_startup_trials=6, warn_independent_sampling=False
            )
        self.groups: dict[str, dict[str, BaseDistribution]] = {}
        for name, parameter in sorted(parameters.items()):
            if not parameter.distribution.single():
                self.groups.setdefault(str(parameter.when), {})[name] = parameter.distribution

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: distribution for group in self.groups.values() for name, distribution in group.items()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for group in self.groups.values():
            values |= super().sample_relative(study, trial, group)
        return values
