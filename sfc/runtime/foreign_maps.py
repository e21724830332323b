"""Maps that another program made, for `classifier.method: maps`.

The folder in `classifier.options.folder` has one of these for each image ID:

    ID.npz          `keys`, (K',) whole numbers: classes from 1 in the order of classes.txt, and 0 where the background
                    has a map; and one or several arrays (K', h, w), the maps by name
    ID.npy          (C, h, w) for all foreground classes in order, or (C + 1, h, w) with the background first
    ID/CLASS.png    grey PNG, 8 or 16 bits, a file for each of the image's labels, named as in classes.txt

Values are >= 0 and of any scale: each class is divided by its own maximum. A map of any size is resized to the image.
Without a map of its own, the background is 1 - the strongest class at each pixel. Nothing is unpickled: a file with
Python objects, such as a dictionary saved by numpy, is refused.
"""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from sfc.data.images import open_image
from sfc.errors import UserError
from sfc.method.cam import over_maximum

SETTING = "classifier.options.folder"


def read_foreign(folder: Path, name: str, classes: tuple[str, ...], keys: np.ndarray) -> dict[str, Tensor]:
    """The maps (K', h, w) float32 by name of one image, for its kept channels `keys` (K',), the background first.

    Raises:
        UserError: no file, or one that is not as described above.
    """
    try:
        arrays = _read(folder, name, classes, keys)
        return {kind: _with_background(channels, keys) for kind, channels in arrays.items()}
    except FileNotFoundError as error:
        raise UserError(f"{SETTING}: no maps of {name}: there is no {error}.npz, .npy or folder of PNG files") from None
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise UserError(f"{SETTING}: the maps of {name} in {folder} can't be read: {error}") from None


def _read(folder: Path, name: str, classes: tuple[str, ...], keys: np.ndarray) -> dict[str, dict[int, np.ndarray]]:
    """Maps (h, w) by name and channel."""
    if (file := folder / f"{name}.npz").is_file():
        with np.load(file) as content:
            own = [int(key) for key in content["keys"]]
            kinds = [kind for kind in content.files if kind != "keys"]
            return {kind: dict(zip(own, content[kind], strict=True)) for kind in kinds}
    if (file := folder / f"{name}.npy").is_file():
        maps = np.load(file)
        if maps.ndim != 3 or len(maps) not in (len(classes), len(classes) + 1):
            raise ValueError(f"an array of shape {maps.shape}, expected {len(classes)} or {len(classes) + 1} maps")
        return {"maps": dict(enumerate(maps, len(classes) + 1 - len(maps)))}
    if (folder / name).is_dir():
        files = {int(key): folder / name / f"{classes[key - 1]}.png" for key in keys[1:]}
        # A class without a map is reported below.
        return {"maps": {key: np.asarray(open_image(file, ("PNG",))) for key, file in files.items() if file.is_file()}}
    raise FileNotFoundError(folder / name)


def _with_background(channels: dict[int, np.ndarray], keys: np.ndarray) -> Tensor:
    """The kept channels (K', h, w), each over its maximum."""
    missing = [int(key) for key in keys[1:] if int(key) not in channels]
    if missing:
        raise ValueError(f"no map of the classes {missing}, which are among the image's labels")
    maps = [torch.from_numpy(np.asarray(channels[int(key)], np.float32)) for key in keys[1:]]
    if not maps:  # an image without a label is background
        shape = next(iter(channels.values())).shape if channels else (1, 1)
        return torch.ones((1, *shape))
    foreground = over_maximum(torch.stack(maps).clamp(min=0))
    if 0 in channels:
        background = over_maximum(torch.from_numpy(np.asarray(channels[0], np.float32))[None].clamp(min=0))
    else:
        background = 1 - foreground.amax(dim=0, keepdim=True)
    return torch.cat([background, foreground])
