"""Charts: each is an image of its own, with what it was given in it."""

import base64
import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from PIL import Image

from sfc.config import Data, Pseudo
from sfc.data import Dataset, open_dataset
from sfc.runtime.map_files import save_maps
from tune.evidence import charts

HOSTILE = "$\\frac{ <b>&\u4e2d"


def opened(source: str) -> str:
    """The SVG of a data URI, which must parse."""
    assert source.startswith("data:image/svg+xml;base64,")
    text = base64.b64decode(source.split(",")[1]).decode()
    ElementTree.fromstring(text)
    return text


def words(source: str) -> list[str]:
    return [t.text or "" for t in ElementTree.fromstring(opened(source)).iter("{http://www.w3.org/2000/svg}text")]


def trial(value: float | None, state: TrialState = TrialState.COMPLETE, **more: Any) -> FrozenTrial:
    return create_trial(
        state=state,
        value=value,
        params={"a.lr": 0.1, "a.kind": HOSTILE, "a.count": 3},
        distributions={
            "a.lr": FloatDistribution(0.01, 1, log=True),
            "a.kind": CategoricalDistribution([HOSTILE, "[0.5]", None]),
            "a.count": IntDistribution(0, 4),
        },
        user_attrs={"epoch": more.get("epoch", 4)},
        intermediate_values=more.get("previews", {}),
    )


def numbered(*trials: FrozenTrial) -> list[FrozenTrial]:
    for number, one in enumerate(trials):
        one.number = number
    return list(trials)


def test_history_tells_the_three_kinds_apart() -> None:
    done = trial(0.5)
    shown = words(charts.history(numbered(done, trial(None, TrialState.PRUNED, epoch=1)), "seed/miou", done))
    assert {"in full", "stopped early", "published setting", "seed/miou"} <= set(shown) and "failed" not in shown
    assert "failed" in words(charts.history(numbered(trial(None, TrialState.FAIL, epoch=0)), "m", None))


def test_the_same_chart_twice_is_the_same_bytes() -> None:
    assert charts.scatter({"a": ([1, 2], [3, 4])}, "b") == charts.scatter({"a": ([1, 2], [3, 4])}, "b")


def test_the_result_of_a_complete_trial_is_no_preview() -> None:
    early, late = (charts.previews(numbered(trial(v, previews={1: 0.3, 2: 0.4, 4: v}))) for v in (0.5, 0.9))
    assert early == late


def test_what_is_hostile_to_matplotlib_is_drawn_as_it_is() -> None:
    shown = words(charts.slices(numbered(trial(0.5), trial(0.6)), "score", {"a.kind": HOSTILE}, {"a.kind": None}))
    assert HOSTILE in shown and {"a.lr", "a.kind", "a.count", "score"} <= set(shown)
    assert HOSTILE in words(charts.scatter({HOSTILE: ([1], [2])}, "b"))


def test_a_long_choice_loses_its_middle() -> None:
    shown = words(charts.slices(numbered(trial(0.5), trial(0.6)), "score", {}, {}))
    assert HOSTILE in shown and len(HOSTILE) <= 24
    long = create_trial(
        value=0.5,
        params={"a": f"/data/{'x' * 90}/one.pth"},
        distributions={"a": CategoricalDistribution([f"/data/{'x' * 90}/one.pth"])},
    )
    assert "/data/xxxxx…xxxx/one.pth" in words(charts.slices(numbered(long), "score", {}, {}))


def test_one_epoch_has_one_tick() -> None:
    shown = words(charts.losses({"best": [{"epoch": 1.0, "total": 2.0}]}))
    assert "0.96" not in shown and "1" in shown


def test_losses_have_a_panel_each() -> None:
    entry = {"epoch": 1.0, "total": 2.0, "scale": 1.0, "images_per_second": 5.0}
    shown = words(charts.losses({"published": [entry], "best": [entry]}))
    assert {"total", "scale", "published", "best"} <= set(shown) and "images_per_second" not in shown


def test_a_point_a_trial() -> None:
    drawn = opened(charts.scatter({"proxy/a": ([1, 2, 3], [3, 2, 1])}, "seed/miou"))
    assert len(re.findall(r"<use [^>]*style=\"fill: #0072b2", drawn)) == 3


@pytest.mark.parametrize("size", [(40, 80), (80, 40)])
def test_rows_of_maps_are_as_high_as_their_images(voc: Any, tmp_path: Path, size: tuple[int, int]) -> None:
    images = {name: np.full((*size, 3), 90, np.uint8) for name in "ab"}
    masks = {name: np.ones(size, np.uint8) for name in "ab"}
    root = voc(images, masks=masks, csv=dict.fromkeys("ab", "cat"))
    data: Dataset = open_dataset(Data(format="folder", root=str(root)))
    for name in "ab":
        maps = torch.rand(2, size[0] // 8, size[1] // 8)
        save_maps(tmp_path / f"{name}.npz", np.array([0, 1]), size, [{"classifier": maps, "prototype": maps}])
    source = charts.maps(data, ["a", "b"], {"published": (tmp_path, Pseudo()), "best": (tmp_path, Pseudo())})
    picture = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
    expected = (2 * size[0] / size[1] * 1.7 + 0.3) / (6 * 1.7)  # two rows of six columns, and the titles
    assert picture.height / picture.width == pytest.approx(expected, rel=0.02)
