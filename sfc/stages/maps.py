"""Stage `maps`: the method's maps of every image of a split for its labels, unfused, float16, as the network has them.

Source: maps at inference of SFC, section "Implementation Details"; the file format is `sfc.runtime.map_files`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sfc.config import Cam, MapsOptions
from sfc.errors import UserError
from sfc.method.protocol import Method
from sfc.runtime.engine import Engine
from sfc.runtime.foreign_maps import read_foreign
from sfc.runtime.inference import image_batches, load_method
from sfc.runtime.map_files import kept_channels, save_maps
from sfc.stages.spec import METHOD, Spec, Work

SHARD = 20
"""Images that a process takes at a time: so few that small sets are spread too."""


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width times `scale`, rounded half to even, at least 1."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def infer(method: Method, image_N3HW: Tensor, section: Cam) -> list[dict[str, Tensor]]:
    """For each scale the maps (N, K, h, w) float32 by name of normalised images of one size, no mask and no label
    applied; the method is in eval mode."""
    maps = []
    for scale in section.scales:
        view = image_N3HW
        if scale != 1:
            size = scaled_size((view.shape[-2], view.shape[-1]), scale)
            view = torch.nn.functional.interpolate(view, size, mode="bicubic", align_corners=False)
        maps.append(method.maps(view, section))
    return maps


def check_maps(maps: Mapping[str, Tensor], channels: int, method: str) -> None:
    """Raise UserError where a method's maps of one scale are not as `Method.maps` says."""
    if not maps:
        raise UserError(f"classifier.method: {method} gives no map")
    for name, values in maps.items():
        if values.ndim != 4 or values.shape[1] != channels:
            text = f"has the shape {tuple(values.shape)}, expected (N, {channels}, h, w) with the background first"
            raise UserError(f"classifier.method: the map {name} of {method} {text}")
        if not torch.isfinite(values.half()).all():
            raise UserError(f"classifier.method: the map {name} of {method} has values that float16 can't hold")


@torch.inference_mode()
def _infer_shard(indices: Sequence[int], work: Work) -> None:
    """Write the maps of some images."""
    settings, split = work.settings, work.split
    method, how = load_method(
        work.inputs["classifier"], settings.classifier, settings.backbone, work.training_set(), settings.cam.precision
    )
    missing = [i for i, *_ in work.missing(indices)]
    for group, image in image_batches(missing, work.data, split, settings.backbone, how.device):
        with how.autocast():
            scales = infer(method, image, settings.cam)
        for maps in scales:
            check_maps(maps, len(work.data.classes) + 1, settings.classifier.method)
        size = (image.shape[-2], image.shape[-1])
        for n, i in enumerate(group):
            keys = kept_channels(split.labels[i])
            kept = [{name: maps[n, keys] for name, maps in scale.items()} for scale in scales]
            save_maps(work.folder / f"{split.ids[i]}.npz", keys, size, kept)


def _read_shard(indices: Sequence[int], work: Work) -> None:
    """Convert another program's maps of some images to this one's files."""
    options = work.settings.classifier.options
    assert isinstance(options, MapsOptions)
    for i, name, path in work.missing(indices):
        keys = kept_channels(work.split.labels[i])
        width, height = work.data.image(name).size
        maps = read_foreign(Path(options.folder), name, work.data.classes, keys)
        save_maps(path, keys, (height, width), [maps])


def run(work: Work, engine: Engine) -> None:
    """Write `ID.npz` for every image of the split."""
    foreign = work.settings.classifier.method == "maps"
    work.over_images(engine, _read_shard if foreign else _infer_shard, gpu=not foreign, size=SHARD)


SPEC = Spec(
    version=3,
    run=run,
    reads=lambda config: ("cam", *METHOD),
    inputs=lambda config: ("classifier",),
)
