"""One searched setting of a space file: its kind, its range, when it applies."""

from __future__ import annotations

import json
from typing import Annotated, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field, model_validator

from sfc.config import Section
from sfc.config.base import Positive

Value = float | int | str | bool | None | list[Any]


class Parameter(Section):
    """One searched setting: exactly one of the four kinds, and when it applies."""

    uniform: tuple[float, float] | None = None
    log_uniform: tuple[Positive, Positive] | None = None
    integer: tuple[int, int] | None = Field(None, alias="int")
    choice: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    when: dict[str, Any] = Field(default_factory=dict)
    """Other parameters and the value (or the list of values) at which this one is searched."""

    def _kinds(self) -> dict[str, tuple[Any, ...]]:
        """Range or choices by kind, of the kinds that the file names."""
        kinds = {"uniform": self.uniform, "log_uniform": self.log_uniform, "int": self.integer, "choice": self.choice}
        return {kind: values for kind, values in kinds.items() if values is not None}

    @model_validator(mode="after")
    def _one_kind(self) -> Parameter:
        kinds = list(self._kinds())
        if len(kinds) != 1:
            raise ValueError(f"needs exactly one of uniform, log_uniform, int, choice; has {kinds or 'none'}")
        if self.choice is None and self.values()[0] >= self.values()[1]:
            raise ValueError(f"an empty range, {self.values()}: the low end must be below the high end")
        return self

    def values(self) -> list[Any]:
        """Choices, or both ends of the range."""
        [values] = self._kinds().values()
        return list(values)

    def range_text(self) -> str:
        """Kind and range as a person reads them."""
        return f"{next(iter(self._kinds()))} {self.values()}"

    def text(self) -> str:
        """Kind, range and condition as a person reads them."""
        return self.range_text() + (f", when {self.when}" if self.when else "")

    def holds(self, value: Value) -> bool:
        """Whether a value lies in the range or among the choices."""
        if self.choice is not None:
            return value in self.choice
        low, high = self.values()
        return isinstance(value, int | float) and low <= value <= high

    @property
    def distribution(self) -> BaseDistribution:
        """The range or the choices as Optuna has them."""
        if self.choice is not None:
            return CategoricalDistribution([encode(value) for value in self.choice])
        low, high = self.values()
        if self.integer is not None:
            return IntDistribution(low, high)
        return FloatDistribution(low, high, log=self.log_uniform is not None)

    def suggest(self, name: str, trial: optuna.Trial) -> Value:
        """Ask Optuna for a value."""
        if self.choice is not None:
            return decode(trial.suggest_categorical(name, [encode(value) for value in self.choice]))
        low, high = self.values()
        if self.integer is not None:
            return trial.suggest_int(name, low, high)
        return trial.suggest_float(name, low, high, log=self.log_uniform is not None)

    def applies(self, chosen: dict[str, Value]) -> bool:
        """Whether the conditions hold for the values chosen so far."""
        return all(
            other in chosen and chosen[other] in (wanted if isinstance(wanted, list) else [wanted])
            for other, wanted in self.when.items()
        )


def encode(value: Value) -> str | int | float | bool | None:
    """A choice as Optuna can store it: lists become JSON."""
    return json.dumps(value) if isinstance(value, list | tuple) else value


def decode(value: Any) -> Value:
    """The inverse of `encode`."""
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value
