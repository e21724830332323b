"""Stage `evaluation`: predictions of the segmentation model on the reporting split, and how good they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfc.cam import resize
from sfc.config import Backbone, Evaluation, Segmentation
from sfc.data import Dataset, Split
from sfc.data.crops import normalise
from sfc.data.images import read_mask, write_mask
from sfc.engine import Engine, Numerics, default_device, numerics, shards
from sfc.fit import WEIGHTS
from sfc.metrics import class_iou, confusion, summarise
from sfc.models.deeplab import build_deeplab
from sfc.store import write_atomic

VERSION = 1


@lru_cache(maxsize=1)
def _load(weights: Path, backbone: Backbone, rates: tuple[int, ...], channels: int, how: Numerics) -> nn.Module:
    net = build_deeplab(backbone.model_copy(update={"weights": None}), channels, rates)
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return how.place(net).eval()


def predict(net: nn.Module, image_13HW: Tensor, section: Evaluation) -> Tensor:
    """Mean class probabilities over scales and the mirror image.

    Args:
        net: in eval mode.
        image_13HW: one normalised image.
        section: scales and mirror.

    Returns:
        (K, H, W) float32.
    """
    size = tuple(image_13HW.shape[-2:])
    total: Tensor | None = None
    views = 0
    for scale in section.scales:
        view = resize(image_13HW, tuple(max(1, round(side * scale)) for side in size), align_corners=False)
        for mirrored in (False, True) if section.mirror else (False,):
            logits = net(view.flip(-1) if mirrored else view)["out"].float()
            logits = resize(logits.flip(-1) if mirrored else logits, size, align_corners=False)
            probability = F.softmax(logits, dim=1)[0]
            total = probability if total is None else total + probability
            views += 1
    return total / views


@torch.inference_mode()
def _shard(
    indices: Sequence[int],
    folder: Path,
    weights: Path,
    section: Evaluation,
    rates: tuple[int, ...],
    backbone: Backbone,
    data: Dataset,
    split: Split,
) -> np.ndarray:
    """Predict some images, those that are there already apart; their confusion matrix."""
    how = numerics(section.precision, default_device())
    channels = len(data.classes) + 1
    net = _load(weights, backbone, rates, channels, how)
    matrix = np.zeros((channels, channels + 1), np.int64)
    for i in indices:
        path = folder / f"{split.ids[i]}.png"
        if not path.is_file():
            pixels = torch.from_numpy(np.asarray(data.image(split.ids[i])).copy()).permute(2, 0, 1)[None]
            image = normalise(pixels.to(how.device), None, backbone.mean, backbone.std)
            with how.autocast():
                probability = predict(net, image, section)
            write_mask(path, probability.argmax(0).to(torch.uint8).cpu().numpy())
        if split.has_masks:
            matrix += confusion(data.mask(split.ids[i]), read_mask(path), channels)
    return matrix


def run(
    folder: Path,
    engine: Engine,
    *,
    section: Evaluation,
    segmentation: Segmentation,
    backbone: Backbone,
    model: Path,
    data: Dataset,
    split: Split,
    counts: np.ndarray,
) -> None:
    """Write `predictions/ID.png` and, where the split has masks, `metrics.json` and `confusion.npy` (K, K + 1)."""
    predictions = folder / "predictions"
    predictions.mkdir(exist_ok=True)
    work = partial(
        _shard,
        folder=predictions,
        weights=model / WEIGHTS,
        section=section,
        rates=segmentation.rates,
        backbone=backbone,
        data=data,
        split=split,
    )
    matrix = np.sum(list(engine.map(work, shards(len(split)), gpu=True)), 0)
    if split.has_masks:
        metrics = summarise(matrix, counts) | {"iou": [round(float(v), 6) for v in class_iou(matrix)]}
        np.save(folder / "confusion.npy", matrix)
        write_atomic(folder / "metrics.json", json.dumps(metrics, indent=1))
