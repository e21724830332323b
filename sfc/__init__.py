"""Shared Feature Calibration (SFC, AAAI 2024) for weakly supervised semantic segmentation: the method and its stages.

Names in the code: N images, C foreground classes, K = C + 1 channels with the background first, D feature channels,
H x W an image's size, h x w a feature map's. What stands in `__all__` is the public interface; docs/python.md uses it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfc.api import maps, run
    from sfc.config import Config, Section
    from sfc.config.files import change_config, load_config
    from sfc.data import Dataset, open_dataset
    from sfc.method.protocol import Method, TrainingSet
    from sfc.results import Result

__all__ = [
    "Config",
    "Dataset",
    "Method",
    "Result",
    "Section",
    "TrainingSet",
    "change_config",
    "load_config",
    "maps",
    "open_dataset",
    "run",
]

_HOMES = {
    "sfc.api": ("maps", "run"),
    "sfc.config": ("Config", "Section"),
    "sfc.config.files": ("change_config", "load_config"),
    "sfc.data": ("Dataset", "open_dataset"),
    "sfc.method.protocol": ("Method", "TrainingSet"),
    "sfc.results": ("Result",),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import sfc` needs no torch."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'sfc' has no attribute {name!r}")
