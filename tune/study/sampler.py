"""The sampler of both levels of a search."""

from __future__ import annotations

import warnings

import optuna


def make_sampler(seed: int) -> optuna.samplers.BaseSampler:
    """TPE that models parameters together, knows conditional ones, and does not repeat what is running."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=6
        )
