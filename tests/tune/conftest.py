"""A generated data set so small that a trial takes a second."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "classifier.epochs=3",
    "classifier.precision=fp32",
    "cam.scales=[1.0]",
    "cam.precision=fp32",
    "segmentation.epochs=1",
    "segmentation.precision=fp32",
    "evaluation.scales=[1.0]",
    "data.synthetic.train=48",
    "data.synthetic.select=12",
    "data.synthetic.val=12",
]
SPACE = """
base: synthetic.yaml
parameters:
  classifier.options.prototype_weight: {uniform: [0.0, 2.0]}
  classifier.lr: {choice: [0.05, 1.0e+30]}
  pseudo.fusion: {uniform: [0.0, 1.0]}
published: {classifier.options.prototype_weight: 1.6, classifier.lr: 0.05, pseudo.fusion: 0.7}
start:
  - {classifier.options.prototype_weight: 0.4, classifier.lr: 1.0e+30, pseudo.fusion: 0.7}
asha: {grace: 1, reduction: 2}
budget: {trials: 4, inner: 3}
confirm: [{trials: 2, seeds: 1}]
compare: {seeds: 1, upper_bound: false}
"""


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE)
    return path


def command(*words: str, folder: Path) -> subprocess.Popen:
    """Start a command of the project in `folder`, in a process group of its own."""
    (folder / "results").mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=environment | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # pytest's own processes ignore SIGINT, and what they start would inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    output: str
    """Of both streams."""


def call(main: Callable[[list[str]], int], *words: str, results: Path) -> Ended:
    """Run a command in this process, on the Ray that it is connected to: a Ray and imports of its own would take longer
    than tiny work."""
    with redirect_stdout(StringIO()) as output, redirect_stderr(output):
        code = main([*words, "--results", str(results)])
    return Ended(code, output.getvalue())


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def stop_all(folder: Path) -> None:
    """End the processes of the Ray that has its files in `folder`, and no other."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(f"{folder}/" in word for word in process.cmdline()):
                process.kill()


@dataclass(frozen=True)
class Head:
    """A Ray that the tests started, in a folder and on ports of its own."""

    folder: Path
    """Its home folder too."""
    process: subprocess.Popen
    address: str
    dashboard: str
    environment: dict[str, str]

    def ray(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command `ray`, with this Ray's token."""
        return subprocess.run(
            [f"{sys.prefix}/bin/ray", *words], cwd=ROOT, env=self.environment, capture_output=True, text=True
        )


@contextmanager
def ray_head(cpus: int = 2) -> Iterator[Head]:
    """`ray start --head` with token authentication, stopped in the end."""
    folder = Path(tempfile.mkdtemp(prefix="sfc", dir="/tmp"))  # short: the names of sockets are below it
    (folder / "token").write_text(secrets.token_hex())
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "OPTUNA_"))} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "HOME": str(folder),
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }
    gcs, dashboard = free_port(), free_port()
    words = f"start --head --block --port={gcs} --dashboard-port={dashboard} --ray-client-server-port={free_port()}"
    words += f" --dashboard-agent-listen-port=0 --temp-dir={folder}/ray --num-cpus={cpus}"
    process = subprocess.Popen(
        [f"{sys.prefix}/bin/ray", *words.split(), "--object-store-memory=100000000", "--disable-usage-stats"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        output = ""
        while "Ray runtime started" not in output:
            line = process.stdout.readline()
            assert line, f"no Ray:\n{output}"
            output += line
        yield Head(folder, process, f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", environment)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=30)
        stop_all(folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    with ray_head() as started:
        yield started


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for modules of a user's own, which the processes of `cluster` import from."""
    return tmp_path_factory.mktemp("modules")


@pytest.fixture(scope="session")
def cluster(modules: Path) -> Iterator[Cluster]:
    """A Ray of three nodes, one for all tests of a process: a head that works on nothing, and two with a core each."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(modules), os.environ.get("PYTHONPATH")]))
    soon = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}  # a lost node is noticed in seconds
    started = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": 10**8,
            "include_dashboard": False,
            "_system_config": soon,
        },
    )
    yield started
    ray.shutdown()
    started.shutdown()


@pytest.fixture
def nodes(cluster: Cluster) -> Cluster:
    return join(cluster)


def join(cluster: Cluster) -> Cluster:
    """The three nodes, those replaced that an earlier test lost; this process is connected to them."""
    while len(cluster.worker_nodes) < 2:
        cluster.add_node(num_cpus=1, object_store_memory=10**8)
    if ray.is_initialized() and ray.get_runtime_context().gcs_address != cluster.address:
        ray.shutdown()
    if not ray.is_initialized():
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    return cluster


@pytest.fixture
def without_ray() -> None:
    """This process is connected to no Ray; the nodes of `cluster` stay."""
    ray.shutdown()
