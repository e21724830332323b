"""Trained methods, and images of one size together, for stages that go over images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, wraps
from pathlib import Path
from threading import Lock
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from sfc.config import Backbone, Classifier, Precision
from sfc.data import Dataset, Split
from sfc.data.crops import normalise
from sfc.method.build import build_method
from sfc.method.protocol import Method, TrainingSet
from sfc.runtime.engine import Numerics
from sfc.runtime.training import trained

Item = TypeVar("Item")
Made = TypeVar("Made")
Arguments = ParamSpec("Arguments")
BATCH_PIXELS = 512 * 512
"""Images of one size go through the network together up to this many pixels; it changes the speed alone."""


def once_for_all_threads(make: Callable[Arguments, Made]) -> Callable[Arguments, Made]:
    """A function that keeps its last result; threads that want the same one wait for it instead of making their own."""
    kept: Callable[..., Made] = lru_cache(maxsize=1)(make)
    lock = Lock()

    @wraps(make)
    def get(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Made:
        with lock:
            return kept(*args, **kwargs)

    return get


@once_for_all_threads
def load_method(
    folder: Path, section: Classifier, backbone: Backbone, training: TrainingSet, precision: Precision
) -> tuple[Method, Numerics]:
    """A trained method from its stage's folder, in eval mode, and how it computes; kept for the next shard."""
    return trained(build_method(section, backbone.model_copy(update={"weights": None}), training), folder, precision)


def by_shape(items: Iterable[tuple[Sequence[int], Item]], pixels: int) -> Iterator[list[Item]]:
    """Groups of items of one shape, each given out as soon as one more would take it above `pixels`.

    Args:
        items: (..., H, W) and what has this shape; read one by one, so that only unfinished groups are held.
        pixels: of a group, H x W for each item; a larger item is a group of its own.
    """
    waiting: dict[tuple[int, ...], list[Item]] = {}
    for size, item in items:
        shape = tuple(size)
        group = waiting.setdefault(shape, [])
        group.append(item)
        if (len(group) + 1) * shape[-2] * shape[-1] > pixels:
            yield waiting.pop(shape)
    yield from waiting.values()


def network_input(data: Dataset, name: str, backbone: Backbone, device: torch.device) -> Tensor:
    """One image (1, 3, H, W) float32 as the backbone wants it."""
    pixels = torch.from_numpy(np.asarray(data.image(name)).copy()).permute(2, 0, 1)[None]
    return normalise(pixels.to(device), None, backbone.mean, backbone.std)


def image_batches(
    indices: Iterable[int], data: Dataset, split: Split, backbone: Backbone, device: torch.device
) -> Iterator[tuple[list[int], Tensor]]:
    """Images of a split by their size.

    Returns:
        Indices, and these images (N, 3, H, W) float32 as the backbone wants them.
    """

    def images() -> Iterator[tuple[Sequence[int], tuple[int, np.ndarray]]]:
        for i in indices:
            image = np.asarray(data.image(split.ids[i]))
            yield image.shape[:2], (i, image)

    for group in by_shape(images(), BATCH_PIXELS):
        pixels = torch.from_numpy(np.stack([image for _, image in group])).permute(0, 3, 1, 2)
        yield [i for i, _ in group], normalise(pixels.to(device), None, backbone.mean, backbone.std)
