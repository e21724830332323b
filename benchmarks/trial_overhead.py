"""What Ray and MLflow add to a trial: python benchmarks/trial_overhead.py. The same trials bare and searched.

Counted from the second trial on, since the first also starts processes. One trial runs at a time, on one core.
"""

import tempfile
import time
from pathlib import Path

import ray
import torch
from rich.console import Console

from sfc.pipeline import Pipeline
from sfc.runtime.engine import LocalEngine
from sfc.runtime.store import Store
from sfc.terminal import set_up_logging
from tune import search
from tune.cluster.connect import OBJECT_STORE
from tune.space.space_file import load_space
from tune.study.objective import everything
from tune.study.study import complete, load_study, values_of

TRIALS = 6
SPACE = """
base: synthetic.yaml
parameters: {classifier.options.prototype_weight: {uniform: [0.5, 2.0]}}
published: {classifier.options.prototype_weight: 1.6}
asha: null
budget: {trials: %d}
"""
SETTINGS = ["classifier.epochs=2", "data.synthetic.train=400", "data.synthetic.select=100", "segmentation.epochs=1"]


def main() -> None:
    set_up_logging()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "space.yaml").write_text(SPACE % TRIALS)
        ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=OBJECT_STORE, log_to_driver=False)
        words = ["--space", str(folder / "space.yaml"), "--study", "s", "--results", str(folder / "results")]
        options = search.parser().parse_intermixed_args([*words, *SETTINGS])
        options.words = words
        space = load_space(options.space, None, options.overrides)
        search.search(options, Console(quiet=True), final=False)
        study = load_study("s", folder / "results")
        trials = sorted(complete(study), key=lambda t: t.number)
        ends = [t.user_attrs["started"] + t.user_attrs["seconds"] for t in trials]
        searched = (ends[-1] - ends[0]) / (TRIALS - 1)
        seconds = []
        for trial in trials:
            begin = time.monotonic()
            pipeline = Pipeline(space.config(values_of(trial)), Store(folder / "bare"), LocalEngine(1))
            everything(pipeline, space.file.objective)
            seconds.append(time.monotonic() - begin)
        bare = sum(seconds[1:]) / (TRIALS - 1)
    print(f"{TRIALS - 1} trials: bare {bare:.2f} s each, searched {searched:.2f} s each (from end to end)")
    print(f"Ray and MLflow add {searched - bare:+.2f} s a trial, {100 * (searched / bare - 1):+.1f} %")


if __name__ == "__main__":
    main()
