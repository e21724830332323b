"""Stage `seeds`: how good the seeds of a split are, at the best background threshold and at the configured rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sfc.config import RULE
from sfc.refine.seeds import hard_labels, strongest
from sfc.runtime.engine import Engine
from sfc.scoring.metrics import THRESHOLDS, class_iou, seed_histogram, sweep
from sfc.scoring.tally import Tally, merge, numbers
from sfc.stages.spec import Spec, Work


def _shard(indices: Sequence[int], work: Work) -> tuple[np.ndarray, Tally]:
    section, channels = work.settings.pseudo, len(work.data.classes) + 1
    histogram = np.zeros((len(THRESHOLDS) + 1, channels, channels), np.int64)
    fixed = Tally(channels)
    for i in indices:
        name = work.split.ids[i]
        truth = work.data.mask(name)
        keys, maps = work.image_maps(name)
        fixed.add(name, truth, keys[hard_labels(maps, section)])
        histogram += seed_histogram(truth, *strongest(keys, maps, section.fusion), channels)
    return histogram, fixed


def run(work: Work, engine: Engine) -> None:
    """Write the scores at the configured rule (`Tally.write`), and the best threshold's beside them.

    The metrics: `miou` and its parts at the configured rule, `iou` by class; under `best` the same at the best
    threshold of the sweep, tuned on these very masks, with `threshold` where it lies.
    """
    results = work.over_images(engine, _shard)
    matrices = sweep(np.sum([histogram for histogram, _ in results], 0))
    best = int(np.argmax([np.nanmean(iou) if np.isfinite(iou).any() else 0 for iou in class_iou(matrices)]))
    at_best = numbers(matrices[best], work.counts) | {"threshold": float(THRESHOLDS[best])}
    merge(tally for _, tally in results).write(work.folder, work.counts, best=at_best)


SPEC = Spec(
    version=3, run=run, reads=lambda config: RULE, inputs=lambda config: ("maps",), needs_masks=lambda config: True
)
