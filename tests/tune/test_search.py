"""The main job at a tiny size through the real Ray, Optuna and MLflow: interrupted, killed, continued, repeated."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState
from PIL import Image

from sfc.config.files import load_config
from tests.tune.conftest import ROOT, TINY, command
from tune.study.study import complete, counted, load_study
from tune.tracking.tracker import EXPERIMENT, tracking_uri

SEARCH = str(ROOT / "tune" / "search.py")


def search(folder: Path, space: Path, *words: str) -> subprocess.Popen:
    return command(SEARCH, "--space", str(space), "--study", "tiny", *words, *TINY, folder=folder)


def read_until(process: subprocess.Popen, text: str) -> str:
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} never came:\n{seen}")


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=240)
    return output


def runs(results: Path) -> list:
    client = MlflowClient(tracking_uri(results))
    return client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])


@pytest.mark.slow
def test_the_main_job_survives_interruptions_and_does_nothing_twice(tmp_path: Path, space_file: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()

    process = search(tmp_path, space_file)
    read_until(process, "1/4 done")
    process.send_signal(signal.SIGINT)
    output = finish(process)
    assert process.returncode == 130, output
    assert "goes on from here" in output
    first = {t.number: t.value for t in counted(load_study("tiny", results))}
    assert 1 <= len(first) < 4

    process = search(tmp_path, space_file)
    read_until(process, "starts")
    process.send_signal(signal.SIGTERM)
    output = finish(process)
    assert process.returncode == 143, output
    assert "goes on from here" in output and "SIGTERM received" not in output

    process = search(tmp_path, space_file)
    read_until(process, "starts")
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)

    process = search(tmp_path, space_file)
    output = finish(process)
    assert process.returncode == 0, output
    study = load_study("tiny", results)
    assert len(counted(study)) == 4
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
    kept = {t.number: t.value for t in counted(study)}
    assert first.items() <= kept.items()
    settings = [tuple(sorted(t.params.items())) for t in counted(study)]
    assert len(set(settings)) == len(settings), "a trial ran twice"

    stopped = [t for t in counted(study) if t.state == TrialState.PRUNED]
    assert all(t.user_attrs["epoch"] in t.intermediate_values for t in stopped)

    failed = [t for t in counted(study) if t.state == TrialState.FAIL]
    assert [t.params["classifier.lr"] for t in failed] == [1e30] * len(failed)
    assert failed and all("not finite" in t.user_attrs["reason"] for t in failed)
    best = complete(study)[0]
    assert best.user_attrs["epoch"] == 3

    config = load_config(results / "final" / "tiny" / "best.yaml")
    assert config.selected_on == "select"
    finals = json.loads((results / "final" / "tiny" / "finals.json").read_text())
    [kept_trial] = [t for t in complete(study) if t.number == finals["chosen"]]
    means = {t["trial"]: t["mean"]["seed/best_miou"] for t in finals["trials"]}
    assert means[kept_trial.number] == max(means.values()) and len(means) == len(complete(study)[:2])
    assert config.classifier.options.prototype_weight == kept_trial.params["classifier.options.prototype_weight"]
    assert config.pseudo.threshold == kept_trial.user_attrs["metrics"]["seed/best_threshold"]
    for predictions in (results / "store" / "evaluation").glob("*/predictions"):
        assert len(list(predictions.glob("*.png"))) == 12
    for figure in (results / "final" / "tiny" / "figures").glob("*.png"):
        assert min(Image.open(figure).size) > 100

    kinds = [run.data.tags["sfc.kind"] for run in runs(results)]
    assert kinds.count("search") == 1
    assert kinds.count("final") == len(complete(study)[:2]) * 2, "two trials, two seeds"
    assert kinds.count("inner") == sum(len(t.user_attrs["inner"]) for t in complete(study))
    numbers = [run.data.tags["sfc.trial"] for run in runs(results) if run.data.tags["sfc.kind"] == "trial"]
    assert len(set(numbers)) == len(numbers), "a trial has two runs"
    assert {str(t.number) for t in counted(study)} <= set(numbers)
    assert all(run.info.status != "RUNNING" for run in runs(results))
    [logged] = [
        r for r in runs(results) if r.data.tags["sfc.kind"] == "trial" and r.data.tags["sfc.trial"] == str(best.number)
    ]
    assert logged.data.metrics["seed/best_miou"] == best.value
    assert logged.data.metrics["epochs"] == 3
    [final] = [r for r in runs(results) if r.data.tags.get("sfc.kept") == "True"]
    assert 0 <= final.data.metrics["val/miou"] <= 1
    assert final.data.tags["supervision.val/miou"] == "held-out masks"
    [parent] = [r for r in runs(results) if r.data.tags["sfc.kind"] == "search"]
    assert parent.data.metrics.items() <= final.data.metrics.items() and "val/miou" in parent.data.metrics
    assert parent.data.tags["sfc.best"] == final.data.tags["sfc.trial"]

    before = len(runs(results))
    process = search(tmp_path, space_file)
    output = finish(process)
    assert process.returncode == 0, output
    assert "working" not in output and "starts" not in output
    assert len(runs(results)) == before

    # An edited space: what changed is said, trials that still fit count, numbers and runs stay.
    edited = (
        space_file.read_text().replace("uniform: [0.0, 2.0]", "uniform: [0.0, 3.0]").replace("trials: 4", "trials: 5")
    )
    (tmp_path / "other.yaml").write_text(edited)
    process = search(tmp_path, tmp_path / "other.yaml")
    output = finish(process)
    assert process.returncode == 0, output
    assert "classifier.options.prototype_weight: uniform [0.0, 2.0] -> uniform [0.0, 3.0]" in output
    assert "4 trials still fit" in output
    after = {t.number: t.value for t in counted(load_study("tiny", results))}
    assert kept.items() <= after.items() and len(after) == 5
    numbers = [run.data.tags["sfc.trial"] for run in runs(results) if run.data.tags["sfc.kind"] == "trial"]
    assert len(set(numbers)) == len(numbers)

    process = search(tmp_path, tmp_path / "other.yaml", "classifier.batch=4")
    output = finish(process)
    assert process.returncode == 2
    assert "searches something else: classifier.batch 8 -> 4" in output


@pytest.mark.slow
def test_a_search_of_which_every_trial_diverges_says_so_and_fails(tmp_path: Path, space_file: Path) -> None:
    space_file.write_text(space_file.read_text().replace("0.05", "1.0e+29"))
    process = search(tmp_path, space_file, "--trials", "2")
    output = finish(process)
    assert process.returncode == 1, output
    assert "no trial ran in full" in output
    assert "is not finite in epoch 1" in output


def test_no_second_driver_runs_a_study(tmp_path: Path, space_file: Path) -> None:
    from tune.study.storage import one_driver

    (tmp_path / "results").mkdir()
    with one_driver(tmp_path / "results" / "studies" / "tiny.lock"):
        process = search(tmp_path, space_file)
        output = finish(process)
    assert process.returncode == 2
    assert "another process is running this study" in output
    assert not (tmp_path / "results" / "optuna.db").exists(), "a study was opened all the same"
