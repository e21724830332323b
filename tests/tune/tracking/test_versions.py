"""The commit that results name is this project's, or none."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.tune.conftest import ROOT
from tune.tracking.versions import commit, versions


def checkout(folder: Path, project: str) -> str:
    """Make a repository with one commit, whose pyproject.toml names a project; returns the commit."""
    folder.mkdir(exist_ok=True)
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{project}"\n')
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_a_checkout_of_this_project_has_its_commit_and_says_whether_files_differ(tmp_path: Path) -> None:
    made = checkout(tmp_path, "sfc-wsss")
    assert commit(tmp_path) == made[:12]
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "sfc-wsss"\nversion = "2"\n')
    assert commit(tmp_path) == f"{made[:12]}-dirty"


def test_a_commit_of_somebody_elses_repository_is_not_taken(tmp_path: Path) -> None:
    checkout(tmp_path, "another")
    assert commit(tmp_path) is None
    packages = tmp_path / "env" / "lib" / "site-packages"
    packages.mkdir(parents=True)
    assert commit(packages) is None, "an environment in a repository"
    (packages / "pyproject.toml").write_text('[project]\nname = "sfc-wsss"\n')
    assert commit(packages) is None, "a copy of this project in another one's repository"


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout(tmp_path, "sfc-wsss")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(tmp_path) is None


def test_every_library_has_its_version() -> None:
    found = versions()
    assert {"version.torch", "version.ray", "version.python"} <= found.keys()
    if (ROOT / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?", found["git.commit"])
