"""Connecting to Ray: a quiet one on this machine, or the cluster at an address."""

from __future__ import annotations

import logging
import os

import ray

from sfc.engine import available_cpus
from sfc.errors import UserError

OBJECT_STORE = 200 * 2**20
"""Bytes of shared memory on this machine: shards carry names, not images."""


def connect(address: str | None = None) -> None:
    """Be connected to Ray; where it is not running and no address is given, start it on this machine.

    Raises:
        UserError: nobody answers at the address.
    """
    if ray.is_initialized():
        return
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                num_cpus=available_cpus(),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, TimeoutError, ValueError) as error:
        raise UserError(f"--address {address}: no Ray answers there ({error})") from None


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
