"""The summary of final runs: means over the runs that gave numbers, the trial they choose, the reasons of the rest."""

from types import SimpleNamespace

import pytest

from tune.runs.finals import Job, reasons, summary


def test_a_trial_of_which_a_seed_failed_has_its_mean_over_the_others() -> None:
    def outcome(number: int, seed: int, value: float | None) -> tuple[Job, dict]:
        job = SimpleNamespace(
            trial=SimpleNamespace(number=number, value=0.5 - number / 10), config=SimpleNamespace(seed=seed)
        )
        run = (
            {"failed": "not finite"} if value is None else {"metrics": {"seed/best_miou": value, "val/miou": value / 2}}
        )
        return job, run  # type: ignore[return-value]

    finals = summary(
        "seed/best_miou", [outcome(0, 10, 0.2), outcome(0, 11, 0.4), outcome(1, 10, None), outcome(1, 11, 0.5)]
    )
    first, second = finals["trials"]
    assert first["mean"] == pytest.approx({"seed/best_miou": 0.3, "val/miou": 0.15})
    assert second["mean"] == {"seed/best_miou": 0.5, "val/miou": 0.25} and len(second["runs"]) == 1
    assert finals["chosen"] == 1 and finals["kept_order"] == "0 of 1"
    assert reasons(finals) == ["trial 1, seed 10: not finite"]


def test_without_any_number_nothing_is_chosen() -> None:
    job = SimpleNamespace(trial=SimpleNamespace(number=3, value=0.5), config=SimpleNamespace(seed=10))
    finals = summary("seed/best_miou", [(job, {"failed": "not finite"})])  # type: ignore[list-item]
    assert finals["trials"] == [] and "chosen" not in finals
    assert reasons(finals) == ["trial 3, seed 10: not finite"]
