"""Code of one's own by import path: what is found, what is refused, and in which words."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sfc.config.files
from sfc.config import plugins
from sfc.errors import UserError

Write = Callable[..., str]


@pytest.fixture(autouse=True)
def clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is allowed at first, and what a test imports or adds to sys.path is gone after it."""
    monkeypatch.setattr(plugins, "_allowed", set())
    monkeypatch.setattr(sys, "path", [*sys.path])
    plugins._digest.cache_clear()
    yield
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module into the current folder or another one and returns its name."""
    monkeypatch.chdir(tmp_path)

    def make(text: str, name: str = "own_code", folder: Path = tmp_path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        return name

    return make


def load(path: str) -> object:
    plugins.allow(path)
    return plugins.load(path)


def refusal(path: str) -> str:
    with pytest.raises(UserError) as caught:
        load(path)
    return str(caught.value)


@pytest.mark.parametrize("text", ["a:b", "a.b:C", "_x.y1:_z", "é:ü"])
def test_import_paths_are_recognised(text: str) -> None:
    assert plugins.is_path(text)


@pytest.mark.parametrize(
    "text", ["", "a", ":", "a:", ":b", "a.b", "a:b:c", "a:b.c", "a..b:c", "a b:c", "1a:b", "a/b:c"]
)
def test_other_texts_are_none_and_can_not_be_allowed_or_loaded(text: str) -> None:
    assert not plugins.is_path(text)
    for refuse in (plugins.allow, plugins.load, plugins.source_digest):
        with pytest.raises(UserError, match="not an import path of the form module:name"):
            refuse(text)


def test_a_module_is_found_on_sys_path_in_the_current_folder_and_in_plugins(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sfc.config.files, "EXPERIMENTS", tmp_path / "experiments")
    write("WHERE = 'here'\n", "own_here")
    write("WHERE = 'plugins'\n", "own_plugin", tmp_path / "experiments" / "plugins")
    write("WHERE = 'path'\n", "own_on_path", tmp_path / "path")
    monkeypatch.syspath_prepend(tmp_path / "path")
    assert [load(f"{m}:WHERE") for m in ("own_here", "own_plugin", "own_on_path")] == ["here", "plugins", "path"]
    assert load("collections.abc:Mapping").__name__ == "Mapping"


def test_a_module_finds_its_neighbours_when_it_is_called(write: Write) -> None:
    write("VALUE = 7\n", "own_neighbour")
    write("def value():\n    import own_neighbour\n    return own_neighbour.VALUE\n")
    assert load("own_code:value")() == 7


def test_nothing_is_imported_that_was_not_allowed(write: Write, tmp_path: Path) -> None:
    write("from pathlib import Path\nPath('trace').touch()\nx = y = 1\n")
    plugins.allow("own_code:x")
    for path in ("own_code:y", "other:x", "own_code.x:x"):
        for use in (plugins.load, plugins.source_digest):
            with pytest.raises(UserError, match=rf"does not import code by itself.*--plugin {path}$"):
                use(path)
    assert not (tmp_path / "trace").exists()
    assert plugins.load("own_code:x") == 1 and (tmp_path / "trace").exists()


def test_what_is_missing_is_named(write: Write, tmp_path: Path) -> None:
    write("import os\n\ndef build(): ...\n\n_hidden = 1\n")
    message = refusal("own_cod:build")
    assert "there is no module own_cod " in message and str(tmp_path) in message and "plugins" in message
    assert "there is no module own_package" in refusal("own_package.inner:build")
    assert f"{tmp_path}/own_code.py has no built; it has os, build" in refusal("own_code:built")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\nraise ValueError('no such\\nthing')\n", "failed: ValueError: no such"),
        ("x = 1 +\n", "failed: SyntaxError: invalid syntax (TMP/own_code.py:1)"),
        (
            "\nimport no_such_library\n",
            "failed: ModuleNotFoundError: No module named 'no_such_library' (TMP/own_code.py:2)",
        ),
        ("x = 1\nx / 0\n", "failed: ZeroDivisionError: division by zero (TMP/own_code.py:2)"),
        ("import sys\nsys.exit(3)\n", "failed: SystemExit: 3 (TMP/own_code.py:2)"),
        ("from sfc.errors import UserError\nraise UserError('pip install x')\n", "pip install x"),
    ],
)
def test_an_import_that_fails_says_its_last_line_and_where(write: Write, tmp_path: Path, text: str, words: str) -> None:
    write(text)
    for _ in range(2):
        assert words.replace("TMP", str(tmp_path)) in refusal("own_code:x")


def test_the_digest_follows_the_source_that_was_imported(write: Write) -> None:
    digests = []
    for name, text in (("own_one", "x = 1\n"), ("own_two", "x = 2\n"), ("own_same", "x = 1\n")):
        write(text, name)
        plugins.allow(f"{name}:x")
        digests.append(plugins.source_digest(f"{name}:x"))
    assert digests[0] == digests[2] != digests[1] and {len(d) for d in digests} == {16}
    write("x = 3\n", "own_one")
    assert plugins.source_digest("own_one:x") == digests[0] and plugins.load("own_one:x") == 1


def test_a_module_without_source_has_no_digest() -> None:
    plugins.allow("math:sin")
    assert plugins.load("math:sin")(0) == 0
    with pytest.raises(UserError, match="no source file"):
        plugins.source_digest("math:sin")


def test_the_module_is_light() -> None:
    code = "import sys, sfc.config.plugins; assert not {'torch', 'PIL', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_data_section_that_was_pickled_lets_another_process_import_its_format() -> None:
    """Ray sends configurations to processes that have read no file of the user's."""
    config = sfc.config.files.load_config("synthetic.yaml", ["data.format=own_format_elsewhere:folder"])
    code = (
        "import pickle, sys; from sfc.config import plugins; from sfc.errors import UserError\n"
        "path = pickle.loads(sys.stdin.buffer.read()).format\n"
        "try: plugins.load(path)\n"
        "except UserError as error: print(error)"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, input=pickle.dumps(config.data), capture_output=True, check=True)
    assert "there is no module own_format_elsewhere" in done.stdout.decode()
