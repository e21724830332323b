"""Versions of the libraries that compute, and the commit of this project's code."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import tomllib
from pathlib import Path

PROJECT = "sfc-wsss"
ROOT = Path(__file__).resolve().parents[2]
"""Folder that holds the packages `sfc` and `tune`: the top of a checkout, or an environment's site-packages."""


def versions() -> dict[str, str]:
    """`version.NAME` of each library, `version.python`, and `git.commit`."""
    names = (PROJECT, "torch", "torchvision", "ray", "optuna", "mlflow", "numpy")
    libraries = {f"version.{name}": importlib.metadata.version(name) for name in names}
    return libraries | {"version.python": platform.python_version(), "git.commit": commit(ROOT) or "unknown"}


def commit(root: Path) -> str | None:
    """The commit of a checkout of this project, `-dirty` at its end where files differ from it. None where the folder
    is not the top of one: somebody else's repository around an environment has a commit too, but not of this code."""
    project = root / "pyproject.toml"
    if not (root / ".git").exists() or not project.is_file():
        return None
    if tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("name") != PROJECT:
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # git is not installed, or has no commit yet
        return None
