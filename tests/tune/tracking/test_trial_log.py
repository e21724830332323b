"""Runs of trials in MLflow: one each, whole, whenever the driver died."""

from pathlib import Path

import pytest
from mlflow.entities import Run
from optuna.trial import TrialState

from sfc.pipeline import Pipeline
from sfc.runtime.store import Store
from tests.tune.conftest import TINY
from tests.tune.study.test_study import FLAT
from tune.space.space_file import load_space
from tune.study.study import open_study
from tune.tracking.tracker import Tracker, tracking_uri
from tune.tracking.trial_log import TrialLogger


@pytest.mark.parametrize("died", ["before the run", "before its parameters", "before its end"])
def test_a_trial_that_ended_without_its_run_gets_one(tmp_path: Path, died: str) -> None:
    (tmp_path / "tiny.yaml").write_text(FLAT)
    space = load_space(str(tmp_path / "tiny.yaml"), overrides=TINY)
    study, _ = open_study("s", space, tmp_path)
    trial = study.ask()
    chosen = space.suggest(trial)
    results = {"settings": chosen, "metrics": {"seed/best_miou": 0.4}, "epoch": 3, "outcome": ["COMPLETE", 0.4]}
    for name, value in results.items():
        trial.set_user_attr(name, value)
    study.tell(trial, 0.4)
    tracker = Tracker(tracking_uri(tmp_path), tmp_path)
    data = Pipeline(space.base, Store(tmp_path / "store"), engine=None).data
    tags = {"sfc.kind": "trial", "sfc.study": "s", "sfc.trial": "0"}
    if died != "before the run":
        begun = tracker.start("s/0", "s-000", tags)
        if died == "before its end":
            tracker.log(begun, params=chosen)

    def runs() -> list[Run]:
        return tracker.all("tags.`sfc.kind` = 'trial'")

    parent = tracker.start("s", "s", {"sfc.kind": "search", "sfc.study": "s"})
    for _ in range(2):  # the second time there is nothing to do
        logger = TrialLogger(tracker, study, space, parent, data, Store(tmp_path / "store"))
        logger.catch_up()
        logger.finish()
        [run] = runs()
        assert run.info.status == "FINISHED" and run.data.metrics == {"seed/best_miou": 0.4, "epochs": 3}
        assert run.data.params == {name: str(value) for name, value in chosen.items()}
        assert run.data.tags["sfc.logged"] == "True"


def test_a_trial_whose_process_died_before_it_started_gets_its_run(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(FLAT)
    space = load_space(str(tmp_path / "tiny.yaml"), overrides=TINY)
    study, _ = open_study("s", space, tmp_path)
    trial = study.ask()
    chosen = space.suggest(trial)
    trial.set_user_attr("reason", "the trial's process died")
    study.tell(trial, state=TrialState.FAIL)
    tracker = Tracker(tracking_uri(tmp_path), tmp_path)
    data = Pipeline(space.base, Store(tmp_path / "store"), engine=None).data
    parent = tracker.start("s", "s", {"sfc.kind": "search", "sfc.study": "s"})
    logger = TrialLogger(tracker, study, space, parent, data, Store(tmp_path / "store"))
    logger.ended(0, {"failed": "the trial's process died"})
    logger.finish()
    [run] = tracker.all("tags.`sfc.kind` = 'trial'")
    assert run.info.status == "FAILED" and run.data.tags["sfc.reason"] == "the trial's process died"
    assert run.data.params == {name: str(value) for name, value in chosen.items()}

    logger = TrialLogger(tracker, study, space, parent, data, Store(tmp_path / "store"))
    logger.ended(9, {})
    with pytest.raises(IndexError):  # what the thread raised
        logger.finish()
