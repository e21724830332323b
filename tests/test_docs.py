"""Pages of docs/ do what they say: their code runs, their links and the names of files in them exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_the_page_on_python_runs(tmp_path: Path) -> None:
    page = ROOT / "docs" / "python.md"
    program = f"exec(compile({code(page)!r}, {str(page)!r}, 'exec'))"
    environment = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unknown setting classifier.epoch; did you mean classifier.epochs?" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"results"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_exists(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    files = re.findall(r"`((?:sfc|tune|tests|benchmarks|experiments)/[\w/.-]+)`", text)
    assert not [file for file in files if not (ROOT / file).exists()]
