"""Stage `proxies`: how good a classifier and its maps look without a mask. Numbers in [0, 1], more is better; whether
they rank settings as seed mIoU does has to be measured where there are masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch

from sfc.config import RULE
from sfc.refine.crf import crf_labels
from sfc.refine.seeds import as_classes, hard_labels
from sfc.runtime.engine import Engine
from sfc.runtime.inference import image_batches, load_method
from sfc.runtime.store import write_atomic
from sfc.scoring.metrics import class_iou, confusion
from sfc.scoring.tally import METRICS
from sfc.stages.spec import METHOD, Spec, Work

CRF_IMAGES = 100
"""Images, from the split's first, that the CRF sees: it takes 0.35 s for one of VOC's."""
SHARD = 10
"""Images that a process takes at a time, so that those with a CRF are spread over ten."""


@torch.inference_mode()
def _scores(indices: Sequence[int], work: Work) -> np.ndarray:
    """(N, C) float32 image-level logits of some images, as they are, without further views."""
    settings = work.settings
    method, how = load_method(
        work.inputs["classifier"], settings.classifier, settings.backbone, work.training_set(), settings.cam.precision
    )
    scores = np.empty((len(indices), len(work.data.classes)), np.float32)
    for group, image in image_batches(indices, work.data, work.split, settings.backbone, how.device):
        with how.autocast():
            scores[np.array(group) - indices[0]] = method.scores(image).cpu().numpy()
    return scores


def _agreement(indices: Sequence[int], work: Work) -> np.ndarray:
    """(2, K, K + 1) pixel counts of some images: seeds of each pair of maps, and seeds before and after the CRF."""
    section, channels = work.settings.pseudo, len(work.data.classes) + 1
    matrices = np.zeros((2, channels, channels + 1), np.int64)
    for i in indices:
        name = work.split.ids[i]
        keys, maps = work.image_maps(name)
        alone = [hard_labels({kind: values}, section) for kind, values in maps.items()]
        for one, other in combinations(alone, 2):
            matrices[0] += confusion(as_classes(one, keys), as_classes(other, keys), channels)
        if i < CRF_IMAGES:
            seeds = hard_labels(maps, section)
            after = crf_labels(np.asarray(work.data.image(name)), seeds, len(keys), section.crf)
            matrices[1] += confusion(as_classes(seeds, keys), as_classes(after, keys), channels)
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
    precisions = [average_precision_score(label, score_N) for label, score_N in columns if label.any()]
    return float(np.mean(precisions)) if precisions else 0.0


def run(work: Work, engine: Engine) -> None:
    """Write metrics.json; no mask is opened.

    `map_agreement`: mIoU between the seeds of each of the method's maps alone under the background rule, over the
    classes in either, where it has several. `crf_agreement`: the same between the seeds of the fused map before and
    after the dense CRF, on the first `crf_images` images. `classification_map`: mean average precision of the image
    scores on the split's image labels, held out unless the split is the one that trains; of a method with a network.
    """
    matrices = np.sum(work.over_images(engine, _agreement, size=SHARD), 0)
    metrics: dict[str, float] = {}
    if matrices[0].any():
        metrics["map_agreement"] = float(np.nanmean(class_iou(matrices[0])))
    # Both label maps cover every pixel, so at least one class occurs in the matrix.
    metrics["crf_agreement"] = float(np.nanmean(class_iou(matrices[1])))
    if work.settings.classifier.method != "maps":
        scores = np.concatenate(work.over_images(engine, _scores, gpu=True))
        metrics["classification_map"] = mean_average_precision(work.split.labels, scores)
    metrics["crf_images"] = min(CRF_IMAGES, len(work.split))
    write_atomic(work.folder / METRICS, json.dumps(metrics, indent=1))


SPEC = Spec(
    version=3,
    run=run,
    reads=lambda config: (*RULE, "pseudo.crf", "cam.precision", *METHOD),
    inputs=lambda config: ("classifier", "maps"),
)
