"""Two studies and an ablation in MLflow's own pages: a real server, its REST interface, and a browser."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState

from sfc.data import Dataset
from sfc.runtime.store import Store
from tests.tune.conftest import SPACE
from tune.space.space_file import load_space
from tune.study.study import complete, open_study, values_of
from tune.tracking.tracker import EXPERIMENT, Tracker, fixed_settings, masks_seen
from tune.tracking.trial_log import TrialLogger
from tune.tracking.versions import versions

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PARTS = ("miou", "miou_head", "miou_middle", "miou_tail")
SEEN = {"seed/miou": "held-out masks", "seed/best_miou": "same masks", "seed/best_miou_tail": "same masks"}


def metrics(value: float, *stages: str) -> dict[str, float]:
    return {f"{stage}/{part}": value for stage in stages for part in PARTS}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server on the loopback interface, stopped with all its processes."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--workers", "1", "--artifacts-destination", str(folder / "artifacts")]
    switches = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words],
            cwd=folder,
            env={k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | switches,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        uri, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture(scope="module")
def runs(address: str, tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Run]]:
    """By kind and in the order of their names, read from the server: two studies of three trials, two arms x two
    seeds."""
    folder = tmp_path_factory.mktemp("results")
    tracker = Tracker(address, folder)
    (folder / "tiny.yaml").write_text(SPACE)
    for name, batch in (("narrow", 4), ("wide", 8)):
        space = load_space(str(folder / "tiny.yaml"), overrides=[f"classifier.batch={batch}"])
        study, _ = open_study(name, space, folder)
        for number in range(3):
            trial = study.ask()
            settings, full, value = space.suggest(trial), number < 2, (batch + number) / 10
            history = [{"epoch": epoch, "total": 1 / epoch} for epoch in (1, 2, 3)[: 3 if full else 1]]
            found = {"epoch": len(history), "history": history, "outcome": ["COMPLETE" if full else "PRUNED", value]}
            if full:
                inner = [
                    {"values": {"pseudo.fusion": fusion}, "value": value, "metrics": {"seed/best_miou": value}}
                    for fusion in (0.7, 0.1)
                ]
                found |= {"settings": settings | inner[0]["values"], "inner": inner, "supervision": SEEN}
                found |= {"metrics": metrics(value, "seed") | {"seed/best_miou": value, "seed/best_miou_tail": value}}
            for key, entry in found.items():
                trial.set_user_attr(key, entry)
            study.tell(trial, value if full else None, state=TrialState.COMPLETE if full else TrialState.PRUNED)
        parent = tracker.start(name, name, {"sfc.kind": "search", "sfc.study": name})
        tracker.log(parent, params=fixed_settings(space.base))
        logger = TrialLogger(tracker, study, space, parent, tiny, Store(folder))
        logger.catch_up()
        logger.finish()
        best = complete(study)[0]
        tracker.best(parent, str(best.number), values_of(best), best.user_attrs)
        tracker.end(parent)
    parent = tracker.start("ablation/small", "small", {"sfc.kind": "ablation"})
    for arm, fusion in (("full", 0.7), ("without fusion", 0.0)):
        for seed in (11, 12):
            run = {
                "metrics": metrics(fusion, "seed", "seed_val", "pseudo", "val"),
                "supervision": {"val/miou": "held-out masks"},
            }
            params = {"arm": arm, "seed": seed, "pseudo.fusion": fusion}
            tags = {"sfc.kind": "arm", "sfc.arm": arm, "sfc.seed": str(seed)}
            name = f"{arm} seed {seed} small"
            tracked = tracker.start(f"ablation/small/{arm}/{seed}", name, tags, parent)
            tracker.finish(
                tracked, params=params, metrics=run["metrics"], tags=versions() | masks_seen(run["supervision"])
            )
    tracker.end(parent)
    found: dict[str, list[Run]] = {}
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    for run in client.search_runs([experiment.experiment_id], order_by=["attributes.run_name"]):
        found.setdefault(run.data.tags["sfc.kind"], []).append(run)
    return found


def test_names_start_with_what_differs(runs: dict[str, list[Run]]) -> None:
    """The table of runs has room for about 16 characters of a nested run's name."""
    names = {kind: [run.info.run_name for run in several] for kind, several in runs.items()}
    assert names["search"] == ["narrow", "wide"]
    assert names["trial"] == [f"trial 00{number} {study}" for number in range(3) for study in ("narrow", "wide")]
    assert names["inner"][0] == "trial 000.00 narrow" and len(names["inner"]) == 8
    assert names["arm"] == [f"{arm} seed {seed} small" for arm in ("full", "without fusion") for seed in (11, 12)]


def test_trials_and_arms_have_the_parameters_that_vary_and_no_others(runs: dict[str, list[Run]]) -> None:
    varied = {"classifier.options.prototype_weight", "classifier.lr"}
    for run in runs["trial"]:
        full = run.data.tags["sfc.complete"] == "True"
        assert run.data.params.keys() == varied | ({"pseudo.fusion"} if full else set())
    assert all(run.data.params.keys() == {"pseudo.fusion"} for run in runs["inner"])
    assert all(run.data.params.keys() == {"arm", "seed", "pseudo.fusion"} for run in runs["arm"])
    narrow, wide = (run.data.params for run in runs["search"])
    assert {name for name in narrow if narrow[name] != wide[name]} == {"settings/classifier.batch"}


def test_metrics_have_one_name_at_every_level(runs: dict[str, list[Run]]) -> None:
    for parent in runs["search"]:
        study = parent.info.run_name
        trials = [run for run in runs["trial"] if run.data.tags["sfc.study"] == study]
        [best] = [run for run in trials if run.data.tags["sfc.trial"] == parent.data.tags["sfc.best"]]
        shared = {k: v for k, v in best.data.metrics.items() if not k.startswith("train/") and k != "epochs"}
        assert parent.data.metrics == shared and shared["seed/best_miou"] == max(
            run.data.metrics.get("seed/best_miou", 0.0) for run in trials
        )
        assert {f"best.{name}": value for name, value in best.data.params.items()}.items() <= parent.data.tags.items()
        for run in (parent, best):
            seen = {k: v for k, v in run.data.tags.items() if k.startswith("supervision.")}
            assert seen == {
                "supervision.seed/miou": "held-out masks",
                "supervision.seed/best_miou": "same masks",
            }
    names = {name for run in runs["trial"] for name in run.data.metrics if name.startswith("seed/miou")}
    assert all(names <= run.data.metrics.keys() for run in runs["arm"])
    assert all({"pseudo/miou_tail", "val/miou"} <= run.data.metrics.keys() for run in runs["arm"])


def page(address: str, path: str, profile: Path) -> str:
    """What a page shows: its text after its scripts ran, without a network but for the server."""
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={profile}",
        "--window-size=1500,2400",
        "--virtual-time-budget=20000",
        "--dump-dom",
        f"{address}/#/{path}",
    ]
    dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    body = re.sub(r"<(script|style)\b.*?</\1>", "", dom, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


def compared(runs: list[Run], address: str, profile: Path) -> str:
    """The page that *Compare* opens."""
    wanted = [json.dumps([run.info.run_id for run in runs]), json.dumps([runs[0].info.experiment_id])]
    several, experiments = map(urllib.parse.quote, wanted)
    return page(address, f"compare-runs?runs={several}&experiments={experiments}", profile)


def in_order(text: str, *words: str) -> None:
    """Each word comes after the one before it."""
    at = 0
    for word in words:
        found = text.find(word, at)
        assert found >= 0, f"{word!r} is not there after {text[:at][-60:]!r}: {text}"
        at = found + len(word)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_compares_trials_studies_and_arms(address: str, runs: dict[str, list[Run]], tmp_path: Path) -> None:
    trials = [run for run in runs["trial"] if run.data.tags["sfc.complete"] == "True"]
    text = compared(trials, address, tmp_path / "profile")
    assert "Comparing 4 Runs" in text and "settings/" not in text
    in_order(text, "Run Name", "trial 000 narrow", "trial 000 wide", "trial 001 narrow", "trial 001 wide")
    varied = ("classifier.lr", "classifier.options.prototype_weight", "pseudo.fusion")
    in_order(text, "Run details", "Parameters", *varied, "Metrics", "seed/best_miou", "seed/miou", "seed/miou_tail")
    in_order(text, "Tags", "supervision.seed/best_miou", "same masks", "supervision.seed/miou", "held-out masks")

    text = compared(runs["search"], address, tmp_path / "profile")
    in_order(text, "Run Name", "narrow", "wide", "Parameters", "settings/classifier.batch", "4", "8")
    in_order(text, "Metrics", "seed/best_miou", "seed/miou", "seed/miou_tail", "Tags", "best.classifier.lr")

    text = compared(runs["arm"], address, tmp_path / "profile")
    in_order(text, "Run Name", *(run.info.run_name for run in runs["arm"]))
    in_order(text, "Run details", "Parameters", "arm", "without fusion", "pseudo.fusion", "seed", "11", "12")
    in_order(text, "Metrics", "pseudo/miou", "seed/miou", "seed_val/miou", "val/miou", "val/miou_tail")

    text = page(
        address, f"experiments/{trials[0].info.experiment_id}/runs?workflowType=machine_learning", tmp_path / "profile"
    )
    in_order(text, "Run Name", "narrow")
    assert "Judges" not in text, "the pages of language models, where MLflow begins"
