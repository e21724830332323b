"""Stage `evaluation`: predictions of the segmentation model on the reporting split, and how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfc.config import SCALE_PRESETS, Backbone, Evaluation, Segmentation
from sfc.data import Dataset, Split
from sfc.data.crops import normalise
from sfc.data.images import read_mask, write_mask
from sfc.method.cam import resize
from sfc.networks.deeplab import build_deeplab
from sfc.refine.crf import CLIP, PRESETS, crf_probabilities
from sfc.runtime.engine import Engine, Numerics, available_cpus, default_device, numerics, shards
from sfc.runtime.training import WEIGHTS
from sfc.scoring.tally import Tally, merge

VERSION = 2
CHUNK = 400
"""Images whose probabilities wait on disk for the CRF at a time: about 2 GB at VOC's sizes."""


@dataclass(frozen=True)
class Model:
    """A trained segmentation model and how it is used."""

    weights: Path
    segmentation: Segmentation
    backbone: Backbone
    evaluation: Evaluation
    channels: int


@lru_cache(maxsize=1)
def _load(model: Model, how: Numerics) -> nn.Module:
    net = build_deeplab(model.segmentation, model.backbone.model_copy(update={"weights": None}), model.channels)
    net.load_state_dict(torch.load(model.weights, map_location="cpu", weights_only=True))
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
def _predict(indices: Sequence[int], folder: Path, model: Model, data: Dataset, split: Split) -> None:
    """`folder/ID.png` of some images, those that are there already apart; before a CRF `folder/ID.npz` instead, the
    averaged probabilities of the classes that a CRF can tell from none, as float16."""
    how = numerics(model.evaluation.precision, default_device())
    net = _load(model, how)
    for i in indices:
        path = folder / f"{split.ids[i]}.png"
        if path.is_file():
            continue
        pixels = torch.from_numpy(np.asarray(data.image(split.ids[i])).copy()).permute(2, 0, 1)[None]
        image = normalise(pixels.to(how.device), None, model.backbone.mean, model.backbone.std)
        with how.autocast():
            probability = predict(net, image, model.evaluation)
        if model.evaluation.crf == "none":
            write_mask(path, probability.argmax(0).to(torch.uint8).cpu().numpy())
            continue
        keys = (probability.amax(dim=(1, 2)) > CLIP).nonzero()[:, 0]
        with path.with_suffix(".npz").open("wb") as file:
            np.savez(file, keys=keys.cpu().numpy(), probability=probability[keys].half().cpu().numpy())


def _refine(indices: Sequence[int], folder: Path, crf: str, data: Dataset, split: Split) -> None:
    """`folder/ID.png` by a dense CRF in place of the probabilities in `folder/ID.npz`."""
    for i in indices:
        path = folder / f"{split.ids[i]}.png"
        if path.is_file():
            continue
        waiting = path.with_suffix(".npz")
        with np.load(waiting) as file:
            keys, probability = file["keys"], file["probability"]
        label = crf_probabilities(np.asarray(data.image(split.ids[i])), probability, PRESETS[crf])
        write_mask(path, keys[label].astype(np.uint8))
        waiting.unlink()


def count(folder: Path, data: Dataset, split: Split) -> Tally:
    """`folder/ID.png` of a split against its masks. In threads, since starting processes takes longer than counting
    VOC's 1,449 maps does (`benchmarks/evaluation.py`)."""
    with ThreadPoolExecutor(available_cpus()) as pool:
        return merge(pool.map(partial(_count, folder=folder, data=data, split=split), shards(len(split))))


def _count(indices: Sequence[int], folder: Path, data: Dataset, split: Split) -> Tally:
    tally = Tally(len(data.classes) + 1)
    for i in indices:
        tally.add(split.ids[i], data.mask(split.ids[i]), read_mask(folder / f"{split.ids[i]}.png"))
    return tally


def test_time(section: Evaluation) -> dict[str, Any]:
    """What a number must say about its test time: scales and their preset, mirror, the CRF's preset and values."""
    preset = next((name for name, scales in SCALE_PRESETS.items() if scales == section.scales), "custom")
    crf = {"name": section.crf} | (PRESETS[section.crf]._asdict() if section.crf != "none" else {})
    return {"scales": {"name": preset, "factors": list(section.scales)}, "mirror": section.mirror, "crf": crf}


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
    """Write `predictions/ID.png` and, where the split has masks, its scores (`sfc.scoring.tally.Tally.write`) with
    `test_time` and `initialisation`, the backbone and the weights that the training started from.

    Networks and CRFs take turns, so that a GPU never waits for a CRF and a CRF has every core.
    """
    predictions = folder / "predictions"
    predictions.mkdir(exist_ok=True)
    used = Model(model / WEIGHTS, segmentation, backbone, section, len(data.classes) + 1)
    common = {"folder": predictions, "data": data, "split": split}
    for chunk in shards(len(split), len(split) if section.crf == "none" else CHUNK):
        pieces = [chunk[piece.start : piece.stop] for piece in shards(len(chunk))]
        for _ in engine.map(partial(_predict, model=used, **common), pieces, gpu=True):
            pass
        if section.crf != "none":
            for _ in engine.map(partial(_refine, crf=section.crf, **common), pieces):
                pass
    if split.has_masks:
        tally = count(predictions, data, split)
        weights = Path(backbone.weights).name if backbone.weights else "no weights"
        start = f"{backbone.name}, {'the classifier' if segmentation.start == 'classifier' else weights}"
        tally.write(folder, counts, test_time=test_time(section), initialisation=start)
