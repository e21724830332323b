"""Settings of the data."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from sfc.config import plugins
from sfc.config.base import Count, Section, one_of

FORMATS = ("synthetic", "folder", "voc", "coco14", "coco17")


class Synthetic(Section):
    """The generated data set (`sfc.data.synthetic`)."""

    seed: int = 0
    size: Annotated[int, Field(ge=32)] = 64
    """Height and width of an image."""
    groups: Annotated[int, Field(ge=2, le=6)] = 3
    """Pairs of a head and a tail class that share a part."""
    train: Count = 600
    """Images of the split train, which is used by its labels alone."""
    select: Count = 100
    """Images of the split select, whose masks may choose."""
    val: Count = 200
    """Images of the split val, whose masks report."""


class Data(Section):
    """Where images, labels and masks come from."""

    format: Annotated[str, one_of(FORMATS, "module:function", plugins.is_path)] = "synthetic"
    """`voc` (2012), `coco14` and `coco17` are the benchmarks that `sfc data` has prepared; `module:function` is a
    function of one's own that gets this section and returns a folder in VOC layout (a Path)."""
    root: str = "results/data"
    """The folder in VOC layout; for `synthetic`, where it is generated; for benchmarks, above the official folders."""
    train: str = "train"
    """Split that trains."""
    select: str = "select"
    """Split whose masks may choose settings; may be the training split, never the reporting one."""
    val: str = "val"
    """Split whose masks report."""
    skip_broken: bool = False
    """Go on without images that can't be read, instead of stopping with their names."""
    synthetic: Synthetic = Synthetic()

    @model_validator(mode="after")
    def _splits(self) -> Data:
        if self.val in (self.train, self.select):
            raise ValueError(f"val: the split {self.val!r} that reports must differ from those that train and select")
        return self

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        if plugins.is_path(self.format):  # the process that pickled the section was allowed to import it
            plugins.allow(self.format)
