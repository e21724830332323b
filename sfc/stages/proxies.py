"""Stage `proxy`: how good a classifier and its maps look without a mask. Numbers in [0, 1], more is better; whether
they rank settings as seed mIoU does has to be measured where there are masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sfc.config import Backbone, Cam, Pseudo
from sfc.data import Dataset, Split
from sfc.method.network import score
from sfc.refine.crf import crf_labels
from sfc.refine.seeds import as_classes, hard_labels
from sfc.runtime.engine import Engine, default_device, numerics, shards
from sfc.runtime.inference import image_batches, load_classifier
from sfc.runtime.map_files import load_maps
from sfc.runtime.store import write_atomic
from sfc.runtime.training import WEIGHTS
from sfc.scoring.metrics import class_iou, confusion
from sfc.scoring.tally import METRICS

VERSION = 1
CRF_IMAGES = 100
"""Images, from the split's first, that the CRF sees: it takes 0.35 s for one of VOC's."""
SHARD = 10
"""Images that a process takes at a time, so that those with a CRF are spread over ten."""


@torch.inference_mode()
def _scores(
    indices: Sequence[int], weights: Path, cam: Cam, backbone: Backbone, data: Dataset, split: Split
) -> np.ndarray:
    """(N, C) float32 image-level logits of some images, as they are, without further views."""
    how = numerics(cam.precision, default_device())
    net = load_classifier(weights, backbone, len(data.classes), how)
    found = np.empty((len(indices), len(data.classes)), np.float32)
    for group, image in image_batches(indices, data, split, backbone, how.device):
        with how.autocast():
            found[np.array(group) - indices[0]] = score(net(image, hierarchical=False)).cpu().numpy()
    return found


def _agreement(indices: Sequence[int], section: Pseudo, maps: Path, data: Dataset, split: Split) -> np.ndarray:
    """(2, K, K + 1) pixel counts of some images: seeds of the two maps, and seeds before and after the CRF."""
    channels = len(data.classes) + 1
    alone = section.model_copy(update={"fusion": 0.0})
    matrices = np.zeros((2, channels, channels + 1), np.int64)
    for i in indices:
        keys, cam, prototype = load_maps(maps / f"{split.ids[i]}.npz")
        pairs = [(hard_labels(cam, prototype, alone), hard_labels(prototype, cam, alone))]
        if i < CRF_IMAGES:
            seeds = hard_labels(cam, prototype, section)
            image = np.asarray(data.image(split.ids[i]))
            pairs.append((seeds, crf_labels(image, seeds, len(keys), section.crf)))
        for matrix, (one, other) in zip(matrices, pairs, strict=False):  # most images have no CRF
            matrix += confusion(as_classes(one, keys), as_classes(other, keys), channels)
    return matrices


def mean_average_precision(labels_NC: np.ndarray, scores_NC: np.ndarray) -> float:
    """Mean over the classes that occur of the average precision, the area under the steps of precision over recall.

    Args:
        labels_NC: in {0, 1}.
        scores_NC: more means more likely; only their order within a class matters.

    Returns:
        In [0, 1]; 0 where no class occurs.
    """
    from sklearn.metrics import average_precision_score  # its import takes seconds, which other stages need not wait

    columns = zip(labels_NC.T, scores_NC.T, strict=True)
    found = [average_precision_score(label, score_N) for label, score_N in columns if label.any()]
    return float(np.mean(found)) if found else 0.0


def run(
    folder: Path,
    engine: Engine,
    *,
    section: Pseudo,
    cam: Cam,
    backbone: Backbone,
    classifier: Path,
    maps: Path,
    data: Dataset,
    split: Split,
) -> None:
    """Write metrics.json; no mask is opened.

    `map_agreement`: mIoU between the seeds of the classifier's map alone and those of the prototype map alone, each
    under the background rule, over the classes in either. `crf_agreement`: the same between the seeds of the fused
    map before and after the dense CRF, on the first `crf_images` images. `classification_map`: mean average precision
    of the image scores on the split's image labels, held out unless the split is the one that trains.

    Args:
        folder: output.
        engine: spreads the images over processes.
        section: fusion, background rule and CRF.
        cam: the precision.
        backbone: as in training.
        classifier: folder of the trained network.
        maps: folder of the split's maps.
        data, split: what the maps are of.
    """
    common = {"data": data, "split": split}
    scoring = partial(_scores, weights=classifier / WEIGHTS, cam=cam, backbone=backbone, **common)
    scores = np.concatenate(list(engine.map(scoring, shards(len(split)), gpu=True)))
    agreeing = partial(_agreement, section=section, maps=maps, **common)
    # Both label maps cover every pixel, so at least one class occurs in each matrix.
    between_maps, with_crf = np.nanmean(class_iou(sum(engine.map(agreeing, shards(len(split), SHARD)))), axis=-1)
    metrics = {
        "map_agreement": float(between_maps),
        "crf_agreement": float(with_crf),
        "classification_map": mean_average_precision(split.labels, scores),
        "crf_images": min(CRF_IMAGES, len(split)),
    }
    write_atomic(folder / METRICS, json.dumps(metrics, indent=1))
