"""Reading images and masks: any depth, size and colour model in, RGB uint8 and class indices out."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
VOID = 255
IMAGES, MASKS = "JPEGImages", "SegmentationClass"
"""Folders of images and masks in VOC layout."""
BAND = 256
"""Rows that are converted at a time."""

Image.MAX_IMAGE_PIXELS = 400_000_000  # stops decompression bombs, lets large photographs pass


def find_image(folder: Path, name: str) -> Path | None:
    """The file of an image without its suffix, or None."""
    return next((folder / f"{name}{s}" for s in SUFFIXES if (folder / f"{name}{s}").is_file()), None)


def open_image(path: Path, formats: tuple[str, ...] = ("JPEG", "PNG")) -> Image.Image:
    """An image whose pixels are not decoded yet, from a file in one of PIL's `formats`, whatever the file's suffix. PIL
    may try no others, as some start programs: EPS starts Ghostscript.

    Raises:
        OSError: the file is missing or in none of the formats.
    """
    try:
        return Image.open(path, formats=formats)
    except UnidentifiedImageError:
        raise OSError(f"{path}: not a {' or '.join(formats)} image") from None


def _decode(image: Image.Image, kind: str) -> None:
    try:
        image.load()
    except (SyntaxError, ValueError, EOFError) as error:  # from PIL for damaged PNG chunks
        raise OSError(f"broken {kind}: {error}") from error


def read_image(path: Path) -> Image.Image:
    """An RGB image. Grey is repeated, 16 bits are scaled to 8, CMYK is converted, transparency lies on black. Raises
    OSError if the file is missing or broken."""
    with warnings.catch_warnings(), open_image(path) as image:
        warnings.simplefilter("ignore")
        _decode(image, "image")
        if image.mode.startswith(("I", "F")):
            grey = np.asarray(image)
            scaled = np.empty(grey.shape, np.uint8)
            for top in range(0, len(grey), BAND):  # in float64 a whole large photograph would take 8 times its size
                # 16 bits a channel; 32-bit modes hold 16-bit values when they come from PNG
                scaled[top : top + BAND] = np.clip(grey[top : top + BAND] / 257.0, 0, 255).round()
            image = Image.fromarray(scaled)
        elif "A" in image.mode or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
        return image if image.mode == "RGB" else image.convert("RGB")  # which would copy RGB too


def read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8 class indices, 255 = void: the palette's indices or a grey image's values. Raises OSError if the
    file is missing, broken, or a colour image."""
    with open_image(path, ("PNG",)) as image:
        _decode(image, "mask")
        if image.mode not in ("P", "L", "1"):
            raise OSError(f"a mask holds class indices (palette or 8-bit grey), this is {image.mode}")
        return np.asarray(image.convert("L") if image.mode == "1" else image, np.uint8).copy()


@cache
def palette() -> list[int]:
    """The VOC palette: bits of the index spread over red, green and blue."""
    index, bit, channel = np.ogrid[:256, :8, :3]
    return (((index >> (3 * bit + channel)) & 1) << (7 - bit)).sum(1).flatten().tolist()


def write_mask(path: Path, mask: np.ndarray) -> None:
    """(H, W) uint8 class indices to a palette PNG, atomically."""
    image = Image.fromarray(mask)
    image.putpalette(palette())
    partial = path.with_suffix(".partial")
    image.save(partial, format="PNG")
    partial.replace(path)
