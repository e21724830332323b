"""Every YAML file under experiments/: a test loads it, and its head says what a reader needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfc.config.files import EXPERIMENTS

FILES = sorted(EXPERIMENTS.rglob("*.yaml"))
LOADED = {
    ".": "sfc/config/test_files.py",
    "ablations": "tune/space/test_plan_file.py",
    "cluster": "tune/cluster/test_cluster_files.py",
    "spaces": "tune/space/test_space_file.py",
}
"""The test file that loads every YAML file of a folder, by folder."""


def relative(path: Path) -> str:
    return str(path.relative_to(EXPERIMENTS))


def test_the_files_of_every_folder_are_loaded_by_a_test() -> None:
    assert {str(path.parent.relative_to(EXPERIMENTS)) for path in FILES} == LOADED.keys()
    assert all((Path(__file__).parents[1] / file).is_file() for file in LOADED.values())


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_the_head_of_a_file_says_what_it_is_how_to_run_it_what_to_expect_and_its_cost(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    assert comment[0].startswith("# What: ")
    for entry in ("Command", "Expected", "Cost"):
        assert any(line.startswith(f"# {entry}") for line in comment), f"{entry} is missing"
