"""Confirmation and comparison of a study: wrong input, runs that fail beside others that do not."""

import json
from pathlib import Path

import optuna
import pytest
from mlflow.entities import Run

from tests.tune.conftest import SPACE, TINY
from tune import final
from tune.runs.confirm import read_rounds
from tune.space.sections import PUBLISHED
from tune.space.space_file import load_space
from tune.study.names import COMPARISON
from tune.study.study import open_study
from tune.tracking.tracker import Tracker, tracking_uri


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    """A study `s` in the folder of the test, with a complete trial that nobody trained."""
    (tmp_path / "tiny.yaml").write_text(SPACE.replace("trials: 2, seeds: 1", "trials: 2, seeds: 2"))
    space = load_space(str(tmp_path / "tiny.yaml"), overrides=[*TINY, f"data.root={tmp_path / 'data'}"])
    study, _ = open_study("s", space, tmp_path)
    complete(study, 0.4)
    return study


def complete(study: optuna.Study, value: float) -> None:
    """Complete the next trial: the first has the published settings, the second a learning rate that diverges."""
    trial = study.ask()
    rate = trial.suggest_categorical("classifier.lr", [0.05, 1e30])
    settings = {"classifier.options.prototype_weight": 1.6, "classifier.lr": rate, "pseudo.fusion": 0.7}
    trial.set_user_attr("settings", settings)
    trial.set_user_attr("metrics", {"seed/best_threshold": 0.3})
    study.tell(trial, value)


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["classifier.nonsense=3"],
            "command line, classifier.nonsense=3: unknown setting classifier.nonsense; did you mean",
        ),
        (["cam.scales=[9]", "classifier.epochs=-1"], "command line, classifier.epochs=-1: classifier.epochs: "),
        (["classifier.epochs"], "'classifier.epochs' is not of the form section.key=value"),
    ],
)
def test_wrong_overrides_are_named_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    assert final.main(["--study", "s", "--results", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    if len(words) > 1:
        assert "command line, cam.scales=[9]: cam.scales" in error, "both mistakes are listed"
    assert not (tmp_path / "store").exists()


def runs_of(results: Path, kind: str) -> list[Run]:
    """MLflow's runs of an arm's seeds, of the confirmation or the comparison."""
    runs = Tracker(tracking_uri(results), results).all(f"tags.`sfc.kind` = '{kind}'")
    return [run for run in runs if "sfc.arm" in run.data.tags]


@pytest.mark.slow
@pytest.mark.usefixtures("nodes")
def test_runs_that_diverge_are_named_and_cost_no_other_run(
    tmp_path: Path, study: optuna.Study, capsys: pytest.CaptureFixture
) -> None:
    complete(study, 0.9)  # the best of the search, and then it diverges on every further seed
    assert final.main(["--study", "s", "--results", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "trial 1, seed 11: FAILED: the loss" in output
    folder = tmp_path / "final" / "s"
    [numbers] = read_rounds(folder)
    failed = {arm: ["failed" in run for run in entry["runs"]] for arm, entry in numbers["arms"].items()}
    assert failed == {"trial 1": [True, True], "trial 0": [False, False]}
    comparison = json.loads((folder / COMPARISON).read_text())
    assert (comparison["trial"], comparison["chosen"]) == (0, PUBLISHED), "the trial has the published settings"
    assert "which is the published setting" in output and (folder / "best.yaml").is_file()
    status = {run.data.tags["sfc.arm"]: run.info.status for run in runs_of(tmp_path, "confirmation")}
    assert status == {"trial 0": "FINISHED", "trial 1": "FAILED"}


@pytest.mark.slow
@pytest.mark.usefixtures("nodes")
def test_a_comparison_without_any_number_fails_with_the_reasons(
    tmp_path: Path, study: optuna.Study, capsys: pytest.CaptureFixture
) -> None:
    assert final.main(["--study", "s", "--results", str(tmp_path), "classifier.lr=1e30"]) == 1
    error = capsys.readouterr().err
    assert "no run of the comparison gave numbers" in error and "published, seed 13: the loss" in error
    assert not (tmp_path / "final" / "s" / "best.yaml").exists()
    assert {run.info.status for run in runs_of(tmp_path, "comparison")} == {"FAILED"}
