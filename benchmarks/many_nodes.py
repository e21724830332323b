"""At how many trials a minute the driver stops keeping up: python benchmarks/many_nodes.py [--slots 1 8 16].

The real search with trials that sleep, on Ray clusters of fake nodes of four CPUs on this machine. The driver has the
last core that this process may use, all nodes share the others: they only start processes and report. A
block of trials of the same length counts from the end of its first round to the start of its last. A trial's process
takes about half a GB, since it imports torch: its memory is printed, and says how many slots a machine holds.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import optuna
import ray
from common import machine
from many_trials import open_search
from no_work import sleep
from ray.cluster_utils import Cluster

from tune.cluster.connect import slots as slots_of
from tune.study.run import run_trials
from tune.study.trial import Job

LENGTHS = (2.0, 1.0, 0.5, 0.25)
"""Seconds of a trial, block by block."""
PER_NODE = 4
STORE = 80 * 2**20
"""Bytes of shared memory of a node."""


def start(slots: int) -> Cluster:
    """A cluster of nodes with `slots` fake CPUs, and a head that runs no trial; this process is connected to it."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:-1] or cores)  # what nodes start inherits it
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False},
    )
    for first in range(0, slots, PER_NODE):
        cluster.add_node(num_cpus=min(PER_NODE, slots - first), object_store_memory=STORE)
    os.sched_setaffinity(0, cores[-1:])
    ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    os.sched_setaffinity(0, cores[-1:])
    return cluster


def simulate(slots: int) -> list[tuple[float, float]]:
    """For each length of trials, seconds and trials a minute. Prints the memory of their processes and the
    driver's work."""
    blocks = [(length, 4 * slots + 12) for length in LENGTHS]
    trials = slots + sum(count for _, count in blocks)
    cluster = start(slots)
    with tempfile.TemporaryDirectory() as name:
        results = Path(name)
        meeting = results / "meeting"
        meeting.mkdir()
        study, space, store, logger = open_search(results, trials)
        trainable = functools.partial(sleep, meeting=meeting, slots=slots, blocks=blocks)
        busy = time.process_time()
        run_trials(
            study,
            Job(space, results, store.root, at_once=slots_of(1, 0)),
            trials,
            listeners=[logger],
            trainable=trainable,
        )
        logger.finish()
        busy = time.process_time() - busy
        each = statistics.median(float(file.read_text()) for file in meeting.iterdir())
        print(
            f"{slots} slots, {trials} trials: {each / 2**20:.0f} MB a trial's process, "
            f"{1000 * busy / trials:.0f} ms of the driver's core a trial: {60 * trials / busy:.0f} a minute fill it",
            flush=True,
        )
        ends = {t.number: t.datetime_complete.timestamp() for t in study.trials if t.datetime_complete}
        begins = {t.number: t.datetime_start.timestamp() for t in study.trials if t.datetime_start}
    ray.shutdown()
    cluster.shutdown()
    rates, first = [], slots
    for length, count in blocks:
        numbers = range(first, first + count)
        done = sorted(ends[n] for n in numbers)
        begin, end = done[slots - 1], max(begins[n] for n in numbers)
        inside = [t for t in sorted(ends.values()) if begin < t <= end]
        rates.append((length, 60 * len(inside) / (end - begin)))
        first += count
    return rates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 8, 16])
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(machine())
    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp()  # in the usual place others' `ray.init("auto")` would find this one
    for slots in options.slots:
        for length, rate in simulate(slots):
            ideal = 60 * slots / length
            print(
                f"{slots:3} slots, trials of {length:g} s: {rate:6.0f} a minute, ideal {ideal:5.0f}, "
                f"{100 * rate / ideal:3.0f} %",
                flush=True,
            )
    shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
