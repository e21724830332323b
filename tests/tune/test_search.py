"""The main job at a tiny size through the real Ray, Optuna and MLflow: interrupted, killed, continued, repeated."""

import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState
from PIL import Image
from ray.cluster_utils import Cluster

from sfc.config import plugins
from sfc.config.files import load_config
from tests.tune.conftest import ROOT, SPACE, TINY, Ended, call, command, join
from tune.runs.confirm import read_rounds
from tune.search import main
from tune.space.sections import CHOSEN, PLAIN_CAM, PUBLISHED, UPPER_BOUND
from tune.study.names import COMPARISON
from tune.study.storage import one_driver
from tune.study.study import complete, counted, how_ended, load_study
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


def finish(process: subprocess.Popen) -> Ended:
    output, _ = process.communicate(timeout=240)
    return Ended(process.returncode, output)


@dataclass
class Stage:
    """One run of the command."""

    code: int
    output: str
    counted: dict[int, float | None] = field(default_factory=dict)
    """Value by number of the trials that count after it."""
    runs: int = 0
    """MLflow runs after it."""


@dataclass
class MainJob:
    """The same command again and again on one results folder, and what that has in the end."""

    results: Path
    stages: dict[str, Stage] = field(default_factory=dict)

    @property
    def study(self) -> optuna.Study:
        return load_study("tiny", self.results)

    def runs(self, kind: str = "") -> list:
        client = MlflowClient(tracking_uri(self.results))
        found = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
        return [run for run in found if not kind or run.data.tags["sfc.kind"] == kind]

    def end(self, name: str, ended: Ended) -> None:
        trials = {t.number: t.value for t in counted(self.study)}
        self.stages[name] = Stage(ended.code, ended.output, trials, len(self.runs()))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> MainJob:
    """Ctrl-C, SIGTERM, to the end, once more, with an edited space, with another base. `test_kills.py` has SIGKILL."""
    folder = tmp_path_factory.mktemp("job")
    space, edited = folder / "tiny.yaml", folder / "edited.yaml"
    text = SPACE.replace(", upper_bound: false", "")
    space.write_text(text)
    edited.write_text(text.replace("uniform: [0.0, 2.0]", "uniform: [0.0, 3.0]").replace("trials: 4", "trials: 5"))
    job = MainJob(folder / "results")

    process = search(folder, space)
    read_until(process, "1/4 done")
    process.send_signal(signal.SIGINT)
    job.end("Ctrl-C", finish(process))

    process = search(folder, space)
    read_until(process, "starts")
    os.killpg(process.pid, signal.SIGTERM)  # as a cluster does: to the driver and Ray's processes
    job.end("SIGTERM", finish(process))

    def again(space: Path, *words: str) -> Ended:
        data = f"data.root={folder / 'data'}"
        return call(main, "--space", str(space), "--study", "tiny", *words, *TINY, data, results=job.results)

    join(cluster)
    job.end("to the end", again(space))
    job.end("once more", again(space))
    job.end("edited", again(edited))
    job.end("another base", again(edited, "classifier.batch=4"))
    return job


@pytest.mark.slow(seconds=100)
@pytest.mark.parametrize(("signal", "code"), [("Ctrl-C", 130), ("SIGTERM", 143)])
def test_an_interrupted_search_says_how_to_go_on(job: MainJob, signal: str, code: int) -> None:
    stage = job.stages[signal]
    assert stage.code == code, stage.output
    assert "the same command goes on from here" in stage.output
    assert "SIGTERM received" not in stage.output and "Traceback" not in stage.output


@pytest.mark.slow
def test_finished_trials_stay_whatever_stopped_the_search(job: MainJob) -> None:
    trials = [stage.counted for stage in job.stages.values()]
    assert 1 <= len(trials[0]) < 4
    assert all(before.items() <= after.items() for before, after in itertools.pairwise(trials))


@pytest.mark.slow
def test_the_search_runs_to_its_end_and_no_trial_twice(job: MainJob) -> None:
    stage = job.stages["to the end"]
    assert stage.code == 0, stage.output
    assert len(stage.counted) == 4
    assert not job.study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
    settings = [tuple(sorted(t.params.items())) for t in counted(job.study)]
    assert len(set(settings)) == len(settings)


@pytest.mark.slow
def test_every_trial_that_did_not_run_in_full_says_why(job: MainJob) -> None:
    stopped = [t for t in counted(job.study) if how_ended(t) == TrialState.PRUNED]
    assert all(t.user_attrs["epoch"] in t.intermediate_values for t in stopped)
    failed = [t for t in counted(job.study) if how_ended(t) == TrialState.FAIL]
    assert [t.params["classifier.lr"] for t in failed] == [1e30] * len(failed)
    assert failed and all("not finite" in t.user_attrs["reason"] for t in failed)
    assert complete(job.study)[0].user_attrs["epoch"] == 3


@pytest.mark.slow
def test_the_choice_has_the_best_mean_over_fresh_seeds(job: MainJob) -> None:
    [numbers] = read_rounds(job.results / "final" / "tiny")
    assert numbers["seeds"] == [11], "the search used 10"
    means = {arm: [r["metrics"]["seed/best_miou"] for r in e["runs"]] for arm, e in numbers["arms"].items()}
    assert set(means) == {f"trial {t.number}" for t in complete(job.study)[:2]}
    assert f"trial {job.study.user_attrs['chosen']}" == max(means, key=lambda arm: means[arm])


@pytest.mark.slow
def test_the_search_ends_with_a_comparison_on_seeds_that_chose_nothing(job: MainJob) -> None:
    folder = job.results / "final" / "tiny"
    numbers = json.loads((folder / COMPARISON).read_text())
    assert numbers["seeds"] == [12] and numbers["trial"] == job.study.user_attrs["chosen"] and numbers["whole"]
    arms = [PUBLISHED, PLAIN_CAM, *([CHOSEN] if numbers["chosen"] == CHOSEN else []), UPPER_BOUND]
    assert list(numbers["arms"]) == arms
    seen = {arm: entry["runs"][0]["supervision"]["val/miou"] for arm, entry in numbers["arms"].items()}
    assert seen == dict.fromkeys(arms, "held-out masks") | {UPPER_BOUND: "full supervision"}
    last = job.stages["to the end"].output.splitlines()[-12:]
    assert any(f"{numbers['chosen']} against {PLAIN_CAM}" in line for line in last), "the verdict is printed last"
    figures = list((folder / "figures").glob("*.png"))
    assert len(figures) == 5 and all(min(Image.open(figure).size) > 100 for figure in figures)


@pytest.mark.slow
def test_what_is_kept_is_the_best_by_the_objective_and_named(job: MainJob) -> None:
    folder = job.results / "final" / "tiny"
    numbers, config = json.loads((folder / COMPARISON).read_text()), load_config(folder / "best.yaml")
    objective = {
        arm: entry["runs"][0]["metrics"]["seed/best_miou"]
        for arm, entry in numbers["arms"].items()
        if arm != UPPER_BOUND
    }
    kept = numbers["kept"]
    assert objective[kept] == max(objective.values())
    assert (folder / "best.yaml").read_text().startswith(f"# {kept}\n")
    assert config.selected_on == "select" and config.classifier.method == ("cam" if kept == PLAIN_CAM else "sfc")
    assert json.loads((folder / "metrics.json").read_text())["metrics"]["seed/best_miou"] == objective[kept]


@pytest.mark.slow
def test_mlflow_has_one_run_a_search_a_trial_and_an_inner_trial(job: MainJob) -> None:
    trials = counted(job.study)
    assert len(job.runs("search")) == 1
    assert len(job.runs("inner")) == sum(len(t.user_attrs["inner"]) for t in complete(job.study))
    numbers = [run.data.tags["sfc.trial"] for run in job.runs("trial")]
    assert len(set(numbers)) == len(numbers) and {str(t.number) for t in trials} <= set(numbers)
    assert all(run.info.status != "RUNNING" for run in job.runs())
    best = complete(job.study)[0]
    [run] = [run for run in job.runs("trial") if run.data.tags["sfc.trial"] == str(best.number)]
    assert run.data.metrics["seed/best_miou"] == best.value and run.data.metrics["epochs"] == 3


@pytest.mark.slow
def test_mlflow_has_confirmation_and_comparison_below_the_search(job: MainJob) -> None:
    [parent] = job.runs("search")
    steps = {
        kind: [run for run in job.runs(kind) if "mlflow.parentRunId" in run.data.tags]
        for kind in ("confirmation", "comparison")
    }
    for kind, runs in steps.items():
        [step] = [run for run in runs if "sfc.arm" not in run.data.tags]
        assert step.data.tags["mlflow.parentRunId"] == parent.info.run_id
        arms = [run for run in runs if "sfc.arm" in run.data.tags]
        assert arms and {run.data.tags["mlflow.parentRunId"] for run in arms} == {step.info.run_id}, kind
    assert f"sfc.verdict.{PLAIN_CAM}" in parent.data.tags
    assert f"against {PLAIN_CAM}/val_miou" in parent.data.metrics and "val/miou" in parent.data.metrics


@pytest.mark.slow
def test_the_same_command_again_does_nothing(job: MainJob) -> None:
    before, stage = job.stages["to the end"], job.stages["once more"]
    assert stage.code == 0, stage.output
    assert "working" not in stage.output and "starts" not in stage.output
    assert (stage.counted, stage.runs) == (before.counted, before.runs)


@pytest.mark.slow
def test_an_edited_space_goes_on_and_names_its_edits(job: MainJob) -> None:
    stage = job.stages["edited"]
    assert stage.code == 0, stage.output
    assert "classifier.options.prototype_weight: uniform [0.0, 2.0] -> uniform [0.0, 3.0]" in stage.output
    assert "budget.trials: 4 -> 5" in stage.output and "its 4 trials count" in stage.output
    assert len(stage.counted) == 5


@pytest.mark.slow
def test_another_base_is_another_study(job: MainJob) -> None:
    stage = job.stages["another base"]
    assert stage.code == 2
    assert "searches something else: classifier.batch 8 -> 4" in stage.output


@pytest.mark.slow
@pytest.mark.usefixtures("nodes")
def test_a_search_of_which_every_trial_diverges_says_so_and_fails(tmp_path: Path, space_file: Path) -> None:
    space_file.write_text(space_file.read_text().replace("0.05", "1.0e+29"))
    words = ["--space", str(space_file), "--trials", "2", *TINY, f"data.root={tmp_path / 'data'}"]
    ended = call(main, *words, results=tmp_path / "results")
    assert ended.code == 1, ended.output
    assert "no trial ran in full" in ended.output
    assert "is not finite in epoch 1" in ended.output


@pytest.mark.slow(seconds=30)
@pytest.mark.usefixtures("nodes")
def test_an_objective_of_ones_own_searches_and_chooses(
    tmp_path: Path, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(modules)
    monkeypatch.setattr(plugins, "_allowed", set())
    (modules / "own_metric.py").write_text(
        "import json\n\n\n"
        "def low_weight(pipeline):\n"
        '    maps = pipeline.output("maps", pipeline.config.data.select)\n'
        "    assert any(maps.glob('*.npz'))\n"
        "    return 1 - pipeline.config.classifier.options.prototype_weight / 2 + pipeline.config.pseudo.fusion / 100\n"
    )
    space = tmp_path / "own.yaml"
    space.write_text(
        SPACE.replace("[0.05, 1.0e+30]", "[0.05]")
        .replace("1.0e+30", "0.05")
        .replace("trials: 4", "trials: 2")
        .replace("grace: 1", "grace: 3")
        + "objective: {metric: own_metric:low_weight}\n"
    )
    words = ["--space", str(space), "--study", "tiny", *TINY, f"data.root={tmp_path / 'data'}"]
    ended = call(main, *words, results=tmp_path / "results")
    assert ended.code == 0, ended.output
    study = load_study("tiny", tmp_path / "results")
    for trial in complete(study):
        settings = trial.user_attrs["settings"]
        value = 1 - settings["classifier.options.prototype_weight"] / 2 + settings["pseudo.fusion"] / 100
        assert trial.value == trial.user_attrs["metrics"]["own_metric:low_weight"] == pytest.approx(value)
        assert trial.user_attrs["supervision"]["own_metric:low_weight"] == "same masks", "it may have read them"
        assert max(tried["value"] for tried in trial.user_attrs["inner"]) == trial.value
    assert complete(study)[0].params["classifier.options.prototype_weight"] == 0.4
    assert json.loads((tmp_path / "results" / "final" / "tiny" / COMPARISON).read_text())["trial"] == 1

    (modules / "own_metric.py").write_text("def low_weight(pipeline):\n    return 0.0\n")
    sys.modules.pop("own_metric")
    plugins._digest.cache_clear()
    ended = call(main, *words, results=tmp_path / "results")
    assert ended.code == 2 and "searches something else: source of objective.metric" in ended.output


@pytest.mark.usefixtures("nodes")
def test_no_second_driver_runs_a_study(tmp_path: Path, space_file: Path) -> None:
    (tmp_path / "results").mkdir()
    words = ["--space", str(space_file), "--study", "tiny", *TINY, f"data.root={tmp_path / 'data'}"]
    with one_driver(tmp_path / "results" / "studies" / "tiny.lock"):
        ended = call(main, *words, results=tmp_path / "results")
    assert ended.code == 2
    assert "another process is running this study" in ended.output
    assert not (tmp_path / "results" / "optuna.db").exists(), "a study was opened all the same"


def test_the_command_line_is_parsed_without_heavy_imports() -> None:
    code = "import sys, tune.search as s; s.parser(); print(*{m.partition('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not {"ray", "optuna", "torch", "mlflow", "pandas", "matplotlib"} & set(loaded.split())
