"""Maps on disk at VOC's size against full resolution in float32: bytes, and the seeds' mIoU: python benchmarks/maps.py

Maps of ResNet-50's output stride 16 at the four published scales, made from label maps: blurred, of uneven strength,
with noise, so that many pixels lie close to the threshold. Both ways sum the scales at image size, as the method does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import blobs, machine, verdict
from torch import Tensor

from sfc.config import Cam, Pseudo
from sfc.method.cam import over_maximum, resize
from sfc.refine.seeds import hard_labels
from sfc.runtime.map_files import load_maps, save_maps, sum_scales
from sfc.scoring.tally import Tally, numbers

CHANNELS, STRIDE = 21, 16


def example(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[dict[str, Tensor]]]:
    """Mask (H, W), kept channels (K',) and, for each scale, classifier map and prototype map (K', h, w) float32."""
    mask = blobs(rng, 375, 500, CHANNELS, labels=int(rng.integers(1, 4)))
    keys = np.unique(np.append(mask[mask != 255], 0)).astype(np.int64)
    truth = torch.from_numpy((mask == keys[:, None, None]).astype(np.float32))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    maps = []
    for scale in Cam().scales:
        size = tuple(-(-round(side * scale) // STRIDE) for side in mask.shape)
        pair = []
        for _ in range(2):
            small = F.adaptive_avg_pool2d(truth, size)
            noise = resize(torch.rand(1, len(keys), 5, 7, generator=generator), size, align_corners=True)[0]
            map_ = over_maximum(small * (0.4 + 0.6 * noise) + 0.25 * noise)
            map_[0] = 1 - map_[1:].amax(0) if len(keys) > 1 else 1.0
            pair.append(map_)
        maps.append({"classifier": pair[0], "prototype": pair[1]})
    return mask, keys, maps


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    rng, section = np.random.default_rng(0), Pseudo()
    small_bytes = full_bytes = 0
    kept, exact, seconds = Tally(CHANNELS), Tally(CHANNELS), 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "maps.npz"
        for i in range(number):
            mask, keys, maps = example(rng)
            save_maps(path, keys, mask.shape, maps)
            small_bytes += path.stat().st_size
            full_bytes += 2 * len(keys) * mask.size * 4
            begin = time.perf_counter()
            read = load_maps(path).maps
            seconds += time.perf_counter() - begin
            whole = {kind: sum_scales([scale[kind] for scale in maps], mask.shape) for kind in read}
            for tally, named in ((kept, read), (exact, whole)):
                tally.add(str(i), mask, keys[hard_labels(named, section)].astype(np.uint8))
    one, other = (100 * numbers(tally.matrix, np.arange(1, CHANNELS))["miou"] for tally in (kept, exact))
    print(f"{number} images of 375 x 500, both maps at the scales {list(Cam().scales)}; {machine()}")
    ours, full = small_bytes / number / 1000, full_bytes / number / 1000
    print(f"an image: {ours:.1f} kB, {full:.1f} kB in float32 at full size")
    print(f"reading both maps at image size: {seconds / number * 1000:.1f} ms")
    print(verdict("full size over ours", full / ours, 20, at_most=False))
    print(f"seed mIoU {one:.4f} from files, {other:.4f} exact")
    print(verdict("difference in points", abs(one - other), 0.05))


if __name__ == "__main__":
    main()
