"""The store in a bucket, against a real S3 server on this machine: whole or not at all, built once, on many nodes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sfc.__main__ import main
from sfc.config import SETTINGS_VERSION
from sfc.errors import UserError
from sfc.runtime.bucket import Bucket
from sfc.runtime.remote_store import RemoteStore
from sfc.runtime.store import MANIFEST, Store
from sfc.runtime.stores import open_store

CHILD = """
import sys, time
from pathlib import Path
from sfc.runtime.remote_store import RemoteStore
address, cache, trace, how, expiry = sys.argv[1:]
def note(text):
    with open(trace, "a") as file:
        file.write(text)
def build(folder):
    note("(")
    (folder / "output").write_text("whole")
    time.sleep(600 if how == "hang" else 0.3)
    note(")")
    return {}
store = RemoteStore(address, Path(cache), float(expiry))
if how == "hang upload":
    def hang(folder, name):
        store.bucket.write(f"{name}/output", b"half")
        note("u")
        time.sleep(600)
    store.bucket.upload = hang
store.get("cam", "k", {}, build)
"""


@pytest.fixture
def node(address: str, tmp_path: Path) -> Callable[..., RemoteStore]:
    """The store as a node sees it that has a cache of this name."""
    return lambda name, expiry=120.0: RemoteStore(address, tmp_path / name, expiry)


def child(address: str, folder: Path, name: str, how: str = "work", expiry: float = 120) -> subprocess.Popen:
    words = [address, str(folder / name), str(folder / "trace"), how, str(expiry)]
    return subprocess.Popen([sys.executable, "-c", CHILD, *words], stderr=subprocess.PIPE)


def finish(*processes: subprocess.Popen) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()


def killed_when(process: subprocess.Popen, trace: Path, text: str) -> None:
    """Kill a process as soon as its trace says so."""
    while not trace.is_file() or not trace.read_text().endswith(text):
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def write(text: str = "maps", **entries: Any) -> Callable[[Path], dict[str, Any]]:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "below" / "deep").mkdir(parents=True, exist_ok=True)
        (folder / "below" / "deep" / "file").write_bytes(bytes(range(256)) * 100)
        (folder / "output").write_text(text)
        (folder / "empty").touch()
        return entries

    return build


def fail(folder: Path) -> dict[str, Any]:
    raise AssertionError("built again")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_one_node_made_another_fetches_and_does_not_make(node: Callable[..., RemoteStore]) -> None:
    here, there = node("here"), node("there")
    assert not here.has("cam", "k") and there.local(Path("x/cam/k")) is None
    made = here.get("cam", "k", {"inputs": ["a"]}, write(device="cpu"))
    assert there.has("cam", "k") and not there.folder("cam", "k").exists()
    assert there.manifest(there.folder("cam", "k"))["device"] == "cpu"
    fetched = there.get("cam", "k", {}, fail)
    assert fetched != made and (fetched / "output").read_text() == "maps"
    ours, theirs = content(made), content(fetched)
    assert json.loads(theirs.pop(MANIFEST)).items() >= json.loads(ours.pop(MANIFEST)).items()
    assert ours == theirs and len(ours) == 3
    assert there.get("cam", "k", {}, fail) == fetched
    assert node("third").local(made) == node("third").folder("cam", "k") and node("third").local(Path("a/b")) is None
    assert not here.bucket.names("claims")


def test_a_store_in_a_folder_and_one_in_a_bucket_are_opened_alike(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type(open_store(tmp_path / "store")) is type(open_store(str(tmp_path / "store"))) is Store
    monkeypatch.setenv("SFC_CACHE", str(tmp_path / "cache"))
    store = open_store(address)
    assert isinstance(store, RemoteStore) and store.root.parent == tmp_path / "cache"
    assert open_store(address, tmp_path / "other").root == tmp_path / "other" / store.root.name


def test_an_upload_that_breaks_leaves_no_output_and_is_done_again_without_the_work(
    node: Callable[..., RemoteStore],
) -> None:
    here, there = node("here"), node("there")

    def broken(folder: Path, name: str) -> None:
        here.bucket.write(f"{name}/output", b"half")
        raise UserError("the network is gone")

    upload, here.bucket.upload = here.bucket.upload, broken
    with pytest.raises(UserError, match="network is gone"):
        here.get("cam", "k", {}, write())
    assert not here.has("cam", "k") and not there.has("cam", "k") and there.local(Path("x/cam/k")) is None
    assert not here.bucket.names("claims")
    here.bucket.upload = upload
    here.get("cam", "k", {}, fail)
    assert (there.get("cam", "k", {}, fail) / "output").read_text() == "maps"


def test_a_process_killed_while_it_uploads_leaves_no_output(
    address: str, node: Callable[..., RemoteStore], tmp_path: Path
) -> None:
    killed_when(child(address, tmp_path, "here", "hang upload"), tmp_path / "trace", "u")
    there = node("there", 2)
    assert not there.has("cam", "k") and there.local(Path("x/cam/k")) is None
    assert (there.get("cam", "k", {}, write("another's")) / "output").read_text() == "another's"
    assert (node("third").get("cam", "k", {}, fail) / "output").read_text() == "another's"
    # The killed one's own node finds what it did not upload, and that it is not wanted any more.
    assert (node("here").get("cam", "k", {}, fail) / "output").read_text() == "another's"


def test_an_upload_that_comes_late_does_not_mix_with_the_output_that_is_there(
    node: Callable[..., RemoteStore],
) -> None:
    here, there, third = node("here"), node("there"), node("third")

    def halted(folder: Path) -> dict[str, Any]:  # so long that another took its claim for a dead one's
        for claim in here.bucket.names("claims"):
            here.bucket.remove(claim)
        there.get("cam", "k", {}, write("in time"))
        return write("late")(folder)

    assert (here.get("cam", "k", {}, halted) / "output").read_text() == "in time"
    assert (third.get("cam", "k", {}, fail) / "output").read_text() == "in time"


def test_processes_on_two_nodes_that_want_one_key_build_it_once(address: str, tmp_path: Path) -> None:
    finish(*(child(address, tmp_path, name) for name in ("a", "b", "b")))
    assert (tmp_path / "trace").read_text() == "()"
    outputs = [path for path in tmp_path.rglob("output") if path.parent.name == "k"]
    assert len(outputs) == 2 and all(path.read_text() == "whole" for path in outputs)


def test_a_killed_writer_is_waited_for_until_its_claim_expires(
    address: str, node: Callable[..., RemoteStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed_when(child(address, tmp_path, "here", "hang"), tmp_path / "trace", "(")
    there = node("there", 1)
    assert len(there.bucket.names("claims")) == 1
    caplog.set_level("INFO", "sfc")
    there.get("cam", "k", {}, write())
    assert "waiting for another machine" in caplog.text and "left by a process that is gone" in caplog.text
    assert not there.bucket.names("claims")


def test_a_killed_writer_that_starts_again_on_its_node_does_not_wait(
    address: str, node: Callable[..., RemoteStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed_when(child(address, tmp_path, "here", "hang"), tmp_path / "trace", "(")
    caplog.set_level("INFO", "sfc")
    assert (node("here").get("cam", "k", {}, write()) / "output").read_text() == "maps"
    assert "working" in caplog.text and "waiting" not in caplog.text


def test_a_build_that_fails_frees_its_key(node: Callable[..., RemoteStore]) -> None:
    here, there = node("here"), node("there")

    def wrong(folder: Path) -> dict[str, Any]:
        (folder / "checkpoint").touch()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        here.get("cam", "k", {}, wrong)
    assert not here.bucket.names("claims")
    there.get("cam", "k", {}, write())
    assert not (here.get("cam", "k", {}, fail) / "checkpoint").exists()


def test_a_download_that_breaks_is_done_again(node: Callable[..., RemoteStore]) -> None:
    node("here").get("cam", "k", {}, write())
    there = node("there")

    def broken(name: str, folder: Path) -> None:
        folder.mkdir()
        (folder / "output").write_text("ma")
        (folder / "of another upload").touch()
        raise UserError("the network is gone")

    download, there.bucket.download = there.bucket.download, broken
    with pytest.raises(UserError, match="network is gone"):
        there.get("cam", "k", {}, fail)
    assert not there.folder("cam", "k").exists()
    there.bucket.download = download
    folder = there.get("cam", "k", {}, fail)
    assert (folder / "output").read_text() == "maps" and not (folder / "of another upload").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_said_and_not_taken_for_the_networks_fault(node: Callable[..., RemoteStore]) -> None:
    node("here").get("cam", "k", {}, write())
    there = node("there")

    def full(name: str, folder: Path) -> None:
        folder.mkdir()
        (folder / "output").symlink_to("/dev/full")
        download(name, folder)

    download, there.bucket.download = there.bucket.download, full
    with pytest.raises(UserError, match="stage cam: no space left"):
        there.get("cam", "k", {}, fail)


def test_an_output_that_somebody_changed_is_refused(node: Callable[..., RemoteStore]) -> None:
    here, there = node("here"), node("there")
    folder = here.get("cam", "k", {}, write())
    [output] = [name for name in here.bucket.names("cam/k") if name.endswith("/output")]
    here.bucket.remove(output)
    with pytest.raises(UserError, match=r"cam/k has 25600 bytes, its manifest says 25604"):
        there.get("cam", "k", {}, fail)
    assert not there.folder("cam", "k").exists() and folder.exists()


@pytest.mark.parametrize("text", [b"", b'{"upload": "1"'])
def test_a_manifest_that_can_not_be_read_is_no_output(node: Callable[..., RemoteStore], text: bytes) -> None:
    here = node("here")
    here.bucket.write(f"cam/k/{MANIFEST}", text)
    assert not here.has("cam", "k") and here.local(Path("x/cam/k")) is None
    here.get("cam", "k", {}, write())
    assert (node("there").get("cam", "k", {}, fail) / "output").read_text() == "maps"


def test_files_keep_their_names(node: Callable[..., RemoteStore]) -> None:
    names = {"a b.npy", "ü#%20~+&=?.npy", "2007_000032.npy"}

    def build(folder: Path) -> dict[str, Any]:
        for name in names:
            (folder / name).write_text(name)
        return {}

    node("here").get("cam", "k", {}, build)
    assert content(node("there").get("cam", "k", {}, fail)).keys() == names | {MANIFEST}


def test_what_is_asked_for_in_vain_leaves_no_files(node: Callable[..., RemoteStore]) -> None:
    here = node("here")
    assert here.local(Path("x/cam/k")) is None
    assert not (here.root / "cam").exists()


def test_a_store_that_many_open_first_is_one_store(node: Callable[..., RemoteStore]) -> None:
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(node, map(str, range(6))))
    assert len({store.root.name for store in stores}) == 1


def test_a_bucket_that_was_emptied_has_another_cache(address: str, node: Callable[..., RemoteStore]) -> None:
    here = node("here")
    here.get("cam", "k", {}, write("old"))
    here.bucket.remove("version.json")
    here.bucket.remove(f"cam/k/{MANIFEST}")
    again = node("here")
    assert not again.has("cam", "k")
    assert (again.get("cam", "k", {}, write("new")) / "output").read_text() == "new"


def test_a_store_of_another_version_of_the_settings_is_refused(address: str, node: Callable[..., RemoteStore]) -> None:
    node("here")
    text = json.dumps({"settings": SETTINGS_VERSION + 1, "id": "x"})
    Bucket(address).write("version.json", text.encode())
    with pytest.raises(UserError, match=f"{address} was made by version {SETTINGS_VERSION + 1} .*{SETTINGS_VERSION}"):
        node("here")


@pytest.mark.parametrize("text", [b"", json.dumps({"settings": SETTINGS_VERSION, "id": "../elsewhere"}).encode()])
def test_a_store_whose_version_can_not_be_read_is_refused(
    address: str, node: Callable[..., RemoteStore], text: bytes, tmp_path: Path
) -> None:
    Bucket(address).write("version.json", text)
    with pytest.raises(UserError, match=f"{address}/version.json"):
        node("here")
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_bucket_is_said(address: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="s3://nowhere/store: there is no bucket nowhere"):
        open_store("s3://nowhere/store", tmp_path)


def test_a_service_that_does_not_answer_is_said(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"s3://bucket/store: .*error sending request.*See that the bucket exists"
    ) as error:
        open_store("s3://bucket/store", tmp_path)
    assert "very-secret" not in str(error.value)


WORDS = [
    "data.synthetic.train=24",
    "data.synthetic.select=8",
    "data.synthetic.val=8",
    "classifier.epochs=1",
    "segmentation.epochs=1",
    "cam.scales=[1.0]",
    "evaluation.scales=[1.0]",
]


def test_a_pipeline_whose_stages_another_node_ran_does_no_work(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, caplog: Any
) -> None:
    def run(name: str) -> tuple[str, list[str]]:
        """What the command says on a node, and the progress of its stages."""
        caplog.clear()
        monkeypatch.setenv("SFC_CACHE", str(tmp_path / name))
        words = [f"data.root={tmp_path / name / 'data'}", *WORDS]
        code = main(["run", "--store", address, "synthetic.yaml", *words])
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out.partition("seed: ")[0], [r.getMessage() for r in caplog.records if r.name == "sfc"]

    monkeypatch.chdir(tmp_path)
    numbers, first = run("here")
    again, second = run("there")
    assert again == numbers and "val/miou" in numbers
    assert sum("working" in line for line in first) == 9 == sum("fetching" in line for line in second)
    assert not any("working" in line for line in second)
    assert not (tmp_path / "results").exists() and "very-secret" not in str([*first, *second])


def test_a_folder_is_opened_without_the_library_of_buckets(tmp_path: Path) -> None:
    code = "import sys, sfc.runtime.stores as s; s.open_store(sys.argv[1]); assert 'obstore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "store")], check=True)
