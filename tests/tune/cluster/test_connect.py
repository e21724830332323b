"""Clusters: jobs submitted to a real head, addresses where nobody answers, nodes that lack something."""

import contextlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import ray
from ray._private.runtime_env.packaging import create_package
from ray.cluster_utils import Cluster

from sfc.errors import UserError
from tests.tune.conftest import ROOT, TINY, Head, call, free_port
from tune.cluster import connect as cluster
from tune.cluster.connect import check_nodes, code, connect, slots
from tune.search import main

SMALL = """
base: synthetic.yaml
parameters:
  classifier.options.prototype_weight: {uniform: [0.0, 2.0]}
  pseudo.fusion: {uniform: [0.0, 1.0]}
published: {classifier.options.prototype_weight: 1.6, pseudo.fusion: 0.7}
budget: {trials: 2, inner: 2}
confirm: []
compare: {seeds: 1, upper_bound: false}
"""


def submit(head: Head, *words: str) -> subprocess.CompletedProcess[str]:
    """As the documentation says, in the project's folder."""
    command = ["python", "tune/search.py", "--space", *words]
    return head.ray("job", "submit", "--address", head.dashboard, "--working-dir", ".", "--", *command)


@pytest.mark.slow(seconds=80)
def test_a_submitted_search_shows_its_progress_and_leaves_its_results(head: Head, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    done = submit(head, str(tmp_path / "small.yaml"), "--study", "small", *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2/2 done" in done.stdout and "mlflow ui" in done.stdout and "succeeded" in done.stderr + done.stdout
    results = head.folder / "results"
    assert (results / "final" / "small" / "best.yaml").is_file(), "below home: Ray deletes the job's own folder"
    token = (head.folder / "token").read_text().encode()
    kept = [path for path in results.rglob("*") if path.is_file() and token in path.read_bytes()]
    assert token.decode() not in done.stdout + done.stderr and not kept


@pytest.mark.slow
def test_a_submitted_job_that_fails_says_why_and_fails(head: Head) -> None:
    done = submit(head, "nothing.yaml")
    assert done.returncode != 0
    assert "there is no file nothing.yaml" in done.stdout and "known: msdw.yaml" in done.stdout


def ask(address: str | None, **environment: str) -> tuple[int, str]:
    """Connect in a process of its own: exit code and error output."""
    code = "from sfc.terminal import guarded; from tune.cluster.connect import connect\n"
    code += f"exit(guarded(lambda: connect({address!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment or None, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stderr


@pytest.mark.slow
def test_another_token_is_refused_and_ours_is_let_in(head: Head) -> None:
    status, error = ask(head.address, **head.environment)
    assert status == 0, error
    other = {k: v for k, v in head.environment.items() if k != "RAY_AUTH_TOKEN_PATH"} | {"RAY_AUTH_TOKEN": "wrong"}
    status, error = ask(head.address, **other)
    assert status == 2 and "has another token" in error


@pytest.mark.slow
def test_without_an_address_a_ray_of_its_own_is_started_beside_one_that_runs(head: Head) -> None:
    """`ray.init()` alone would join the one that `ray start` noted in the temporary folder."""
    assert (head.folder / "ray" / "ray_current_cluster").is_file()
    status, error = ask(None, **head.environment, RAY_TMPDIR=str(head.folder))
    assert status == 0, error


@pytest.mark.usefixtures("without_ray")
def test_an_address_where_nothing_listens_is_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=f"--address {address}: no Ray answers there.*nothing listens at {address}"):
        connect(address)


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("address", ["garbage", "http://127.0.0.1:8265", "no-host.invalid:6379", "127.0.0.1:99999"])
def test_an_address_of_another_kind_is_named(address: str) -> None:
    with pytest.raises(UserError, match=f"--address {address}: no Ray answers there"):
        connect(address)


@pytest.mark.usefixtures("without_ray")
def test_a_ray_that_runs_is_joined_by_its_address(cluster: Cluster) -> None:
    connect(cluster.address)
    assert ray.get_runtime_context().gcs_address == cluster.address
    connect("127.0.0.1:1")  # the process is connected already, and stays so


def test_little_is_uploaded(tmp_path: Path) -> None:
    """A copy of the project, as large as it gets where somebody works in it."""
    names = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True)
    for name in filter(None, names.stdout.splitlines()):
        with contextlib.suppress(FileNotFoundError):  # deleted, not yet committed
            (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "project" / name).write_bytes((ROOT / name).read_bytes())
    for name in ("results/store/x", "results/mlflow.db", "data/voc/x.jpg", ".git/objects/x", ".venv/lib/x", "shared/x"):
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).write_bytes(b"x")
    package = tmp_path / "package.zip"
    create_package(str(tmp_path / "project"), package, include_gitignore=True)
    uploaded = zipfile.ZipFile(package).namelist()
    assert {"tune/search.py", "sfc/pipeline.py", "experiments/spaces/msdw.yaml"} <= set(uploaded)
    first = {name.split("/")[0] for name in uploaded}
    assert not first & {"results", "data", ".git", ".venv", "shared", "tests"}
    assert package.stat().st_size < 1_000_000, f"{package.stat().st_size} bytes"


@pytest.mark.slow
def test_nodes_that_lack_something_are_named(nodes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [node["NodeID"][:8] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    check_nodes([str(tmp_path)])
    with pytest.raises(UserError, match=r"docs/cluster\.md") as error:
        check_nodes([str(tmp_path), str(tmp_path / "nowhere")])
    lines = [line for line in str(error.value).splitlines() if f"does not see {tmp_path / 'nowhere'}" in line]
    assert len(lines) == 2 and all(any(node in line for line in lines) for node in ids)

    here = code() | {"code": "01234567"}
    monkeypatch.setattr(cluster, "code", lambda: here)
    with pytest.raises(UserError) as error:
        check_nodes([str(tmp_path)])
    assert str(error.value).count("has another version: code ") == 2 and "here 01234567" in str(error.value)


@pytest.mark.slow
def test_slots_count_both_nodes(nodes: Cluster) -> None:
    assert slots(1, 0) == 2
    with pytest.raises(UserError, match="a trial asks for 1 CPUs and 2 GPUs; the cluster has 2 CPUs and 0 GPUs"):
        slots(1, 2)


@pytest.mark.slow
@pytest.mark.usefixtures("nodes")
def test_too_few_gpus_are_said_before_a_trial_starts(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    words = ["--space", str(tmp_path / "small.yaml"), "--gpus-per-trial", "2", *TINY, f"data.root={tmp_path / 'data'}"]
    ended = call(main, *words, results=tmp_path / "results")
    assert ended.code == 2 and "a trial asks for 1 CPUs and 2 GPUs" in ended.output and "starts" not in ended.output
