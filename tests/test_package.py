"""What is installed: a wheel that works without a checkout, and dependencies that are those of the code."""

from __future__ import annotations

import ast
import os
import re
import site
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml

from tests.tune.conftest import TINY

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {
    "PIL": "pillow",
    "grpc": "grpcio",
    "markdown_it": "markdown-it-py",
    "pydantic_core": "pydantic",  # a part of it, of a version that pydantic fixes
    "pydensecrf": "pydensecrf2",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Distributions by the name that is imported, where the two differ."""
INDIRECT = {"tabulate"}
"""Distributions that another one imports when it is asked to: pandas, to write Markdown."""
TOOLS = {"hatchling", "mypy", "pandas-stubs", "pytest-xdist", "ruff", "types-pyyaml"}
"""Distributions that are run and not imported."""


def imported(folders: Iterable[str]) -> set[str]:
    """Distributions whose modules are imported anywhere below the folders."""
    names: set[str] = set()
    beside: set[str] = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        beside.add(path.stem)  # benchmarks import their neighbours by bare names
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(str(node.module).split(".")[0])
    own = {"sfc", "tune", "tests", "benchmarks"} | beside
    return {DISTRIBUTIONS.get(name, name) for name in names - own - set(sys.stdlib_module_names)}


def declared(requirements: Iterable[str]) -> set[str]:
    """Names of the distributions that requirements such as `ray[tune]>=2` name."""
    return {re.split(r"[^\w.-]", text)[0].lower() for text in requirements}


EXTRAS = {name: declared(texts) for name, texts in PROJECT["optional-dependencies"].items()}
DEVELOPMENT = EXTRAS.pop("dev")
RUNTIME = declared(PROJECT["dependencies"]).union(*EXTRAS.values())


def test_every_import_of_the_packages_is_declared_and_nothing_else() -> None:
    assert imported(["sfc", "tune", "experiments"]) == RUNTIME - INDIRECT


def test_every_import_of_tests_and_benchmarks_is_declared_and_nothing_else() -> None:
    optional: set[str] = set().union(*EXTRAS.values())  # which tests need too
    assert (imported(["tests", "benchmarks"]) - RUNTIME) | TOOLS == DEVELOPMENT - optional


def test_documents_name_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"] and citation["cff-version"] == "1.2.0"
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def build(target: str, source: Path, folder: Path) -> Path:
    """Build a wheel or an sdist of a source tree into a folder; returns its file."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(words, cwd=source, check=True, capture_output=True)
    [file] = folder.iterdir()
    return file


def test_the_wheel_holds_every_file_of_the_packages_and_experiments(tmp_path: Path) -> None:
    with zipfile.ZipFile(build("wheel", ROOT, tmp_path)) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [
        path.relative_to(ROOT).as_posix()
        for folder in ("sfc", "tune", "experiments")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert names == {re.sub("^experiments/", "sfc/experiments/", file) for file in files}
    assert {"sfc/py.typed", "tune/py.typed", "tune/evidence/templates/report.html"} <= names


def test_the_source_archive_builds_the_same_wheel(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = tmp_path.glob("sfc_wsss-*")
    wheels = [build("wheel", tree, tmp_path / f"wheel{i}") for i, tree in enumerate((ROOT, source))]
    with zipfile.ZipFile(wheels[0]) as first, zipfile.ZipFile(wheels[1]) as second:
        assert {f.filename: f.CRC for f in first.infolist()} == {f.filename: f.CRC for f in second.infolist()}


@pytest.fixture
def sfc(tmp_path: Path) -> Callable[..., str]:
    """Runs the command `sfc` of the wheel, in an environment of its own and far from this checkout."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    wheel = build("wheel", ROOT, tmp_path / "wheel")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    [packages] = (tmp_path / "venv").glob("lib/python*/site-packages")
    # The dependencies are those of this environment. Their folder's own .pth files, such as an editable install's, are
    # not read.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    (tmp_path / "elsewhere").mkdir()

    def run(*words: str) -> str:
        command = [str(python.with_name("sfc")), *words]
        done = subprocess.run(
            command, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


SPACE = """
base: synthetic.yaml
parameters:
  classifier.options.smoothing: {uniform: [0.0, 0.2]}
published: {classifier.options.smoothing: 0.1}
asha: null
budget: {trials: 1, inner: 0}
confirm: []
compare: {seeds: 1, upper_bound: false}
"""
METHOD = """
from sfc import Section
from sfc.method.plain_cam import PlainCam


class Options(Section):
    smoothing: float = 0.0


class Smooth(PlainCam):
    Options = Options

    def __init__(self, backbone, training, options):
        super().__init__(backbone, training, options)
        self.smoothing = options.smoothing

    def step(self, crop, progress):
        return super().step(crop._replace(label=crop.label * (1 - self.smoothing)), progress)
"""


@pytest.mark.slow(seconds=90)
def test_the_wheel_works_without_a_checkout(sfc: Callable[..., str], tmp_path: Path) -> None:
    assert "search" in sfc("--help")
    assert "format: synthetic" in sfc("show", "synthetic.yaml")
    assert "method: seam:Seam" in sfc("show", "synthetic.yaml", "classifier.method=seam:Seam"), "the example is in it"
    results, folder = tmp_path / "results", tmp_path / "elsewhere"
    tiny = [*TINY, "classifier.epochs=1", "data.synthetic.size=32", f"data.root={tmp_path / 'data'}"]
    assert "val/miou" in sfc("run", "--results", str(results), "synthetic.yaml", *tiny)
    assert len(list((results / "store" / "evaluation").glob("*/manifest.json"))) == 1
    assert not list(folder.iterdir())

    (folder / "own.yaml").write_text(SPACE)
    (folder / "smooth.py").write_text(METHOD)
    words = ["--space", "own.yaml", "--study", "own", "--results", str(results), "classifier.method=smooth:Smooth"]
    assert "chosen: trial 0, which is the published setting" in sfc("search", *words, *tiny)
    kept = results / "final" / "own" / "best.yaml"
    method = "cam" if kept.read_text().startswith("# plain CAM") else "smooth:Smooth"
    assert f"method: {method}" in sfc("show", str(kept))
