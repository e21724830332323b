"""Stage `evaluation`: predictions of the segmentation model on the reporting split, and how good they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfc.config import SCALE_PRESETS, Config, Evaluation
from sfc.data import Dataset, Split
from sfc.data.images import read_mask, write_mask
from sfc.method.cam import resize
from sfc.networks.deeplab import backbone_section, build_deeplab
from sfc.refine.crf import CLIP, PRESETS, crf_probabilities
from sfc.runtime.engine import Engine, Numerics, shards
from sfc.runtime.inference import network_input, once_for_all_threads
from sfc.runtime.machine import available_cpus
from sfc.runtime.training import trained
from sfc.runtime.warn import check_labels
from sfc.scoring.tally import Tally, merge
from sfc.stages.spec import PREDICTIONS, Spec, Work

CHUNK = 400
"""Images whose probabilities wait on disk for the CRF at a time: about 2 GB at VOC's sizes."""


@once_for_all_threads
def _load(folder: Path, settings: Config, channels: int) -> tuple[nn.Module, Numerics]:
    backbone = backbone_section(settings).model_copy(update={"weights": None})
    net: nn.Module = build_deeplab(settings.segmentation, backbone, channels)
    return trained(net, folder, settings.evaluation.precision)


def predict(net: nn.Module, image_13HW: Tensor, section: Evaluation) -> Tensor:
    """Mean class probabilities (K, H, W) float32 over scales and the mirror image, of a network in eval mode."""
    size = image_13HW.shape[-2:]

    def probabilities() -> Iterator[Tensor]:
        for scale in section.scales:
            view = resize(image_13HW, [max(1, round(side * scale)) for side in size], align_corners=False)
            for mirrored in (False, True) if section.mirror else (False,):
                logits = net(view.flip(-1) if mirrored else view)["out"].float()
                logits = resize(logits.flip(-1) if mirrored else logits, size, align_corners=False)
                yield F.softmax(logits, dim=1)[0]

    return reduce(torch.add, probabilities()) / (len(section.scales) * (1 + section.mirror))


@torch.inference_mode()
def _predict(indices: Sequence[int], work: Work) -> None:
    """Write the predictions of some images; before a CRF `ID.npz` instead, with the averaged probabilities, float16, of
    the classes that a CRF can tell from none."""
    section, backbone = work.settings.evaluation, backbone_section(work.settings)
    net, how = _load(work.inputs["segmentation"], work.settings, len(work.data.classes) + 1)
    for _, name, path in work.missing(indices, PREDICTIONS, ".png"):
        image = network_input(work.data, name, backbone, how.device)
        with how.autocast():
            probability = predict(net, image, section)
        if section.crf == "none":
            write_mask(path, probability.max(0).indices.to(torch.uint8).cpu().numpy())
            continue
        keys = (probability.amax(dim=(1, 2)) > CLIP).nonzero()[:, 0]
        with path.with_suffix(".npz").open("wb") as file:
            np.savez(file, keys=keys.cpu().numpy(), probability=probability[keys].half().cpu().numpy())


def _refine(indices: Sequence[int], work: Work) -> None:
    """Write the predictions of some images by a dense CRF, in place of their probabilities."""
    for _, name, path in work.missing(indices, PREDICTIONS, ".png"):
        waiting = path.with_suffix(".npz")
        with np.load(waiting) as file:
            keys, probability = file["keys"], file["probability"]
        image = np.asarray(work.data.image(name))
        label = crf_probabilities(image, probability, PRESETS[work.settings.evaluation.crf])
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
    """The test time that is stored with a number: scales and their preset, mirror, the CRF's preset and values."""
    preset = next((name for name, scales in SCALE_PRESETS.items() if scales == section.scales), "custom")
    crf = {"name": section.crf} | (PRESETS[section.crf]._asdict() if section.crf != "none" else {})
    return {"scales": {"name": preset, "factors": list(section.scales)}, "mirror": section.mirror, "crf": crf}


def run(work: Work, engine: Engine) -> None:
    """Write `predictions/ID.png` and, where the split has masks, their scores (`Tally.write`) with `test_time` and
    `initialisation`, the backbone and the weights that the training started from.

    Networks and CRFs take turns, so that a GPU never waits for a CRF and a CRF has every core.
    """
    (work.folder / PREDICTIONS).mkdir(exist_ok=True)
    section, images = work.settings.evaluation, len(work.split)
    for chunk in shards(images, images if section.crf == "none" else CHUNK):
        pieces = [chunk[piece.start : piece.stop] for piece in shards(len(chunk))]
        list(engine.map(partial(_predict, work=work), pieces, gpu=True))
        if section.crf != "none":
            list(engine.map(partial(_refine, work=work), pieces))
    if work.split.has_masks:
        backbone, start = backbone_section(work.settings), work.settings.segmentation.start
        weights = Path(backbone.weights).name if backbone.weights else "no weights"
        initialisation = f"{backbone.name}, {'the classifier' if start == 'classifier' else weights}"
        tally = count(work.folder / PREDICTIONS, work.data, work.split)
        check_labels(work.folder, tally.matrix[:, :-1].sum(0), "segmentation model")
        tally.write(work.folder, work.counts, test_time=test_time(section), initialisation=initialisation)


def _reads(config: Config) -> tuple[str, ...]:
    network = [f"segmentation.{key}" for key in ("architecture", "rates", "backbone", "start")]
    return ("evaluation", *network) if config.segmentation.backbone else ("evaluation", *network, "backbone")


SPEC = Spec(version=3, run=run, reads=_reads, inputs=lambda config: ("segmentation",))
