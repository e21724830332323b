"""A search under SIGKILL: benchmarks/kills.py with few kills."""

from pathlib import Path

import pytest

from benchmarks.kills import KINDS, faults, run


@pytest.mark.slow(seconds=200)
def test_a_search_that_is_killed_loses_nothing_and_does_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(tmp_path, len(KINDS), seed=1) == 0, capsys.readouterr().out
    output = capsys.readouterr().out
    assert all(f"1 {kind}" in output for kind in KINDS)
    assert output.count(": 0\n") == 6


def test_a_half_written_stage_is_seen(tmp_path: Path) -> None:
    stage = tmp_path / "maps" / "0"
    stage.mkdir(parents=True)
    (stage / "manifest.json").write_text("{}")
    (stage / "a.npz").write_bytes(b"PK half")
    assert any("a.npz" in fault for fault in faults(stage))
    assert any("maps are missing" in fault for fault in faults(stage))
