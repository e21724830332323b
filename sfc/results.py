"""What a run gives: numbers by name, the masks that each has seen, and where the outputs are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sfc.config import Config

if TYPE_CHECKING:
    import pandas as pd

CONDITIONS = ("test_time", "initialisation", "crf_images")
"""Entries of metrics.json that are no numbers to compare."""
Supervision = Literal["image-labels", "held-out masks", "same masks", "full supervision"]
"""Masks that a number has seen: none, those of other images, its own, or those of the training images as labels."""


def supervision(config: Config, split: str | None, *, tuned_here: bool = False) -> Supervision:
    """The masks that a number on `split` has seen. A number without masks (None) has none of its own that could be the
    same, but has seen those that chose the settings, on whatever images."""
    if config.pseudo.method == "masks":
        return "full supervision"
    if tuned_here or (split is not None and config.selected_on == split):
        return "same masks"
    return "image-labels" if config.selected_on is None else "held-out masks"


@dataclass(frozen=True)
class Result:
    """Numbers of one configuration."""

    metrics: dict[str, float] = field(default_factory=dict)
    """By name (`sfc.scoring.names`), in [0, 1]."""
    supervision: dict[str, Supervision] = field(default_factory=dict)
    """By the same names."""
    iou: dict[str, list[float]] = field(default_factory=dict)
    """(K,) by prefix, the background first."""
    folders: dict[str, Path] = field(default_factory=dict)
    """Outputs by prefix."""
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """How the numbers under a prefix came about, where the settings' names do not say it: `test_time`, the presets and
    scales of `val`; `initialisation`, what its network started from; `crf_images`, how many images the CRF of `proxy`
    saw."""
    warnings: list[str] = field(default_factory=list)
    """What stages on the way said of outputs that can't be meant."""
    label_source: str = ""
    """Where the image labels come from: csv, xml or masks."""

    def add(self, prefix: str, metrics: dict[str, Any], seen: dict[str, Supervision]) -> None:
        """Add the numbers of a stage under a prefix such as `seed`.

        Args:
            prefix: begins the names.
            metrics: content of the stage's metrics.json; below `best`, numbers tuned on the masks that they report on.
            seen: the masks that the numbers have seen, by "", and those that the numbers below `best` have, by "best".
        """
        metrics = dict(metrics)
        best = metrics.pop("best", {})
        if "iou" in metrics:
            self.iou[prefix] = metrics.pop("iou")
        best.pop("iou", None)
        self.conditions[prefix] = {key: metrics.pop(key) for key in CONDITIONS if key in metrics}
        for start, numbers, masks in (("", metrics, seen[""]), ("best_", best, seen["best"])):
            for key, value in numbers.items():
                self.metrics[f"{prefix}/{start}{key}"] = value
                self.supervision[f"{prefix}/{start}{key}"] = masks

    def frame(self) -> pd.DataFrame:
        """The numbers as a table with the columns `value` and `supervision`, indexed by name."""
        import pandas as pd  # only a notebook needs it

        return pd.DataFrame({"value": self.metrics, "supervision": self.supervision}).rename_axis("number")
