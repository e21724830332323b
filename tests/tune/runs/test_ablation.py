"""Arms before they run: what differs between them, data that they share."""

from pathlib import Path

import numpy as np
import pytest

from sfc.config import Config
from sfc.config.files import absolute, change_config, load_config
from sfc.errors import UserError
from tests.tune.conftest import TINY
from tune.runs.ablation import check_data
from tune.runs.arms import changes_of


def tiny(tmp_path: Path) -> Config:
    return absolute(load_config("synthetic.yaml", [f"data.root={tmp_path / 'data'}", "classifier.epochs=1", *TINY[1:]]))


def test_changes_are_those_to_the_first_arm() -> None:
    base = load_config("synthetic.yaml")
    arms = {
        "a": base,
        "b": change_config(base, {"cam.mirror": False, "pseudo.threshold": 0.4, "selected_on": "select"}),
    }
    assert changes_of(arms) == {"a": {}, "b": {"cam.mirror": False}}


def test_arms_on_other_data_are_refused(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    arms = {"a": config, "b": change_config(config, {"data.root": "elsewhere"})}
    with pytest.raises(UserError, match="'a' and 'b' have other data"):
        check_data(arms, tmp_path / "store")


def test_a_select_split_without_masks_is_refused(tmp_path: Path, voc) -> None:
    names = ["t", "s", "v"]
    images = {name: np.full((40, 40, 3), 9 * i, np.uint8) for i, name in enumerate(names)}
    root = voc(images, csv=dict.fromkeys(names, "cat"), splits={"train": ["t"], "select": ["s"], "val": ["v"]})
    config = change_config(load_config("synthetic.yaml"), {"data.format": "folder", "data.root": str(root)})
    with pytest.raises(UserError, match="the split select has none"):
        check_data({"a": config}, tmp_path / "store")
