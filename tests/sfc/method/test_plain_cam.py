"""Plain CAM through all stages by the command, as any method."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfc.__main__ import main
from sfc.runtime.map_files import load_maps
from tests.tune.conftest import TINY


@pytest.mark.slow
def test_plain_cam_runs_to_a_segmentation_model(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["synthetic.yaml", "classifier.method=cam", *TINY, "classifier.epochs=1"]
    assert main(["run", *words, f"data.root={tmp_path / 'data'}", "--results", str(tmp_path)]) == 0
    assert "val/miou" in capsys.readouterr().out
    stages = {path.parent.parent.name for path in (tmp_path / "store").glob("*/*/manifest.json")}
    assert stages == {"classifier", "maps", "seeds", "labels", "segmentation", "evaluation"}
    file = next((tmp_path / "store" / "maps").glob("*/*.npz"))
    assert list(load_maps(file).maps) == ["classifier"]
