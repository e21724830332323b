"""Pages of docs/ do what they say: their code runs, their links and the names of files in them exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sfc
from sfc.config import plugins
from sfc.pipeline import Pipeline
from sfc.runtime.engine import LocalEngine
from sfc.runtime.store import Store
from tune.space.sections import Objective
from tune.study.objective import measure

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "experiments").rglob("*.md")]


def code(page: Path) -> str:
    """The Python blocks of a page as one program, each line at its number in the page."""
    lines, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = line.startswith("```")
        lines.append(line if inside and not fence else "")
        inside = line == "```python" if fence else inside
    return "\n".join(lines)


@pytest.mark.slow(seconds=50)
def test_the_page_on_python_runs(tmp_path: Path) -> None:
    page = ROOT / "docs" / "python.md"
    program = f"exec(compile({code(page)!r}, {str(page)!r}, 'exec'))"
    environment = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unknown setting classifier.epoch; did you mean classifier.epochs?" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"results"}


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the modules of the pages on code of one's own, each named by its first line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    names = set()
    for page in (ROOT / "CONTRIBUTING.md", ROOT / "docs" / "methods.md"):
        for name, text in re.findall(r"```python\n# (\w+)\.py\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            (tmp_path / f"{name}.py").write_text(text)
            names.add(name)
    assert names == {"pooled", "worst_class", "by_class"}
    yield tmp_path
    for name in names:
        sys.modules.pop(name, None)
    plugins._digest.cache_clear()


def test_the_example_of_a_method_trains_and_that_of_an_objective_judges_it(examples: Path) -> None:
    sizes = {"train": 16, "select": 8, "val": 4, "size": 32, "groups": 2}
    words = [f"data.synthetic.{name}={value}" for name, value in sizes.items()]
    words += ["classifier.method=pooled:Pooled", "classifier.options.sharpness=2.0", "classifier.epochs=1"]
    pipeline = Pipeline(sfc.load_config("synthetic.yaml", words), Store(examples / "store"), LocalEngine(1))
    plugins.allow("worst_class:worst")
    result = measure(pipeline, Objective(metric="worst_class:worst"))
    assert (
        0
        <= result.metrics["worst_class:worst"]
        <= sfc.run(pipeline.config, examples, until="seed").metrics["seed/miou"]
    )


def test_the_example_of_a_data_format_makes_a_data_set(examples: Path) -> None:
    for split in ("train", "select", "val"):
        for number, name in enumerate(("cat", "dog")):
            file = examples / "pictures" / split / name / "one.jpg"
            file.parent.mkdir(parents=True)
            Image.fromarray(np.full((32, 40, 3), 40 * number + len(split), np.uint8)).save(file)
    words = ["data.format=by_class:build", f"data.root={examples / 'pictures'}"]
    config = sfc.load_config("folder.yaml", words)
    for _ in range(2):
        data = sfc.open_dataset(config.data)
        assert data.classes == ("cat", "dog") and data.label_source == "csv"
        assert data.split("select").labels.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_exists(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    files = re.findall(r"`((?:sfc|tune|tests|benchmarks|experiments)/[\w/.-]+)`", text)
    assert not [file for file in files if not (ROOT / file).exists()]
