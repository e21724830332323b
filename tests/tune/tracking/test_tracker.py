"""Runs in MLflow: one a key, nothing twice, caught up with after a crash."""

import math
from pathlib import Path

import pytest

from sfc.config.files import load_config
from tune.tracking.tracker import BATCH, Tracker, fixed_settings, flat, masks_seen, tracking_uri

HISTORY = [{"epoch": epoch, "total": 1 / epoch} for epoch in (1, 2, 3)]


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tmp_path_factory.mktemp("results")
    return Tracker(tracking_uri(folder), folder)


@pytest.fixture
def run(tracker: Tracker, request: pytest.FixtureRequest) -> str:
    """The id of a run that has the test's name as its key."""
    return tracker.start(request.node.name, "a run", {"sfc.kind": "test"})


def steps(tracker: Tracker, run: str, name: str) -> list[int]:
    """The epochs of a metric, one for each time that it was written."""
    return sorted(point.step for point in tracker.client.get_metric_history(run, name))


def test_a_key_has_one_run_whoever_starts_it(tracker: Tracker, tmp_path: Path) -> None:
    first = tracker.start("key", "name", {"sfc.kind": "test"}, parent="above")
    other = Tracker(tracker.client.tracking_uri, tmp_path)
    assert other.start("key", "another name", {}) == first and len(other.all("tags.`sfc.key` = 'key'")) == 1
    run = tracker.find("key")
    assert run is not None and run.info.run_name == "name" and run.data.tags["mlflow.parentRunId"] == "above"
    assert tracker.find("no such key") is None


def test_a_run_that_ended_without_results_runs_again(tracker: Tracker, run: str) -> None:
    tracker.end(run, failed=True)
    key = tracker.client.get_run(run).data.tags["sfc.key"]
    assert tracker.start(key, "a run", {}) == run and tracker.client.get_run(run).info.status == "RUNNING"


def test_results_are_written_once(tracker: Tracker, run: str) -> None:
    results = {"params": {"a": 1}, "metrics": {"val/miou": 0.5, "val/none": math.nan}, "tags": {"sfc.complete": "True"}}
    for _ in range(2):
        tracker.start(tracker.client.get_run(run).data.tags["sfc.key"], "a run", {})
        tracker.finish(run, history=HISTORY, **results)
    written = tracker.client.get_run(run)
    assert written.info.status == "FINISHED" and written.data.params == {"a": "1"}
    assert written.data.metrics.keys() == {"val/miou", "train/total"}, "no value that is not finite"
    assert steps(tracker, run, "val/miou") == [0] and steps(tracker, run, "train/total") == [1, 2, 3]
    end = written.info.end_time
    tracker.finish(run, **results)
    assert tracker.client.get_run(run).info.end_time == end, "the run was touched"


def test_a_driver_that_was_killed_is_caught_up_with(tracker: Tracker, run: str, tmp_path: Path) -> None:
    tracker.log(run, params={"a": 1}, history=HISTORY[:2])
    other = Tracker(tracker.client.tracking_uri, tmp_path)  # knows nothing of what the first one wrote
    other.finish(run, params={"a": 1.0, "b": 2}, metrics={"x": 1.0}, history=HISTORY)
    written = other.client.get_run(run).data
    assert written.params == {"a": "1", "b": "2"}, "MLflow refuses to change a parameter"
    assert steps(other, run, "train/total") == [1, 2, 3]


def test_a_failed_run_says_why_and_a_later_success_takes_that_back(tracker: Tracker, run: str) -> None:
    tracker.finish(run, failed="the loss is not finite")
    written = tracker.client.get_run(run)
    assert written.info.status == "FAILED" and written.data.tags["sfc.reason"] == "the loss is not finite"
    tracker.finish(run, metrics={"x": 1.0})
    written = tracker.client.get_run(run)
    assert written.info.status == "FINISHED" and written.data.metrics == {"x": 1.0}
    assert not written.data.tags["sfc.reason"]


def test_a_long_history_goes_by_several_requests(tracker: Tracker, run: str) -> None:
    epochs = range(1, BATCH + 3)
    tracker.log(run, history=[{"epoch": epoch, "total": 1.0} for epoch in epochs], tags={"last": "yes"})
    assert steps(tracker, run, "train/total") == [*epochs]
    assert tracker.client.get_run(run).data.tags["last"] == "yes"


def test_artifacts_are_beside_the_database(tracker: Tracker, run: str, tmp_path: Path) -> None:
    (tmp_path / "numbers.json").write_text("{}")
    tracker.files(run, tmp_path)
    tracker.files(run, tmp_path, "figures")
    tracker.text(run, "base", "base.yaml")
    assert {file.path for file in tracker.client.list_artifacts(run)} == {"figures", "numbers.json", "base.yaml"}


def test_fixed_settings_are_named_apart_and_do_not_hold_the_folder_of_the_data() -> None:
    config = load_config("synthetic.yaml")
    settings = fixed_settings(config)
    assert settings["settings/classifier.batch"] == config.classifier.batch == flat(config)["classifier.batch"]
    assert "settings/data.root" not in settings and len(settings) == len(flat(config)) - 1


def test_each_miou_has_a_tag_with_the_masks_it_has_seen() -> None:
    seen = {"val/miou": "held-out masks", "val/miou_tail": "held-out masks", "seed/best_threshold": "same masks"}
    assert masks_seen(seen) == {"supervision.val/miou": "held-out masks"}
