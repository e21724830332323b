"""The one training loop: an optimiser with a polynomial decay, over crops by recipe, on any number of workers."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from sfc.config import Precision, Training
from sfc.data.crops import Crop, Crops
from sfc.errors import Diverged, UserError
from sfc.method.image_bank import Recipe
from sfc.runtime.engine import CHECKPOINT, Context, Numerics, default_device, numerics
from sfc.runtime.machine import keep_freed_memory

WEIGHTS = "model.pt"
HISTORY = "history.json"
Net = TypeVar("Net", bound=nn.Module)
Groups = list[dict[str, Any]]
"""Parameter groups of an optimiser, each with its `params` and `lr`."""


def save(net: nn.Module, history: list[dict[str, float]], folder: Path) -> None:
    """Write a trained network and its history into a stage's folder; the weights last, which mean that it is done."""
    (folder / HISTORY).write_text(json.dumps(history, indent=1), encoding="utf-8")
    partial = folder / f"{WEIGHTS}.partial"
    with partial.open("wb") as file:
        torch.save(net.state_dict(), file)
    partial.replace(folder / WEIGHTS)
    (folder / CHECKPOINT).unlink(missing_ok=True)


def read_history(folder: Path) -> list[dict[str, float]]:
    """Mean losses of each epoch from a training's folder; none where nothing was trained."""
    file = folder / HISTORY
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights whose names begin with a prefix, by their names behind it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def load(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """The weights in a stage's folder, on the CPU; with a prefix those of one part of the network."""
    return without_prefix(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True), prefix)


def trained(net: Net, folder: Path, precision: Precision) -> tuple[Net, Numerics]:
    """A network with the weights in a stage's folder, on this process's device, in eval mode, and how it computes."""
    net.load_state_dict(load(folder))
    how = numerics(precision, default_device(), net)
    return how.place(net).eval(), how


def poly(step: int, steps: int, power: float) -> float:
    """Factor of the learning rate at a step from 0: (1 - t/T)^power."""
    return float((1 - step / steps) ** power)


def build_optimiser(groups: Groups, section: Training) -> torch.optim.Optimizer:
    """The section's optimiser over parameter groups; `sgd_as_published` has the weight decay as its momentum, too."""
    if section.optimiser == "adamw":
        return torch.optim.AdamW(groups, weight_decay=section.weight_decay)
    momentum = section.weight_decay if section.optimiser == "sgd_as_published" else section.momentum
    return torch.optim.SGD(groups, momentum=momentum, weight_decay=section.weight_decay)


def decay(optimiser: torch.optim.Optimizer, rates: list[float], factor: float) -> None:
    """Set each group's learning rate to its rate of the start times a factor."""
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate * factor


def split_evenly(recipes: list[Recipe], size: int) -> list[list[Recipe]]:
    """Pieces of at most `size`, whose lengths differ by at most one: of P pieces the first takes every P-th recipe, as
    the first of P workers does. So one worker in P pieces adds up what P workers would, to the last bit."""
    count = max(1, math.ceil(len(recipes) / size))
    return [recipes[i::count] for i in range(count)]


@dataclass(frozen=True)
class Batches:
    """The data of a training, epoch by epoch."""

    crops: Crops
    """Makes a crop of a recipe."""
    plan: Callable[[int], list[list[Recipe]]]
    """All batches of an epoch (from 0); asked for every epoch in order, also when a training is resumed."""
    epochs: int
    steps: int | None = None
    """Steps in all, where the epochs differ in length; None: as many as the epochs have."""


def check_finite(losses: dict[str, Tensor], where: str) -> None:
    """Raise Diverged with the losses that are not finite, if the total is not. It waits for the device, since a run
    that goes on with NaN costs more."""
    if not torch.isfinite(losses["total"]):
        bad = [name for name, loss in losses.items() if not torch.isfinite(loss)]
        raise Diverged(
            f"the loss {' and '.join(bad)} is not finite in {where}; a smaller learning rate or weight may help"
        )


def fit(
    context: Context, model: nn.Module, batches: Batches, section: Training, groups: Groups, seed: int
) -> list[dict[str, float]]:
    """Train `model`, from its last checkpoint where there is one.

    The effective batch is the plan's: of each list of recipes a worker takes every world_size-th, and the gradient is
    that of the mean over all.

    Args:
        context: where it runs.
        model: a module whose `forward(crop, progress)` returns the losses by name, `total` among them; progress is
            the part of the training that is done, in [0, 1).
        batches: the data.
        section: optimiser, clipping, decay, precision, images that a worker holds at once.
        groups: what learns, and at which rates.
        seed: start of everything that is random in a step.

    Returns:
        Mean losses of each epoch, with `epoch` from 1 and `images_per_second`.

    Raises:
        Diverged: a loss is not finite; says which, and where.
    """
    keep_freed_memory()
    how = numerics(section.precision, context.device, model)
    model = how.place(model)
    optimiser = build_optimiser(groups, section)
    rates = [group["lr"] for group in optimiser.param_groups]
    start, history, planned = 0, [], 0
    if (state := context.restore()) is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        start, history = state["epoch"], state["history"]
    several = context.world_size > 1
    # Losses with weight 0 leave heads out of the graph.
    wrapped = DistributedDataParallel(model, find_unused_parameters=True) if several else model

    for epoch in range(batches.epochs):
        plan, first = batches.plan(epoch), planned
        planned += len(plan)
        if epoch < start:
            continue
        model.train()
        torch.manual_seed(seed * 1_000_003 + epoch * 1_009 + context.rank)
        shares = [batch[context.rank :: context.world_size] for batch in plan]
        if not all(shares):
            raise UserError(f"a batch of {min(map(len, plan))} images is too small for {context.world_size} workers")
        size = section.micro_batch or max(map(len, shares))
        pieces = [split_evenly(share, size) for share in shares]
        loader: DataLoader[Crop] = DataLoader(
            batches.crops,
            batch_sampler=[piece for step in pieces for piece in step],
            num_workers=context.loader_workers,
            pin_memory=how.device.type == "cuda",
        )
        loaded = iter(loader)
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=how.device))
        begin, images = time.monotonic(), 0
        for number, batch in enumerate(plan):
            step, steps = first + number, batches.steps or batches.epochs * len(plan)
            decay(optimiser, rates, poly(step, steps, section.power))
            optimiser.zero_grad(set_to_none=True)
            for left in reversed(range(len(pieces[number]))):
                crop = Crop(*(tensor.to(how.device, non_blocking=True) for tensor in next(loaded)))
                # Workers meet once a step, at the last piece.
                with wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) and left else nullcontext():
                    with how.autocast():
                        losses = wrapped(crop, step / steps)
                    check_finite(losses, f"epoch {epoch + 1}, step {number + 1} of {len(plan)} (rate {rates[0]:g})")
                    share = len(crop.image) * context.world_size / len(batch)
                    (losses["total"] * share).backward()
                for name, loss in losses.items():
                    sums[name] += loss.detach() * share / context.world_size
            if section.clip is not None:
                nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], section.clip)
            optimiser.step()
            context.on_step()
            images += len(batch)
        if several:
            for name in sorted(sums):
                dist.all_reduce(sums[name])
        metrics = {name: float(value) / len(plan) for name, value in sums.items()}
        metrics |= {"epoch": epoch + 1, "images_per_second": images / (time.monotonic() - begin)}
        history.append(metrics)
        state = {"epoch": epoch + 1, "history": history}
        context.report(metrics, state | {"model": model.state_dict(), "optimiser": optimiser.state_dict()})
    return history
