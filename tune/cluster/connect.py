"""Connecting to Ray: one of our own on this machine, or the cluster at an address."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sfc.errors import UserError
from sfc.runtime.machine import available_cpus
from sfc.runtime.stores import StoreAddress
from sfc.terminal import catch_sigterm

OBJECT_STORE = 200 * 2**20
"""Bytes of shared memory on this machine; small, since shards carry names and no images."""
TIME_LIMIT = 10.0
"""Seconds in which a cluster's port has to answer; `ray.init` waits for over two minutes."""


def connect(address: str | None = None) -> None:
    """Connect this process to Ray, unless it is connected.

    Args:
        address: `HOST:PORT`, `auto` or `ray://...`; None: RAY_ADDRESS, else a Ray of this process's own.

    Raises:
        UserError: no Ray answers at the address, or it refuses our token.
    """
    if ray.is_initialized():
        return
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _check_port(address)
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
    except (OSError, ValueError, ray.exceptions.AuthenticationError) as error:
        raise UserError(
            f"--address {address}: no Ray answers there, or it has another token (docs/cluster.md): {error}"
        ) from None
    catch_sigterm()


def _check_port(address: str) -> None:
    """Raise OSError where nothing listens at an address `HOST:PORT`; other addresses are left to Ray."""
    parts = re.fullmatch(r"\[?(?P<host>[^/\[\]]+)\]?:(?P<port>\d+)", address)
    if parts is None:
        return
    try:
        socket.create_connection((parts["host"], int(parts["port"])), timeout=TIME_LIMIT).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"nothing listens at {address} ({error}); `ray status` on the head shows whether it runs, its port is "
            "6379 unless it was started with another"
        ) from None


def check_nodes(folders: Sequence[StoreAddress]) -> None:
    """Check that every node of the cluster has this code and can read these folders. A cluster of one node and
    addresses of buckets need no check.

    Raises:
        UserError: what a node lacks, for each node.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    if len(nodes) < 2:
        return
    paths = [str(folder) for folder in folders if "://" not in str(folder)]
    task = ray.remote(num_cpus=0.01)(_inspect)
    answers = {
        f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})": task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(paths)
        for node in nodes
    }
    ours, problems = code(), []
    for name, reference in answers.items():
        try:
            theirs, missing = ray.get(reference, timeout=120)
        except ray.exceptions.TaskUnschedulableError:  # lost since it was listed; the others do its work
            continue
        except Exception as error:
            problems.append(f"node {name} does not have this project, or can't run it: {str(error).splitlines()[-1]}")
            continue
        if theirs != ours:
            differing = [f"{part} {theirs[part]}, here {ours[part]}" for part in ours if theirs[part] != ours[part]]
            problems.append(f"node {name} has another version: {'; '.join(differing)}")
        problems += [f"node {name} does not see {path}" for path in missing]
    if problems:
        raise UserError(
            "\n".join(problems) + "\nEvery node needs the same code, and data and results under the same path "
            "(docs/cluster.md)"
        )


def _inspect(paths: list[str]) -> tuple[dict[str, str], list[str]]:
    """`code` of the node that runs this, and the paths that it does not have."""
    return code(), [path for path in paths if not Path(path).exists()]


def code() -> dict[str, str]:
    """Versions of torch and Ray on this node, and a digest of this project's code."""
    root = Path(__file__).resolve().parents[2]
    files = sorted(path for folder in ("sfc", "tune") for path in (root / folder).rglob("*.py"))
    content = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:8]
    return {name: importlib.metadata.version(name) for name in ("torch", "ray")} | {"code": content}


def cpus_each(processes: int) -> int:
    """CPUs for each of some processes that share the cluster; no more than its largest node has, since Ray would wait
    for ever for a node that can hold the process."""
    total = int(ray.cluster_resources().get("CPU", 1))
    largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    return max(1, min(largest, total // processes))


def slots(cpus: float, gpus: float) -> int:
    """How many trials of so many CPUs and GPUs the cluster holds at once.

    Raises:
        UserError: it does not hold one; says what it has.
    """
    total = ray.cluster_resources()
    limits = [int(total.get("CPU", 0) // cpus)]
    if gpus:
        limits.append(int(total.get("GPU", 0) / gpus))
    if min(limits) < 1:
        raise UserError(
            f"a trial asks for {cpus:g} CPUs and {gpus:g} GPUs; the cluster has {total.get('CPU', 0):g} CPUs and "
            f"{total.get('GPU', 0):g} GPUs"
        )
    return min(limits)
