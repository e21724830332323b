"""A generated data set so small that a trial takes a second."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "classifier.epochs=3",
    "classifier.precision=fp32",
    "cam.scales=[1.0]",
    "cam.precision=fp32",
    "segmentation.epochs=1",
    "segmentation.precision=fp32",
    "evaluation.scales=[1.0]",
    "data.synthetic.train=48",
    "data.synthetic.select=12",
    "data.synthetic.val=12",
]
SPACE = """
base: synthetic.yaml
parameters:
  classifier.prototype_weight: {uniform: [0.0, 2.0]}
  classifier.lr: {choice: [0.05, 1.0e+30]}
  pseudo.fusion: {uniform: [0.0, 1.0]}
published: {classifier.prototype_weight: 1.6, classifier.lr: 0.05, pseudo.fusion: 0.7}
start:
  - {classifier.prototype_weight: 0.4, classifier.lr: 1.0e+30, pseudo.fusion: 0.7}
asha: {grace: 1, reduction: 2}
budget: {trials: 4, inner: 3}
final: {top: 2, seeds: 2}
"""


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE)
    return path


def command(*words: str, folder: Path) -> subprocess.Popen:
    """Start a command of the project in `folder`, in a process group of its own."""
    (folder / "results").mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=environment | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
