"""The ablation through the real Ray and MLflow: interrupted, continued, with an arm that fails; and wrong input."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.tune.conftest import ROOT, TINY, call, command
from tune.ablate import main
from tune.study.storage import storage_at
from tune.tracking.tracker import EXPERIMENT, tracking_uri

PLAN = """
base: synthetic.yaml
until: pseudo
arms:
  full: {}
  no | fusion's: {set: {pseudo.fusion: 0.0}}
  broken: {set: {classifier.lr: 1.0e+30}}
"""


WORDS = ["--plan", "small.yaml", "--seeds", "2", "--table", "written/table.md", *TINY]


def ablate(folder: Path) -> subprocess.Popen:
    (folder / "small.yaml").write_text(PLAN)
    return command(str(ROOT / "tune" / "ablate.py"), *WORDS, folder=folder)


def manifests(results: Path) -> dict[str, int]:
    """When each finished output of the store was written."""
    files = (results / "store").glob("*/*/manifest.json")
    return {str(file.relative_to(results)): file.stat().st_mtime_ns for file in files}


def runs(results: Path) -> dict[str, list]:
    """MLflow's runs by kind."""
    client = MlflowClient(tracking_uri(results))
    by_kind: dict[str, list] = {"ablation": [], "arm": []}
    for run in client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id]):
        by_kind[run.data.tags["sfc.kind"]].append(run)
    return by_kind


@pytest.mark.slow
@pytest.mark.usefixtures("nodes")
def test_an_ablation_goes_on_where_it_stopped_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    process = ablate(tmp_path)
    seen = ""
    for line in process.stdout:
        seen += line
        if "1/6: " in line:
            break
    process.send_signal(signal.SIGINT)
    seen += process.communicate(timeout=120)[0]
    assert process.returncode == 130 and "goes on from here" in seen, seen
    first = manifests(results)
    (folder,) = (path for path in (results / "ablations").iterdir() if path.is_dir())
    assert first and not (folder / "tables.md").exists()
    numbers = json.loads((folder / "numbers.json").read_text())
    assert 1 <= sum(len(arm["runs"]) for arm in numbers["arms"].values()) < 6
    assert runs(results)["ablation"][0].info.status == "FAILED"

    monkeypatch.chdir(tmp_path)
    ended = call(main, *WORDS, results=results)
    output = ended.output
    assert ended.code == 1, output
    assert "error: 2 runs failed: broken, seed 11; broken, seed 12" in output
    assert "6/6: " in output and "left" in output
    second = manifests(results)
    assert first.items() <= second.items(), "finished work was done again"
    stages = [name.split("/")[1] for name in second]
    assert stages.count("classifier") == 2, "arms that share a classifier each trained one"
    assert stages.count("labels") == 4

    numbers = json.loads((folder / "numbers.json").read_text())
    assert numbers["reference"] == "full" and numbers["seeds"] == [11, 12]
    assert len(numbers["classes"]) == len(numbers["counts"]) + 1 == 7
    full, other, broken = numbers["arms"].values()
    assert other["changes"] == {"pseudo.fusion": 0.0}
    assert [run["seed"] for run in full["runs"]] == [11, 12]
    assert full["runs"][0]["supervision"]["seed_val/miou"] == "held-out masks"
    assert Path(full["runs"][0]["folders"]["pseudo_train"]).is_dir()
    assert "val/miou" not in full["runs"][0]["metrics"], "the plan stops before the segmentation"
    assert all("not finite" in run["failed"] for run in broken["runs"])
    assert r"no \| fusion's" in (tmp_path / "written" / "table.md").read_text()
    assert {"tables.md", "tables.csv", "tables.tex"} <= {path.name for path in folder.iterdir()}

    tracked = runs(results)
    (parent,) = tracked["ablation"]
    assert parent.info.status == "FINISHED" and len(tracked["arm"]) == 6
    assert {run.data.tags["mlflow.parentRunId"] for run in tracked["arm"]} == {parent.info.run_id}
    names = {run.info.run_name: run for run in tracked["arm"]}
    good, bad = names["no | fusion's seed 12 small"], names["broken seed 11 small"]
    assert good.data.params.keys() == {"arm", "seed", "pseudo.fusion", "classifier.lr"}
    assert good.data.metrics["seed_val/miou"] == other["runs"][1]["metrics"]["seed_val/miou"]
    assert good.data.tags["supervision.seed_val/miou"] == "held-out masks"
    assert bad.info.status == "FAILED" and "not finite" in bad.data.tags["sfc.reason"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--plan", "component.yaml"], "did you mean components.yaml?"),
        (["--plan", "synthetic.yaml"], "name it by --study"),
        (["--plan", "schemes.yaml", "--seeds", "0"], "--seeds 0: at least one"),
        (["--plan", "schemes.yaml", "--base", "voc.yaml", "--study", "known"], "by --base or by --study, not both"),
        (["--plan", "schemes.yaml", "--study", "unknown"], "there is no study unknown"),
        (["--plan", "schemes.yaml", "--study", "known"], "has no trial that ran in full"),
        (["--plan", "schemes.yaml", "classifier.epoch=1"], "did you mean classifier.epochs?"),
        (["--plan", "components.yaml", "classifier.bank_images=0"], "'without bank' is the same as 'full'"),
    ],
)
def test_wrong_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str) -> None:
    import optuna

    optuna.create_study(study_name="known", storage=storage_at(tmp_path)).set_user_attr("identity", {})
    assert main([*words, "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    if "unknown" in words:
        assert "it has: known" in error
    assert not (tmp_path / "store").exists() and not (tmp_path / "ablations").exists()
