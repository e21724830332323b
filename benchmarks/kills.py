"""What is left of a search that is killed all the time: python benchmarks/kills.py [--kills 30] [--seed 0].

Runs tune/search.py on tiny trials and kills, at random moments, its driver alone, everything at once as a loss of power
does, one trial's process, and either of the two just as a stage is being written. After each death of the driver the
same command is started again; after the last kill it runs to its end. Exit code 1 where one of the counts is not 0.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState
from PIL import Image

from sfc.errors import UserError
from sfc.scoring.tally import CONFUSION, IMAGES, METRICS, recompute
from tune.study.study import counted, how_ended, load_study, values_of
from tune.tracking.tracker import EXPERIMENT, tracking_uri

ROOT = Path(__file__).resolve().parents[1]
STUDY = "killed"
EPOCHS, IN_SPLIT = 2, {"train": 16, "select": 8, "val": 8}
SPACE = """
base: synthetic.yaml
parameters:
  classifier.options.prototype_weight: {uniform: [0.0, 2.0]}
  classifier.lr: {choice: [0.05, 1.0e+30]}
  pseudo.fusion: {uniform: [0.0, 1.0]}
published: {classifier.options.prototype_weight: 1.6, classifier.lr: 0.05, pseudo.fusion: 0.7}
asha: {grace: 1, reduction: 2}
budget: {trials: 100000, inner: 2}
confirm: []
compare: {seeds: 1, upper_bound: false}
"""
SETTINGS = [
    f"classifier.epochs={EPOCHS}",
    "classifier.precision=fp32",
    "cam.scales=[1.0]",
    "cam.precision=fp32",
    "segmentation.epochs=1",
    "segmentation.precision=fp32",
    "evaluation.scales=[1.0]",
    *(f"data.synthetic.{split}={images}" for split, images in IN_SPLIT.items()),
]
KINDS = ("driver", "everything", "trial", "trial while it writes", "driver while a trial writes")
STAGES = ("classifier", "maps", "seeds", "proxies")
WAIT = 120
"""Seconds in which something to kill must have come."""


class Search:
    """The command, started again whenever its driver is dead; it knows its own processes and no others."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "results" / "store"
        self.started: dict[int, psutil.Process] = {}
        self.gave_up: list[str] = []
        (folder / "space.yaml").write_text(SPACE, encoding="utf-8")
        self.start()

    def start(self, *words: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
        command = [str(ROOT / "tune" / "search.py"), "--space", "space.yaml", "--study", STUDY, *words, *SETTINGS]
        with (self.folder / "output").open("a") as output:
            self.driver = psutil.Popen(
                [sys.executable, *command],
                cwd=self.folder,
                env=environment | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes(self) -> list[psutil.Process]:
        """The driver's descendants: Ray's own and the trials'."""
        try:
            running = self.driver.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.started |= {process.pid: process for process in running}
        return running

    def trials(self) -> list[psutil.Process]:
        """Processes in which a trial runs."""
        return [p for p in self.processes() if name_of(p).startswith("ray::ImplicitFunc")]

    def revive(self) -> None:
        """Start again where the driver is dead. One that ended by itself is a fault."""
        code = self.driver.poll()
        if code is not None:
            if code != -9:
                self.gave_up.append((self.folder / "output").read_text()[-8000:])
            self.start()

    def writing(self) -> set[Path]:
        """Unfinished files and folders in the store."""
        unfinished = set()
        for stage in STAGES:
            for folder, folders, files in os.walk(self.store / stage):  # which does not mind what vanishes meanwhile
                folders[:] = [n for n in folders if n.endswith(".partial") or ".partial" in folder]
                unfinished |= {Path(folder, n) for n in [*folders, *files] if n.endswith(".partial")}
        return unfinished


def name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def strike(search: Search, kind: str, rng: np.random.Generator) -> None:
    """One kill at a random moment of the start, of a trial, or of its writing."""
    if kind in ("driver", "everything"):
        time.sleep(rng.uniform(0, 20))
    else:
        end = time.monotonic() + WAIT
        while not search.trials():
            search.revive()
            if time.monotonic() > end:
                raise TimeoutError((search.folder / "output").read_text()[-8000:])
            time.sleep(0.05)
        if kind == "trial":
            time.sleep(rng.uniform(0, 6))
        else:
            before, skipped = search.writing(), int(rng.integers(0, 6))
            while time.monotonic() < end:
                now = search.writing()
                skipped -= bool(now - before)
                before = now
                if skipped < 0:
                    break
            time.sleep(rng.choice([0, 0, rng.uniform(0, 0.05)]))
    search.processes()
    if kind.startswith("trial"):
        kill(search.trials()[:1])
        return
    # A loss of power leaves nothing; a driver alone leaves what Ray then ends by itself, beside the next driver.
    kill([search.driver, *(search.processes() if kind == "everything" else [])])
    search.driver.wait()


def finished(results: Path) -> dict[int, tuple[TrialState, float | None]]:
    """State and value of the trials that count."""
    try:
        return {t.number: (t.state, t.value) for t in counted(load_study(STUDY, results))}
    except UserError:  # killed before there was one
        return {}


def faults(folder: Path) -> list[str]:
    """What is wrong with a finished stage: every file is opened, numbers are computed again."""
    wrong = []
    for path in folder.rglob("*"):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".npy":
                np.load(path)
            elif path.suffix == ".npz":
                with np.load(path) as file:
                    [file[name] for name in file.files]
            elif path.suffix == ".pt":
                torch.load(path, weights_only=True)
            elif path.suffix == ".png":
                Image.open(path).load()
        except Exception as error:  # whatever a torn file makes its reader raise
            wrong.append(f"{path}: {error!r}")
    if (folder / IMAGES).is_file() and not wrong:
        metrics, again = json.loads((folder / METRICS).read_text(encoding="utf-8")), recompute(folder)
        for name, value in again.items():
            if str(metrics.get(name)) != str(value):  # as text, in which nan equals nan
                wrong.append(f"{folder}: {name} is {value}, not {metrics.get(name)}")
        wrong += [f"{folder}: no {CONFUSION}"] if not (folder / CONFUSION).is_file() else []
    if folder.parent.name == "maps" and len(list(folder.rglob("*.npz"))) not in IN_SPLIT.values():
        wrong.append(f"{folder}: maps are missing")
    if folder.parent.name == "classifier":
        epochs = [entry["epoch"] for entry in json.loads((folder / "history.json").read_text(encoding="utf-8"))]
        wrong += [f"{folder}: epochs {epochs}"] if epochs != list(range(1, EPOCHS + 1)) else []
    return wrong


def check(results: Path) -> dict[str, list[str]]:
    """What is wrong at the end, but for lost trials."""
    study = load_study(STUDY, results)
    trials = counted(study)
    times = Counter(json.dumps(t.params, sort_keys=True) for t in trials)
    client = MlflowClient(tracking_uri(results))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs: list[Run] = []
    page = None
    while page is None or page.token:
        token = page.token if page else None
        page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
        runs += page
    keys = Counter(run.data.tags["sfc.key"] for run in runs)
    disagree = [f"{run.data.tags['sfc.key']} is still running" for run in runs if run.info.status == "RUNNING"]
    for trial in trials:
        name, full = f"{STUDY}/{trial.number}", trial.state == TrialState.COMPLETE
        own = [run for run in runs if run.data.tags["sfc.key"] == name]
        if len(own) != 1 or "sfc.logged" not in own[0].data.tags:
            disagree.append(f"{name}: {len(own)} runs, or not finished")
            continue
        value = own[0].data.metrics.get(study.user_attrs["metric"])
        status = "FAILED" if how_ended(trial) == TrialState.FAIL else "FINISHED"
        if value != (trial.value if full else None) or own[0].info.status != status:
            disagree.append(f"{name}: {value}, {own[0].info.status}; the study has {trial.value}, {status}")
        if missing := values_of(trial).keys() - own[0].data.params.keys():
            disagree.append(f"{name}: without the parameters {', '.join(missing)}")
        below = sum(key.startswith(f"{name}/") for key in keys)
        if below != (len(trial.user_attrs["inner"]) if full and len(trial.user_attrs["inner"]) > 1 else 0):
            disagree.append(f"{name}: {below} runs below it")
    stages = [path.parent for path in (results / "store").glob("*/*/manifest.json") if path.parent.suffix != ".partial"]
    print(f"{len(trials)} trials finished, {len(runs)} MLflow runs, {len(stages)} stages in the store")
    return {
        "finished trials run twice": [f"{n} times {settings}" for settings, n in times.items() if n > 1],
        "duplicate MLflow runs": [f"{n} times {key}" for key, n in keys.items() if n > 1],
        "MLflow runs that disagree with the study": disagree,
        "half-read stages": [fault for stage in stages for fault in faults(stage)],
    }


def run(folder: Path, kills: int, seed: int) -> int:
    """Kill a search in `folder` so often; prints the counts and returns the exit code."""
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.resize(KINDS, kills))
    search, results = Search(folder), folder / "results"
    before: dict[int, tuple[TrialState, float | None]] = {}
    lost: dict[int, str] = {}
    try:
        for number, kind in enumerate(kinds, 1):
            strike(search, kind, rng)
            now = finished(results)
            lost |= {n: f"trial {n}: {was}, now {now.get(n)}" for n, was in before.items() if now.get(n) != was}
            before |= now
            search.revive()
            print(f"kill {number}: {kind}; {len(now)} trials finished", flush=True)
        kill([search.driver])
        search.driver.wait()
        search.start("--trials", str(len(finished(results)) + 3))
        if search.driver.wait(timeout=600) != 0:
            search.gave_up.append((folder / "output").read_text()[-8000:])
    finally:
        search.processes()
        kill([search.driver])
        psutil.wait_procs(list(search.started.values()), timeout=10)
        kill([p for p in search.started.values() if p.is_running()])
    now = finished(results)
    lost |= {n: f"trial {n}: {was}, now {now.get(n)}" for n, was in before.items() if now.get(n) != was}
    counts = {"finished trials lost": list(lost.values()), **check(results), "commands that failed": search.gave_up}
    for what in counts.values():
        print(*what, sep="\n", end="\n" if what else "")
    print(f"{kills} kills: " + ", ".join(f"{n} {kind}" for kind, n in Counter(kinds.tolist()).items()))
    for name, what in counts.items():
        print(f"{name}: {len(what)}")
    return int(any(counts.values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), options.kills, options.seed)


if __name__ == "__main__":
    sys.exit(main())
