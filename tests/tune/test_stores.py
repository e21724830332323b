"""A search whose outputs are in a bucket: they are there for a machine that has no copies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.tune.conftest import ROOT, SPACE, TINY, call, command
from tune import final as final_command


@pytest.mark.slow(seconds=40)
def test_a_search_in_a_bucket_leaves_no_work_to_a_machine_without_copies(
    tmp_path: Path, space_file: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFC_CACHE", str(tmp_path / "cache"))
    final = tmp_path / "results" / "final" / "s" / "metrics.json"

    def cached() -> dict[str, str]:
        """Manifests in the cache: the seconds in them differ where work was done again."""
        files = (tmp_path / "cache").glob("*/*/*/manifest.json")
        return {f"{path.parent.parent.name}/{path.parent.name}": path.read_text() for path in files}

    space_file.write_text(SPACE.replace("inner: 3", "inner: 1").replace("seeds: 2", "seeds: 1"))
    words = ["--study", "s", "--store", s3, "--space", str(space_file), "--trials", "1", *TINY]
    process = command(str(ROOT / "tune" / "search.py"), *words, folder=tmp_path)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    made = cached()
    found = json.loads(final.read_text())
    assert not (tmp_path / "results" / "store" / "classifier").exists()
    shutil.rmtree(tmp_path / "cache")
    final.unlink()
    again = call(final_command.main, "--study", "s", "--store", s3, results=tmp_path / "results")
    assert again.code == 0, again.output
    fetched = cached()
    assert json.loads(final.read_text()) == found
    assert fetched.items() <= made.items() and "classifier" in {name.partition("/")[0] for name in fetched}
    assert all(Path(folder).is_dir() for folder in found["folders"].values())
