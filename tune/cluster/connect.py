"""Connecting to Ray: a quiet one on this machine, or the cluster at an address."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import grpc
import ray
from ray._private.services import canonicalize_bootstrap_address
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sfc.errors import UserError
from sfc.runtime.engine import available_cpus
from sfc.runtime.store import Address
from tune.cluster.stop import catch_sigterm

OBJECT_STORE = 200 * 2**20
"""Bytes of shared memory on this machine: shards carry names, not images."""
ANSWER = 10.0
"""Seconds in which a cluster has to answer; Ray itself asks for over two minutes."""


def results_folder(text: str) -> Path:
    """The folder of --results, absolute, since workers stand in other folders. A relative one is below the current
    folder; in a job of `ray job submit`, whose current folder is deleted some time after its end, below the home
    folder."""
    uploaded = "working_dir_files" in Path.cwd().parts  # Ray's copy of --working-dir
    return (Path.home() if uploaded else Path.cwd()) / text


def connect(address: str | None = None) -> None:
    """Be connected to Ray; where it is not running and no address is given, start it on this machine.

    Raises:
        UserError: nobody answers at the address, or Ray does not let us in.
    """
    if ray.is_initialized():
        return
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _wait_for(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                "local",  # also where somebody's cluster runs on this machine
                num_cpus=available_cpus(),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, TimeoutError, ValueError, ray.exceptions.AuthenticationError) as error:
        raise UserError(
            f"--address {address}: no Ray answers there, or it has another token (docs/cluster.md): {error}"
        ) from None
    catch_sigterm()


def _wait_for(address: str) -> None:
    """See that something which speaks Ray's protocol answers.

    Raises:
        ConnectionError: nothing does within ANSWER seconds.
    """
    where = canonicalize_bootstrap_address(address)
    if where is None or os.environ.get("RAY_USE_TLS") == "1":
        return
    with grpc.insecure_channel(where, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER)
        except grpc.FutureTimeoutError:
            raise ConnectionError(
                f"nothing at {where} within {ANSWER:g} s; `ray status` on the head shows whether it runs, its port is "
                "6379 unless it was started with another"
            ) from None


def check_nodes(places: Sequence[Address]) -> None:
    """See that every node of the cluster has this very code and sees these folders; nothing to see where there is one
    node, or for a bucket.

    Raises:
        UserError: what differs, node by node.
    """
    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) > 0]
    if len(nodes) < 2:
        return
    paths = [str(place) for place in places if "://" not in str(place)]
    task = ray.remote(num_cpus=0.01)(_look)
    asked = {
        n["NodeManagerAddress"] + f" ({n['NodeID'][:8]})": task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=False)
        ).remote(paths)
        for n in nodes
    }
    here, problems = code(), []
    for name, reference in asked.items():
        try:
            there, missing = ray.get(reference, timeout=120)
        except ray.exceptions.TaskUnschedulableError:  # lost since it was listed; the others do its work
            continue
        except Exception as error:
            problems.append(f"node {name} does not have this project, or can't run it: {str(error).splitlines()[-1]}")
            continue
        if there != here:
            differing = [f"{k} {there[k]}, here {v}" for k, v in here.items() if there[k] != v]
            problems.append(f"node {name} has another version: {'; '.join(differing)}")
        problems += [f"node {name} does not see {path}" for path in missing]
    if problems:
        raise UserError(
            "\n".join(problems) + "\nEvery node needs the same code, and data and results under the same path "
            "(docs/cluster.md)"
        )


def _look(paths: list[str]) -> tuple[dict[str, str], list[str]]:
    return code(), [path for path in paths if not Path(path).exists()]


def code() -> dict[str, str]:
    """Versions of what computes here, and a digest of this project's code."""
    root = Path(__file__).resolve().parents[2]
    files = sorted(path for folder in ("sfc", "tune") for path in (root / folder).rglob("*.py"))
    content = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:8]
    return {name: importlib.metadata.version(name) for name in ("torch", "ray")} | {"code": content}


def slots(cpus: float, gpus: float) -> int:
    """Trials that the cluster holds at once.

    Raises:
        UserError: it does not hold one; says what there is.
    """
    there = ray.cluster_resources()
    fits = [int(there.get("CPU", 0) // cpus)]
    if gpus:
        fits.append(int(there.get("GPU", 0) / gpus))
    if min(fits) < 1:
        raise UserError(
            f"a trial asks for {cpus:g} CPUs and {gpus:g} GPUs; the cluster has {there.get('CPU', 0):g} CPUs and "
            f"{there.get('GPU', 0):g} GPUs"
        )
    return min(fits)
