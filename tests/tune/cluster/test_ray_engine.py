"""The engine on Ray: the same as the local one, for any number of workers; processes and nodes that die or hang."""

import contextlib
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from optuna.trial import TrialState
from ray.cluster_utils import Cluster

from sfc.config import Config
from sfc.config.files import absolute, change_config, load_config
from sfc.data.images import read_mask
from sfc.errors import Diverged, UserError
from sfc.pipeline import Pipeline
from sfc.runtime.engine import Context, LocalEngine
from sfc.runtime.store import Store
from sfc.runtime.training import WEIGHTS
from tests.tune.conftest import SPACE, TINY, call
from tune import search
from tune.cluster.ray_engine import RayEngine
from tune.space.parameter import decode
from tune.space.space_file import load_space
from tune.study.study import complete, counted, load_study
from tune.study.trial import search_inner

ONE_FINAL = SPACE.replace("confirm: [{trials: 2, seeds: 1}]", "confirm: []")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("data")
    return absolute(load_config("synthetic.yaml", [*TINY, f"data.root={root}", "classifier.epochs=4"]))


@contextlib.contextmanager
def once(seen: Callable[[], object], do: Callable[[], None]) -> Iterator[None]:
    """Do something as soon as something is seen, beside what is under way; the latter must have been under way."""
    over, done = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            if seen():
                do()
                done.set()
                return
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert done.is_set(), "the work was over before anything could happen to it"


def node_of(cluster: Cluster, pid: int) -> object:
    """The node that a worker's process runs on."""
    parents = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
    while pid not in parents:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return parents[pid]


def pipeline(config: Config, folder: Path, engine: object) -> Pipeline:
    return Pipeline(config, Store(folder / "store"), engine)  # type: ignore[arg-type]


def wait_for_loss(item: int, folder: Path) -> int:
    """The square of an item, once a node has been lost."""
    (folder / f"{item}.pid").write_text(str(os.getpid()))
    while not (folder / "lost").exists():
        time.sleep(0.02)
    return item * item


def hang_once(item: int, folder: Path) -> int:
    marker = folder / "hung"
    if item == 1 and not marker.exists():
        marker.write_text("")
        signal.pause()
    return item


def die(item: int) -> int:
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def miss(item: int) -> bytes:
    return Path("/nowhere/at/all.jpg").read_bytes()


@pytest.mark.slow
def test_shards_come_in_order_and_survive_a_node_a_hang_and_say_what_is_wrong(nodes: Cluster, tmp_path: Path) -> None:
    engine = RayEngine(1, tmp_path, timeout=6)

    def started() -> list[int]:
        return [int(text) for path in tmp_path.glob("*.pid") if (text := path.read_text())]

    def lose() -> None:
        nodes.remove_node(node_of(nodes, started()[0]), allow_graceful=False)
        (tmp_path / "lost").touch()

    with once(started, lose):
        squares = list(engine.map(partial(wait_for_loss, folder=tmp_path), range(12)))
    assert squares == [i * i for i in range(12)]
    assert list(engine.map(partial(hang_once, folder=tmp_path), range(3))) == [0, 1, 2]
    assert (tmp_path / "hung").exists()
    with pytest.raises(UserError, match="died 3 times on the same work"):
        list(engine.map(die, range(2)))
    with pytest.raises(UserError, match=r"node .*: there is no /nowhere/at/all\.jpg"):
        list(engine.map(miss, range(2)))
    with pytest.raises(UserError, match="2 workers, but the cluster has 1 CPUs"):
        RayEngine(2, tmp_path)


@pytest.mark.slow(seconds=140)
def test_a_training_and_a_crf_that_lose_a_node_end_as_if_nothing_had_happened(
    nodes: Cluster, config: Config, tmp_path: Path
) -> None:
    """Two workers against one, undisturbed; then the same with a node lost in the training and one in the CRF."""
    one_step = change_config(config, {"classifier.batch": 48, "classifier.epochs": 1, "classifier.head_lr": 1.0})
    steps = [
        torch.load(pipeline(one_step, tmp_path / name, engine).output("classifier") / WEIGHTS, weights_only=True)
        for name, engine in (("step1", LocalEngine(1)), ("step2", RayEngine(2, tmp_path)))
    ]
    for name, tensor in steps[0].items():  # at a rate of 1 the heads differ by as much as their gradients
        torch.testing.assert_close(steps[1][name], tensor, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")

    alone = pipeline(config, tmp_path / "alone", LocalEngine(1))
    whole = alone.run("pseudo")
    two = pipeline(config, tmp_path / "two", RayEngine(2, tmp_path))
    two.output("classifier")
    assert abs(two.run("seed").metrics["seed/best_miou"] - whole.metrics["seed/best_miou"]) < 0.003

    lossy = pipeline(config, tmp_path / "lossy", RayEngine(2, tmp_path))
    partial_folder = tmp_path / "lossy" / "store" / "classifier"

    def lose() -> None:
        nodes.remove_node(nodes.worker_nodes.copy().pop(), allow_graceful=False)

    with once(lambda: any(partial_folder.glob("*.partial/checkpoint.pt")), lose):
        lossy.output("classifier")

    nodes.add_node(num_cpus=1, object_store_memory=10**8)
    labels = tmp_path / "lossy" / "store" / "labels"
    lossy.output("maps", "train")
    with once(lambda: any(labels.glob("*.partial/labels/*.png")), lose):
        numbers = lossy.run("pseudo")
    assert abs(numbers.metrics["seed/best_miou"] - whole.metrics["seed/best_miou"]) < 0.003
    assert numbers.metrics["pseudo_train/coverage"] == whole.metrics["pseudo_train/coverage"]
    [mine], [theirs] = (list((tmp_path / n / "store" / "labels").glob("*/labels")) for n in ("lossy", "alone"))
    assert sorted(p.name for p in mine.iterdir()) == sorted(p.name for p in theirs.iterdir())
    same = [np.mean(read_mask(p) == read_mask(theirs / p.name)) for p in mine.iterdir()]
    assert np.mean(same) > 0.99


def leave_rank(context: Context) -> None:
    (context.folder / f"rank{context.rank}").touch()


@pytest.mark.slow
def test_a_worker_asks_for_no_more_than_a_node_has(nodes: Cluster, tmp_path: Path) -> None:
    """Two nodes with a core each: a worker that asked for both cores would wait for ever."""
    RayEngine(1, tmp_path).train(leave_rank, folder=tmp_path)
    assert (tmp_path / "rank0").exists()


def diverge(context: Context, starts: Path) -> None:
    (starts / f"{context.rank}-{uuid.uuid4().hex}").touch()
    raise Diverged("the loss is not finite")


@pytest.mark.slow
def test_a_divergence_is_raised_and_not_retried(nodes: Cluster, tmp_path: Path) -> None:
    starts, folder = tmp_path / "starts", tmp_path / "work"
    starts.mkdir()
    folder.mkdir()
    with pytest.raises(Diverged, match="the loss is not finite"):
        RayEngine(2, tmp_path).train(diverge, starts, folder=folder)
    ranks = [path.name[0] for path in starts.iterdir()]
    assert ranks and len(set(ranks)) == len(ranks), "a worker started twice"


@pytest.mark.slow(seconds=40)
def test_a_search_on_a_cluster_survives_the_loss_of_a_node_with_the_same_numbers(
    nodes: Cluster, tmp_path: Path
) -> None:
    """Trials on two nodes, one of which is lost in the middle of a training: nothing is lost, nothing twice."""
    space_file = tmp_path / "tiny.yaml"
    space_file.write_text(
        ONE_FINAL.replace("choice: [0.05, 1.0e+30]", "choice: [0.05, 0.04]").replace("1.0e+30", "0.04")
    )
    words = ["--space", str(space_file), "--study", "s", "--trials", "3", *TINY, "classifier.epochs=6"]
    results = tmp_path / "results"

    def lose() -> None:
        nodes.remove_node(nodes.worker_nodes.copy().pop(), allow_graceful=False)

    with once(lambda: len(list((results / "store" / "classifier").glob("*.partial/checkpoint.pt"))) == 2, lose):
        ended = call(search.main, *words, f"data.root={tmp_path / 'data'}", results=results)
    assert ended.code == 0, ended.output
    study = load_study("s", results)
    done = counted(study)
    assert len(done) == 3 and not [t for t in done if t.state == TrialState.FAIL], ended.output
    assert len({tuple(sorted(t.params.items())) for t in done}) == 3
    space = load_space(str(space_file), None, [*TINY, "classifier.epochs=6"])
    for trial in complete(study):
        chosen = {name: decode(value) for name, value in trial.params.items()}
        again = pipeline(space.config(chosen), tmp_path / "again", LocalEngine(1))
        assert max(t["value"] for t in search_inner(again, space, chosen, trial.number, lambda *_: None)) == trial.value


@pytest.mark.slow(seconds=90)
def test_trials_of_several_workers_run_one_after_the_other_in_full(nodes: Cluster, tmp_path: Path) -> None:
    """Two cores hold one at a time; the second learns next to nothing, and is not stopped early for it."""
    space_file = tmp_path / "tiny.yaml"
    space_file.write_text(ONE_FINAL.replace("1.0e+30", "0.0000001"))
    words = ["--space", str(space_file), "--study", "s", "--results", str(tmp_path / "results"), "--trials", "2"]
    assert search.main([*words, "--workers-per-trial", "2", *TINY, f"data.root={tmp_path / 'data'}"]) == 0
    done = counted(load_study("s", tmp_path / "results"))
    assert [t.state for t in done] == [TrialState.COMPLETE] * 2
