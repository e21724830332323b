"""One configuration from Python: run it, look at its maps. A search is `tune.search`; docs/python.md shows both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sfc.config import Config
from sfc.pipeline import Pipeline, Until
from sfc.results import Result
from sfc.runtime.engine import LocalEngine, Report
from sfc.runtime.map_files import ImageMaps, load_maps
from sfc.runtime.stores import open_store


def _pipeline(config: Config, results: str | Path, on_report: Report | None = None) -> Pipeline:
    return Pipeline(config, open_store(Path(results) / "store"), LocalEngine(on_report=on_report))


def run(
    config: Config,
    results: str | Path = "results",
    *,
    until: Until = "segmentation",
    on_report: Report | None = None,
) -> Result:
    """One configuration through all stages; what the store has is not done again.

    Args:
        config: from `load_config`.
        results: folder for the store.
        until: `seed`, `pseudo` or `segmentation`, the last stage.
        on_report: called at the end of each epoch with its losses and the training's state.

    Raises:
        UserError: something in the settings or the data is wrong; says what.
        Diverged: a loss is not finite.
    """
    return _pipeline(config, results, on_report).run(until)


def maps(config: Config, split: str, results: str | Path = "results") -> Iterator[tuple[str, ImageMaps]]:
    """Names and maps of the images of a split, in its order; the classifier is trained first if need be.

    Returns:
        For each image its name, and its `keys` (K',), the kept channels, with its `maps` (K', H, W) by name.
    """
    pipeline = _pipeline(config, results)
    folder = pipeline.output("maps", split)
    for name in pipeline.split(split).ids:
        yield name, load_maps(folder / f"{name}.npz")
