"""The seam between what is computed and what runs it: an engine trains on workers and maps over processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from sfc.config import Precision
from sfc.runtime.machine import available_cpus

Item = TypeVar("Item")
Output = TypeVar("Output")
Placed = TypeVar("Placed", bound=torch.Tensor | torch.nn.Module)
Report = Callable[[dict[str, float], dict[str, Any]], None]
Step = Callable[[], None]
CHECKPOINT = "checkpoint.pt"
SHARD = 50
"""Images that a process takes at a time."""


BF16_WEIGHTS = 1_000_000
"""Weights from which a network gains by bf16 on a CPU: the conversions of a small one cost more than they save."""


def bf16_gains(device: torch.device, network: nn.Module) -> bool:
    """Whether bf16 makes a network faster than float32, by a rule, so that two runs never differ by it: on GPUs from
    Ampere on; on CPUs with bf16 arithmetic (AVX512-BF16 or AMX) for a network of at least a million weights
    (`benchmarks/precision.py` prints the ratios)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if sum(parameter.numel() for parameter in network.parameters()) < BF16_WEIGHTS:
        return False
    flags = Path("/proc/cpuinfo")
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and flags.is_file() and "avx512_bf16" in flags.read_text()


@dataclass(frozen=True)
class Numerics:
    """How a network computes: autocast's type and the memory layout."""

    device: torch.device
    bf16: bool

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def place(self, module: Placed) -> Placed:
        """Move a module or a tensor (N, C, H, W) to the device; channels last with bf16, which gains by it."""
        layout: dict[str, Any] = {"memory_format": torch.channels_last} if self.bf16 else {}
        placed: Any = module.to(self.device, non_blocking=True, **layout)
        return placed


def numerics(precision: Precision, device: torch.device, network: nn.Module) -> Numerics:
    """Resolve the setting `precision` for a network on a device."""
    return Numerics(device, precision == "bf16" or (precision == "auto" and bf16_gains(device, network)))


@dataclass
class Context:
    """Where a training loop runs, and who listens to it."""

    folder: Path
    """The stage's working folder, seen by every worker."""
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: default_device())
    loader_workers: int = 0
    """Processes that read ahead."""
    on_report: Report | None = None
    on_step: Step = lambda: None
    """Called at every step, so that somebody can see that the work goes on."""

    def report(self, metrics: dict[str, float], state: dict[str, Any]) -> None:
        """End an epoch, on every rank: rank 0 saves the state, of plain values and tensors, for `restore`; then the
        engine gets it with the metrics, which are the same on every rank."""
        if self.rank == 0:
            partial = self.folder / f"{CHECKPOINT}.partial"
            with partial.open("wb") as file:  # given a path, torch hides why a write failed
                torch.save(state, file)
            partial.replace(self.folder / CHECKPOINT)
        if self.on_report is not None:
            self.on_report(metrics, state)

    def restore(self) -> dict[str, Any] | None:
        """The last saved state, or None at the start."""
        path = self.folder / CHECKPOINT
        return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None


class Engine(Protocol):
    """Runs the work of a stage."""

    def train(self, loop: Callable[..., None], *args: Any, folder: Path) -> None:
        """Run `loop(context, *args)` on the workers until it is done; checkpoints go to `folder`."""

    def map(self, function: Callable[[Item], Output], items: Iterable[Item], *, gpu: bool = False) -> Iterator[Output]:
        """`function` of every item, in order, spread over processes.

        Args:
            function: picklable; called with one item at a time.
            items: shards of the work.
            gpu: whether the function runs a network, which takes one process a GPU where there are any.
        """


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def shards(number: int, size: int = SHARD) -> list[range]:
    """range(number) in pieces of `size`, the items of `Engine.map`."""
    return [range(start, min(start + size, number)) for start in range(0, number, size)]


def _single_thread() -> None:
    torch.set_num_threads(1)


class LocalEngine:
    """Everything on this machine: training in this process, shards in `processes` others.

    Args:
        processes: for `map`; 1 works in this process.
        on_report: told of each epoch's metrics and state.
        watched: watches what runs in this process; gives a function that is called at each step and item.
    """

    def __init__(
        self,
        processes: int | None = None,
        on_report: Report | None = None,
        watched: Callable[[], AbstractContextManager[Step]] = lambda: nullcontext(lambda: None),
    ) -> None:
        self.processes = processes or available_cpus()
        self.on_report, self.watched = on_report, watched

    def train(self, loop: Callable[..., None], *args: Any, folder: Path) -> None:
        workers = min(8, self.processes) if torch.cuda.is_available() else 0
        with self.watched() as step:
            loop(Context(folder, loader_workers=workers, on_report=self.on_report, on_step=step), *args)

    def map(self, function: Callable[[Item], Output], items: Iterable[Item], *, gpu: bool = False) -> Iterator[Output]:
        items = list(items)
        if self.processes == 1 or len(items) < 2 or (gpu and torch.cuda.is_available()):
            with self.watched() as step:
                for item in items:
                    yield function(item)
                    step()
        elif gpu:
            yield from self._in_threads(function, items)
        else:
            spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks of torch's threads
            with ProcessPoolExecutor(min(self.processes, len(items)), spawn, _single_thread) as pool:
                yield from pool.map(function, items)

    def _in_threads(self, function: Callable[[Item], Output], items: list[Item]) -> Iterator[Output]:
        """The items of work that is a network's, which holds no lock of Python while it computes: threads share the
        network, and start at once. Each computes on one core."""
        before = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(self.processes, initializer=_single_thread) as pool, self.watched() as step:
                for output in pool.map(function, items):
                    yield output
                    step()
        finally:
            torch.set_num_threads(before)
