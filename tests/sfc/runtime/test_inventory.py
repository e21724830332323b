"""Inventory of a store: everything is counted, references are followed, and what somebody works on stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfc.errors import UserError
from sfc.runtime.inventory import inventory, referred, remove, store_folder
from sfc.runtime.locks import locked
from sfc.runtime.store import Store


def make(store: Store, stage: str, key: str, *inputs: str) -> Path:
    def build(folder: Path) -> dict[str, str]:
        (folder / "output").write_text("12345")
        return {}

    return store.get(stage, key, {"inputs": list(inputs)}, build)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two classifiers, maps of the first, seeds of the maps; an unfinished classifier, and what kills leave."""
    store = Store(tmp_path / "store")
    make(store, "classifier", "a")
    make(store, "classifier", "b")
    make(store, "cam", "c", "classifier/a")
    make(store, "seed", "d", "cam/c")
    (store.root / "classifier" / "e.partial").mkdir()
    (store.root / "classifier" / "e.partial" / "checkpoint.pt").write_text("123")
    (store.root / "classifier" / "e.lock").touch()
    (store.root / "cam" / "f.fetched").mkdir()
    (store.root / "cam" / "g").mkdir()
    (store.root / "cam" / "g" / "manifest.json").write_text("{")
    (store.root / "readable").mkdir()
    (store.root / "readable" / "content.json").write_text("{}")
    (store.root / "mine").mkdir()
    (store.root / "mine" / "photos").mkdir()
    return store


def names(store: Store) -> dict[str, str]:
    return {str(item.path.relative_to(store.root)): item.kind for item in inventory(store.root)}


def test_everything_that_a_store_made_is_listed_with_its_size_and_nothing_else(store: Store) -> None:
    assert names(store) == {
        "cam/c": "output",
        "cam/f.fetched": "leftover",
        "cam/g": "unfinished",
        "classifier/a": "output",
        "classifier/b": "output",
        "classifier/e.lock": "leftover",
        "classifier/e.partial": "unfinished",
        "seed/d": "output",
    }
    sizes = {item.name: item.bytes for item in inventory(store.root) if item.kind != "leftover"}
    assert sizes["classifier/a"] == 5 and sizes["classifier/e"] == 3


def test_references_are_followed_from_any_machines_paths(store: Store) -> None:
    assert referred(store.root, []) == referred(store.root, ["cam/none", "-", "None"]) == set()
    assert referred(store.root, [Path("/another/machine/seed/d")]) == {"seed/d", "cam/c", "classifier/a"}
    assert referred(store.root, ["cam/c", store.folder("classifier", "b")]) == {"cam/c", "classifier/a", "classifier/b"}


def test_what_is_removed_is_gone_and_the_rest_can_be_used(store: Store) -> None:
    kept = referred(store.root, ["cam/c"])
    unwanted = [item for item in inventory(store.root) if item.name not in kept]
    assert remove(unwanted) == unwanted
    assert names(store) == {"cam/c": "output", "classifier/a": "output"}
    assert (store.root / "mine" / "photos").is_dir() and (store.root / "readable" / "content.json").is_file()
    assert not store.has("classifier", "b") and make(store, "classifier", "b").is_dir()


def test_what_somebody_works_on_stays(store: Store) -> None:
    unwanted = [item for item in inventory(store.root) if item.kind != "output"]
    with locked(store.root / "classifier" / "e.lock"):
        removed = remove(unwanted)
    assert {item.name for item in removed} == {"cam/f", "cam/g"}
    assert (store.root / "classifier" / "e.partial" / "checkpoint.pt").is_file()
    assert {item.name for item in remove([i for i in unwanted if i not in removed])} == {"classifier/e"}


def test_a_bucket_and_a_folder_that_is_no_store_are_refused(tmp_path: Path, store: Store) -> None:
    assert store_folder(store.root) == store_folder(str(store.root)) == store.root
    with pytest.raises(UserError, match=r"s3://bucket/a is in a bucket: .* service's own tools"):
        store_folder("s3://bucket/a")
    with pytest.raises(UserError, match="is no store"):
        store_folder(tmp_path)
