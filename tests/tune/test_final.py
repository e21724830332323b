"""The final runs of a study: wrong input, runs that fail beside others that do not."""

import json
from pathlib import Path

import optuna
import pytest
from mlflow.entities import Run

from tests.tune.conftest import SPACE, TINY
from tune import final
from tune.space.space_file import load_space
from tune.study.study import open_study
from tune.tracking.tracker import Tracker, tracking_uri


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    """A study `s` in the folder of the test, with a complete trial that nobody trained."""
    (tmp_path / "tiny.yaml").write_text(SPACE)
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


def final_runs(results: Path) -> dict[str, Run]:
    """MLflow's runs of the final by name."""
    runs = Tracker(tracking_uri(results), results).all("tags.`sfc.kind` = 'final'")
    return {run.info.run_name: run for run in runs}


@pytest.mark.slow
@pytest.mark.usefixtures("nodes")
def test_runs_that_diverge_are_named_and_cost_no_other_run(
    tmp_path: Path, study: optuna.Study, capsys: pytest.CaptureFixture
) -> None:
    complete(study, 0.9)  # the best of the search, and then it diverges
    assert final.main(["--study", "s", "--results", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "2 runs failed" in captured.out and "trial 1, seed 11: the loss" in captured.out
    folder = tmp_path / "final" / "s"
    finals = json.loads((folder / "finals.json").read_text())
    [trial] = finals["trials"]
    assert (finals["chosen"], trial["trial"], len(trial["runs"])) == (0, 0, 2)
    assert [(run["trial"], run["seed"]) for run in finals["failed"]] == [(1, 10), (1, 11)]
    assert all("not finite" in run["failed"] for run in finals["failed"])
    assert (folder / "best.yaml").is_file() and len(list((folder / "figures").iterdir())) == 5
    tracked = final_runs(tmp_path)
    assert len(tracked) == 4
    good, bad = tracked["final 0 seed 11 s"], tracked["final 1 seed 11 s"]
    assert good.info.status == "FINISHED" and good.data.metrics["val/miou"] == trial["runs"][1]["metrics"]["val/miou"]
    assert bad.info.status == "FAILED" and "not finite" in bad.data.tags["sfc.reason"]


@pytest.mark.slow
@pytest.mark.usefixtures("nodes")
def test_a_final_without_any_number_fails_with_the_reasons(
    tmp_path: Path, study: optuna.Study, capsys: pytest.CaptureFixture
) -> None:
    assert final.main(["--study", "s", "--results", str(tmp_path), "classifier.lr=1e30"]) == 1
    error = capsys.readouterr().err
    assert "no final run gave numbers" in error and "trial 0, seed 10: the loss" in error
    assert not (tmp_path / "final").exists()
    assert {run.info.status for run in final_runs(tmp_path).values()} == {"FAILED"}
