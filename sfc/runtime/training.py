"""The one training loop: SGD with a polynomial decay, over crops by recipe, on any number of workers."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from sfc.config import Optimiser
from sfc.data.crops import Crop, Crops
from sfc.errors import Diverged
from sfc.method.image_bank import Recipe
from sfc.runtime.engine import CHECKPOINT, Context, Numerics

WEIGHTS = "model.pt"
HISTORY = "history.json"


def save(net: nn.Module, history: list[dict[str, float]], folder: Path) -> None:
    """A trained network and its history into a stage's folder; the weights last, since their presence says done."""
    (folder / HISTORY).write_text(json.dumps(history, indent=1), encoding="utf-8")
    partial = folder / f"{WEIGHTS}.partial"
    with partial.open("wb") as file:
        torch.save(net.state_dict(), file)
    partial.replace(folder / WEIGHTS)
    (folder / CHECKPOINT).unlink(missing_ok=True)


def poly(step: int, steps: int, power: float) -> float:
    """Factor of the learning rate at a step from 0: (1 - t/T)^power."""
    return (1 - step / steps) ** power


def build_optimiser(
    groups: list[dict[str, Any]], kind: Optimiser, *, momentum: float, weight_decay: float
) -> torch.optim.SGD:
    """SGD over parameter groups, each with its `lr`; `sgd_as_published` puts the weight decay in the momentum's place,
    too."""
    if kind == "sgd_as_published":
        momentum = weight_decay
    return torch.optim.SGD(groups, momentum=momentum, weight_decay=weight_decay)


def decay(optimiser: torch.optim.Optimizer, rates: list[float], step: int, steps: int, power: float) -> None:
    """Set each group's learning rate for a step from 0, given the rates of the start."""
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate * poly(step, steps, power)


def split_evenly(recipes: list[Recipe], size: int) -> list[list[Recipe]]:
    """Pieces of at most `size`, whose lengths differ by at most one: of P pieces the first takes every P-th recipe, as
    the first of P workers does. So one worker in P pieces adds up what P workers would, to the last bit."""
    count = max(1, math.ceil(len(recipes) / size))
    return [recipes[i::count] for i in range(count)]


def fit(
    context: Context,
    model: nn.Module,
    groups: list[dict[str, Any]],
    crops: Crops,
    plan: Callable[[int], list[list[Recipe]]],
    numerics: Numerics,
    *,
    epochs: int,
    steps: int | None = None,
    momentum: float,
    weight_decay: float,
    clip: float | None,
    power: float,
    seed: int,
    optimiser: Optimiser = "sgd",
    micro_batch: int | None = None,
) -> list[dict[str, float]]:
    """Train `model`, from its last checkpoint where there is one.

    The effective batch is the plan's: of each list of recipes a worker takes every world_size-th, and the gradient is
    that of the mean over all.

    Args:
        context: where it runs.
        model: a module whose `forward(crop, progress)` returns the losses by name, `total` among them; progress is
            the part of the training that is done, in [0, 1).
        groups: parameter groups, each with its `lr`.
        crops: gives a Crop for a recipe.
        plan: all batches of an epoch (from 0); asked for every epoch in order, also when resuming.
        numerics: device and precision.
        epochs: in all.
        steps: in all, where the plan's epochs differ in length; None: as many as the epochs at hand.
        momentum, weight_decay, clip, power: of the optimiser; `clip` bounds the gradient's norm, None: nothing does.
        seed: of everything that is random in a step.
        optimiser: which.
        micro_batch: images that a worker holds at once; the gradients of a step's pieces are added up. None: all.

    Returns:
        Mean losses of each epoch, with `epoch` from 1 and `images_per_second`.

    Raises:
        Diverged: a loss is not finite; says which, and where.
    """
    model = numerics.place(model)
    sgd = build_optimiser(groups, optimiser, momentum=momentum, weight_decay=weight_decay)
    rates = [group["lr"] for group in sgd.param_groups]
    start, history, planned = 0, [], 0
    if (state := context.restore()) is not None:
        model.load_state_dict(state["model"])
        sgd.load_state_dict(state["optimiser"])
        start, history = state["epoch"], state["history"]
    several = context.world_size > 1
    # Losses with weight 0 leave heads out of the graph.
    trained = DistributedDataParallel(model, find_unused_parameters=True) if several else model

    for epoch in range(epochs):
        batches, first = plan(epoch), planned
        planned += len(batches)
        if epoch < start:
            continue
        model.train()
        torch.manual_seed(seed * 1_000_003 + epoch * 1_009 + context.rank)
        mine = [batch[context.rank :: context.world_size] for batch in batches]
        size = micro_batch or max(map(len, mine))
        pieces = [split_evenly(share, size) for share in mine]
        loader = DataLoader(
            crops,
            batch_sampler=[piece for step in pieces for piece in step],
            num_workers=context.loader_workers,
            pin_memory=numerics.device.type == "cuda",
        )
        loaded = iter(loader)
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=numerics.device))
        begin, images = time.monotonic(), 0
        for number, batch in enumerate(batches):
            step, whole = first + number, steps or epochs * len(batches)
            decay(sgd, rates, step, whole, power)
            sgd.zero_grad(set_to_none=True)
            for left in reversed(range(len(pieces[number]))):
                crop = Crop(*(tensor.to(numerics.device, non_blocking=True) for tensor in next(loaded)))
                # Workers meet once a step, at the last piece.
                with trained.no_sync() if several and left else nullcontext():
                    with numerics.autocast():
                        losses = trained(crop, step / whole)
                    share = len(crop.image) * context.world_size / len(batch)
                    total = losses["total"] * share
                    if not torch.isfinite(total):  # waits for the device; a run that goes on with NaN costs more
                        bad = [name for name, loss in losses.items() if not torch.isfinite(loss)]
                        raise Diverged(
                            f"the loss {' and '.join(bad)} is not finite in epoch {epoch + 1}, step {number + 1} of "
                            f"{len(batches)} (learning rate {rates[0]:g}); a smaller learning rate or weight may help"
                        )
                    total.backward()
                for name, loss in losses.items():
                    sums[name] += loss.detach() * share / context.world_size
            if clip is not None:
                nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], clip)
            sgd.step()
            context.on_step()
            images += len(batch)
        if several:
            for name in sorted(sums):
                dist.all_reduce(sums[name])
        metrics = {name: float(value) / len(batches) for name, value in sums.items()}
        metrics |= {"epoch": epoch + 1, "images_per_second": images / (time.monotonic() - begin)}
        history.append(metrics)
        state = {"epoch": epoch + 1, "history": history}
        context.report(metrics, state | {"model": model.state_dict(), "optimiser": sgd.state_dict()})
    return history
