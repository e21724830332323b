"""Reading images and masks of any kind."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from sfc.data.images import VOID, find_image, open_image, palette, read_image, read_mask, write_mask


def read(tmp_path: Path, image: Image.Image, name: str = "a.png", **options) -> np.ndarray:
    image.save(tmp_path / name, **options)
    result = read_image(tmp_path / name)
    assert result.mode == "RGB"
    return np.asarray(result)


def test_16_bit_grey_is_scaled_to_8(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 200, 65535]], np.uint16)
    assert read(tmp_path, Image.fromarray(values))[0].tolist() == [[0] * 3, [200] * 3, [255] * 3]


def test_grey_is_repeated(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(read(tmp_path, Image.fromarray(grey)), np.repeat(grey[..., None], 3, 2))


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    bits = np.array([[True, False]])
    assert read(tmp_path, Image.fromarray(bits))[0].tolist() == [[255] * 3, [0] * 3]


def test_cmyk_becomes_its_colours(tmp_path: Path) -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    pixels = read(tmp_path, red, "a.jpg", quality=95).reshape(-1, 3)
    assert (pixels[:, 0] > 200).all() and (pixels[:, 1:] < 60).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_on_black(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (255, 255, 255, 255))
    image.putpixel((1, 0), (255, 255, 255, 0))
    assert read(tmp_path, image.convert(mode))[0].tolist() == [[255] * 3, [0] * 3]


def test_a_transparent_colour_of_a_palette_lies_on_black(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([200, 10, 20, 30, 40, 50])
    assert read(tmp_path, image)[0].tolist() == [[200, 10, 20], [30, 40, 50]]
    assert read(tmp_path, image, transparency=0)[0].tolist() == [[0, 0, 0], [30, 40, 50]]


def test_a_single_pixel_is_an_image_and_a_mask(tmp_path: Path) -> None:
    assert read(tmp_path, Image.new("RGB", (1, 1), (1, 2, 3))).tolist() == [[[1, 2, 3]]]
    write_mask(tmp_path / "m.png", np.full((1, 1), 7, np.uint8))
    assert read_mask(tmp_path / "m.png").tolist() == [[7]]


def encoded(kind: str) -> bytes:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (24, 24, 3)).astype(np.uint8))
    if kind == "PALETTE":
        image, kind = image.convert("P"), "PNG"
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "PALETTE"])
def test_damaged_files_are_read_or_refused_as_oserror(tmp_path: Path, kind: str) -> None:
    whole, rng, refused = encoded(kind), np.random.default_rng(1), 0
    path = tmp_path / "a.png"
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[int(rng.integers(len(damaged)))] = int(rng.integers(256))
        path.write_bytes(bytes(damaged[: int(rng.integers(len(whole) // 2, len(whole) + 1))]))
        for reader in (read_image, read_mask):
            try:
                reader(path)
            except OSError:
                refused += 1
    assert refused > 50


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n%%EOF\n"


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.eps"])
def test_eps_text_never_starts_ghostscript_whatever_its_suffix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    program, trace = tmp_path / "gs", tmp_path / "started"
    program.write_text(f"#!/bin/sh\ntouch {trace}\n")
    program.chmod(0o755)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", str(program))
    (tmp_path / name).write_bytes(EPS)
    for reader in (read_image, read_mask, open_image):
        with pytest.raises(OSError, match=rf"{name}: not a .*PNG image"):
            reader(tmp_path / name)
    assert not trace.exists()
    with Image.open(tmp_path / name) as image, contextlib.suppress(OSError):  # as PIL alone would read it
        image.load()
    assert trace.exists()


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_other_formats_under_the_suffix_of_a_png_are_refused(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", kind)
    with pytest.raises(OSError, match="not a JPEG or PNG image"):
        read_image(tmp_path / "a.png")


def test_what_a_file_holds_counts_and_not_its_suffix_and_masks_are_png_alone(tmp_path: Path) -> None:
    Image.new("L", (4, 3), 7).save(tmp_path / "a.png", "JPEG")
    assert read_image(tmp_path / "a.png").size == (4, 3)
    with pytest.raises(OSError, match="not a PNG image"):
        read_mask(tmp_path / "a.png")


def test_a_photograph_of_several_pictures_is_its_first(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (8, 6), (200, 0, 0)), Image.new("RGB", (4, 4))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])  # as many telephones write .jpg
    assert read_image(tmp_path / "a.jpg").size == (8, 6)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_an_oserror(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for reader in (read_image, read_mask):
        with pytest.raises(OSError, match=r"."):
            reader(tmp_path / "a.png")


def test_a_missing_file_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        read_image(tmp_path / "nowhere.png")


def test_masks_are_the_palette_s_indices_or_the_grey_values(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 2], [20, 254, VOID]], np.uint8)
    write_mask(tmp_path / "palette.png", mask)
    Image.fromarray(mask).save(tmp_path / "grey.png")
    for name in ("palette.png", "grey.png"):
        read = read_mask(tmp_path / name)
        assert np.array_equal(read, mask) and read.dtype == np.uint8 and read.flags.writeable
    assert Image.open(tmp_path / "palette.png").mode == "P"
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "LA"])
def test_a_mask_that_holds_no_indices_is_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (3, 3)).save(tmp_path / "m.png")
    with pytest.raises(OSError, match="class indices"):
        read_mask(tmp_path / "m.png")


def test_the_palette_is_that_of_voc() -> None:
    colours = np.array(palette()).reshape(256, 3)
    assert colours[[0, 1, 2, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]
    assert len(np.unique(colours, axis=0)) == 256


def test_images_are_found_by_any_suffix_and_names_may_have_dots(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.PNG", "c.v2.jpeg"):
        (tmp_path / name).touch()
    assert find_image(tmp_path, "a").name == "a.jpg"
    assert find_image(tmp_path, "b").name == "b.PNG"
    assert find_image(tmp_path, "c.v2").name == "c.v2.jpeg"
    assert find_image(tmp_path, "c") is None


LARGE = (12_000, 9_000)
MEMORY = """
import re, sys
from pathlib import Path
from sfc.data.images import read_image, read_mask
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
print({"image": lambda p: read_image(p).size, "mask": lambda p: read_mask(p).shape}[sys.argv[1]](Path(sys.argv[2])))
print(peak() - before)
"""


def flat_png(path: Path, size: tuple[int, int], depth: int, colour: int, bytes_a_pixel: int, rows: int) -> None:
    """A PNG of zeros with that many of its rows written out; PIL takes seconds for a large one."""
    packer = zlib.compressobj(1)
    row = bytes(1 + size[0] * bytes_a_pixel) if rows else b""
    data = b"".join([*(packer.compress(row) for _ in range(rows)), packer.flush()])
    head = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), *([(b"PLTE", bytes(768))] if colour == 3 else []), (b"IDAT", data), (b"IEND", b"")]
    packed = [len(b).to_bytes(4) + name + b + zlib.crc32(name + b).to_bytes(4) for name, b in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak memory from /proc")
@pytest.mark.parametrize(
    ("kind", "depth", "colour", "stored", "limit"),
    [("image", 8, 2, 3, 4), ("image", 16, 0, 2, 9), ("mask", 8, 3, 1, 3)],
    ids=["RGB", "16-bit grey", "palette mask"],
)
def test_108_million_pixels_take_a_few_bytes_each(
    tmp_path: Path, kind: str, depth: int, colour: int, stored: int, limit: int
) -> None:
    path = tmp_path / "large.png"
    flat_png(path, LARGE, depth, colour, stored, LARGE[1])
    command = [sys.executable, "-c", MEMORY, kind, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shape, kibibytes = done.stdout.splitlines()
    assert shape == str(LARGE if kind == "image" else LARGE[::-1])
    assert int(kibibytes) * 1024 < (limit + 1) * LARGE[0] * LARGE[1]


def test_more_pixels_than_the_guard_allows_are_refused(tmp_path: Path) -> None:
    flat_png(tmp_path / "bomb.png", (100_000, 100_000), 8, 2, 3, 0)
    with pytest.raises(Image.DecompressionBombError):
        read_image(tmp_path / "bomb.png")
