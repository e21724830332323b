"""The store: whole or not at all, built once, resumable."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sfc.config import SETTINGS_VERSION
from sfc.errors import UserError
from sfc.runtime import training as fit
from sfc.runtime.engine import Context
from sfc.runtime.store import Store, digest, write_atomic
from sfc.runtime.stores import store_address

CHILD = """
import os, sys, time
from pathlib import Path
from sfc.runtime.store import Store
store = Store(Path(sys.argv[1]))
def build(folder):
    with (store.root / "builds").open("a") as file:
        file.write("x")
    (folder / "output").write_text("half")
    (store.root / "started").touch()
    if sys.argv[2] == "die":
        os._exit(9)
    time.sleep(0.3)
    (folder / "output").write_text("whole")
    return {}
store.get("cam", "k", {}, build)
"""


def child(root: Path, how: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(root), how], stderr=subprocess.PIPE)


def write(text: str):
    def build(folder: Path) -> dict[str, str]:
        (folder / "output").write_text(text)
        return {"device": "none"}

    return build


def fail(folder: Path) -> dict:
    raise AssertionError("built again")


def test_a_finished_stage_is_reused_and_tells_what_it_depends_on(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert not store.has("cam", "k")
    folder = store.get("cam", "k", {"inputs": ["a"]}, write("maps"))
    assert folder == store.folder("cam", "k") and store.has("cam", "k")
    assert Store(tmp_path / "store").get("cam", "k", {}, fail) == folder
    assert (folder / "output").read_text() == "maps"
    manifest = store.manifest(folder)
    assert manifest["inputs"] == ["a"] and manifest["device"] == "none" and manifest["stage"] == "cam"
    assert manifest["seconds"] >= 0 and manifest["bytes"] == len("maps")


def test_seconds_are_those_of_the_work_not_of_waiting_for_another_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, inside, asked, now = Store(tmp_path), threading.Event(), threading.Event(), [0.0]
    monkeypatch.setattr("sfc.runtime.store.time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow_and_wrong(folder: Path) -> dict:
        inside.set()
        asked.wait()
        now[0] += 100
        raise RuntimeError

    def first() -> None:
        with pytest.raises(RuntimeError):
            store.get("cam", "k", {}, slow_and_wrong)

    def second(folder: Path) -> dict:
        now[0] += 1
        return {}

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    asked.set()
    assert store.manifest(store.get("cam", "k", {}, second))["seconds"] == 1
    thread.join()


def test_stages_and_keys_do_not_mix(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folders = {store.get(stage, key, {}, write("")) for stage in ("cam", "seed") for key in ("a", "b")}
    assert len(folders) == 4


def test_a_build_that_raises_leaves_nothing_but_its_working_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def half(folder: Path) -> dict:
        (folder / "checkpoint").write_text("epoch 3")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        store.get("cam", "k", {}, half)
    assert not store.has("cam", "k") and not store.folder("cam", "k").exists()

    def resume(folder: Path) -> dict:
        assert (folder / "checkpoint").read_text() == "epoch 3"
        return {}

    folder = store.get("cam", "k", {}, resume)
    assert store.has("cam", "k") and (folder / "checkpoint").is_file()
    assert [path.name for path in (tmp_path / "cam").iterdir()] == ["k"]


def test_a_folder_without_a_manifest_is_no_output(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stray = store.folder("cam", "k")
    stray.mkdir(parents=True)
    (stray / "stray").touch()
    folder = store.get("cam", "k", {}, write("maps"))
    assert (folder / "output").read_text() == "maps" and not (folder / "stray").exists()


@pytest.mark.parametrize("text", ["", '{"stage": "cam", "ke', "null"])
def test_a_manifest_that_can_not_be_read_is_no_output(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    (store.get("cam", "k", {}, write("old")) / "manifest.json").write_text(text)
    assert not store.has("cam", "k") and store.local(store.folder("cam", "k")) is None
    with pytest.raises(FileNotFoundError, match="no finished output"):
        store.manifest(store.folder("cam", "k"))
    assert (store.get("cam", "k", {}, write("new")) / "output").read_text() == "new"


def test_threads_that_want_one_key_build_it_once(tmp_path: Path) -> None:
    store, builds, folders = Store(tmp_path), [], []

    def build(folder: Path) -> dict:
        builds.append(folder)
        return {}

    threads = [threading.Thread(target=lambda: folders.append(store.get("cam", "k", {}, build))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1 and folders == [store.folder("cam", "k")] * 4


def test_processes_that_want_one_key_build_it_once(tmp_path: Path) -> None:
    children = [child(tmp_path, "work") for _ in range(2)]
    for process in children:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    assert (tmp_path / "builds").read_text() == "x"
    assert (tmp_path / "cam" / "k" / "output").read_text() == "whole"


def test_a_killed_process_frees_its_key_and_leaves_no_output(tmp_path: Path) -> None:
    process = child(tmp_path, "die")
    process.communicate(timeout=60)
    assert process.returncode == 9 and (tmp_path / "started").exists()
    store = Store(tmp_path)
    assert not store.has("cam", "k")
    assert (store.get("cam", "k", {}, write("whole")) / "output").read_text() == "whole"


def test_a_store_of_another_version_of_the_settings_is_refused(tmp_path: Path) -> None:
    Store(tmp_path)
    assert json.loads((tmp_path / "version.json").read_text()) == {"settings": SETTINGS_VERSION}
    Store(tmp_path)
    (tmp_path / "version.json").write_text(json.dumps({"settings": SETTINGS_VERSION + 1}))
    with pytest.raises(UserError, match=f"version {SETTINGS_VERSION + 1} .*version {SETTINGS_VERSION}"):
        Store(tmp_path)


def test_a_store_whose_version_can_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "version.json").touch()
    with pytest.raises(UserError, match=r"version.json can't be read"):
        Store(tmp_path)


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="can't be written"):
            Store(root)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_finished_stages_stay(tmp_path: Path, number: int) -> None:
    store = Store(tmp_path)
    done = store.get("classifier", "k", {}, write("weights"))

    def full(folder: Path) -> dict:
        (folder / "checkpoint").touch()
        raise OSError(number, "full")

    with pytest.raises(UserError, match="stage cam: no space left"):
        store.get("cam", "k", {}, full)
    assert store.get("classifier", "k", {}, fail) == done
    assert not store.has("cam", "k") and (tmp_path / "cam" / "k.partial" / "checkpoint").exists()


def save_checkpoint(folder: Path) -> None:
    Context(folder).report({}, {"weight": torch.zeros(100_000)})


def save_network(folder: Path) -> None:
    fit.save(nn.Linear(300, 300), [], folder)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize(("save", "name"), [(save_checkpoint, "checkpoint.pt"), (save_network, "model.pt")])
def test_a_network_that_meets_a_full_disk_is_said_too(tmp_path: Path, save, name: str) -> None:
    def full(folder: Path) -> dict:
        (folder / f"{name}.partial").symlink_to("/dev/full")
        save(folder)
        return {}

    with pytest.raises(UserError, match="no space left"):
        Store(tmp_path).get("classifier", "k", {}, full)


def test_other_errors_of_the_disk_keep_their_words(tmp_path: Path) -> None:
    def broken(folder: Path) -> dict:
        raise PermissionError(errno.EACCES, "not yours")

    with pytest.raises(PermissionError, match="not yours"):
        Store(tmp_path).get("cam", "k", {}, broken)


def test_digest_follows_the_content_alone() -> None:
    assert digest({"a": 1, "b": [1.5, None]}) == digest({"b": [1.5, None], "a": 1})
    assert len({digest({"a": 1}), digest({"a": 2}), digest({"a": "1"}), digest({"b": 1})}) == 4
    assert len(digest({})) == 16


def test_an_atomic_write_replaces_the_whole_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "a long first version")
    write_atomic(path, "short")
    assert path.read_text() == "short" and list(tmp_path.iterdir()) == [path]


def test_whole_work_that_was_stopped_before_its_place_is_not_done_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.get("cam", "k", {}, write("maps"))
    folder.rename(folder.with_suffix(".partial"))  # as a kill leaves it
    assert not store.has("cam", "k")
    assert (store.get("cam", "k", {}, fail) / "output").read_text() == "maps"


def test_an_output_is_found_under_the_path_that_another_machine_has_for_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.get("cam", "k", {}, write("maps"))
    assert store.local(Path("/another/machine/cam/k")) == folder
    assert store.local(Path("/another/machine/cam/other")) is None and store.local(Path("-")) is None


def test_a_store_is_named_alike_on_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert store_address("a") == tmp_path / "a" and store_address("s3://a/b") == "s3://a/b"
