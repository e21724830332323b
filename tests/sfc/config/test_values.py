"""Settings as plain values: keys that a new setting does not move, and stages that get nothing but their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sfc.config import SETTINGS_VERSION, Backbone, Config, NoOptions, SfcOptions
from sfc.config.files import absolute, change_config, setting_names
from sfc.config.values import differing, flat, restrict

PINNED = Path(__file__).with_name("defaults.yaml")


def test_the_defaults_are_those_of_the_settings_version() -> None:
    """Keys name what differs from the defaults: a default may change only with the version. New settings may come."""
    pinned = yaml.safe_load(PINNED.read_text(encoding="utf-8"))
    assert pinned.pop("version") == SETTINGS_VERSION
    now = {name: list(v) if isinstance(v, tuple) else v for name, v in flat(Config()).items()}
    assert {name: now.get(name, "gone") for name in pinned} == pinned


def test_nothing_differs_in_the_defaults() -> None:
    assert differing(Config()) == {}
    same = change_config(Config(), {"evaluation.scales": "three", "classifier.options.warmup": 0.0})
    assert differing(same) == {}


def test_what_differs_is_named_by_section() -> None:
    config = change_config(Config(), {"pseudo.crf.iterations": 3, "classifier.options.warmup": 0.5, "seed": 4})
    assert differing(config) == {
        "seed": 4,
        "pseudo": {"crf": {"iterations": 3}},
        "classifier": {"options": {"warmup": 0.5}},
    }


def test_a_section_that_is_given_differs_from_one_that_is_not() -> None:
    config = change_config(Config(), {"segmentation.backbone.name": Backbone().name})
    assert config.segmentation.backbone == Backbone()
    assert differing(config) == {"segmentation": {"backbone": {}}}


def test_the_options_of_another_method_differ_from_its_own_defaults() -> None:
    config = change_config(Config(), {"classifier.method": "cam"})
    assert config.classifier.options == NoOptions() and differing(config) == {"classifier": {"method": "cam"}}
    back = change_config(config, {"classifier.method": "sfc"})
    assert back.classifier.options == SfcOptions()


def test_files_are_named_by_their_content_in_keys(tmp_path: Path) -> None:
    one, two, other = (tmp_path / name for name in ("one.pt", "two.pt", "other.pt"))
    one.write_bytes(b"weights")
    two.write_bytes(b"weights")
    other.write_bytes(b"others")

    def key(path: Path) -> dict:
        return differing(change_config(Config(), {"backbone.weights": str(path)}), content=True)

    assert key(one) == key(two) != key(other) and "one.pt" not in str(key(one))
    named = change_config(Config(), {"backbone.weights": "IMAGENET1K_V2"})
    assert differing(named, content=True) == {"backbone": {"weights": "IMAGENET1K_V2"}}


def test_a_folder_of_maps_is_named_by_its_files(tmp_path: Path) -> None:
    changes = {"classifier.method": "maps", "classifier.options.folder": str(tmp_path)}
    config = change_config(Config(), changes)
    empty = differing(config, content=True)
    (tmp_path / "a.npy").write_bytes(b"map")
    assert differing(config, content=True) != empty


def test_a_restricted_configuration_has_the_named_settings_and_else_the_defaults() -> None:
    config = change_config(
        Config(),
        {"seed": 3, "pseudo.fusion": 0.1, "pseudo.threshold": 0.2, "classifier.epochs": 9, "cam.mirror": False},
    )
    kept = restrict(config, ["pseudo.fusion", "cam"])
    assert differing(kept) == {"pseudo": {"fusion": 0.1}, "cam": {"mirror": False}}


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pt").write_bytes(b"")
    config = change_config(
        Config(), {"data.root": "d", "backbone.weights": "w.pt", "segmentation.backbone.weights": "IMAGENET1K_V2"}
    )
    assert differing(absolute(config)) == {
        "data": {"root": str(tmp_path / "d")},
        "backbone": {"weights": str(tmp_path / "w.pt")},
        "segmentation": {"backbone": {"weights": "IMAGENET1K_V2"}},
    }


def test_every_setting_has_a_name() -> None:
    names = setting_names()
    assert {"seed", "classifier.lr", "classifier.options.warmup", "segmentation.backbone.name"} <= set(names)
    assert len(names) == len(set(names))
    assert "classifier.options.warmup" not in setting_names(change_config(Config(), {"classifier.method": "cam"}))
