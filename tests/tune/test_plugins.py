"""Methods of one's own and maps of other programs, through the real search, final, report and ablation."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from ray.cluster_utils import Cluster

from sfc.config import plugins
from sfc.config.files import load_config
from sfc.config.values import flat
from sfc.data import Dataset, open_dataset
from sfc.errors import UserError
from sfc.pipeline import Pipeline
from sfc.runtime.engine import LocalEngine
from sfc.runtime.store import Store
from tests.tune.conftest import TINY, Ended, call, join
from tune import ablate, final, report
from tune import search as search_command
from tune.space.space_file import load_space
from tune.study.names import COMPARISON
from tune.study.study import complete, load_study

BASE = "base: synthetic.yaml\nclassifier: {method: 'seam:Seam'}\n"
SPACE = """
base: seam.yaml
parameters:
  classifier.method: {choice: ['seam:Seam', 'quiet:Quiet']}
  classifier.options.er_weight: {uniform: [0.0, 2.0]}
  pseudo.threshold: {uniform: [0.2, 0.6]}
published: {classifier.method: 'seam:Seam', classifier.options.er_weight: 1.0, pseudo.threshold: 0.3}
start:
  - {classifier.method: 'quiet:Quiet', classifier.options.er_weight: 0.5, pseudo.threshold: 0.3}
asha: null
budget: {trials: 2, inner: 2}
confirm: []
compare: {seeds: 1, upper_bound: false}
"""
QUIET = "from seam import Seam\n\n\nclass Quiet(Seam):\n    pass\n"
PLUGINS = ["--plugin", "seam:Seam", "--plugin", "quiet:Quiet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a user's own: a base, a space, and a method in a file beside them."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "seam.yaml").write_text(BASE)
    (folder / "own.yaml").write_text(SPACE)
    (folder / "quiet.py").write_text(QUIET)
    return folder


@pytest.fixture(scope="module")
def search(folder: Path, modules: Path, cluster: Cluster) -> Ended:
    """A search over two methods of one's own, one of them in experiments/plugins/, to the end."""
    (modules / "quiet.py").write_text(QUIET)
    words = ["--space", str(folder / "own.yaml"), "--study", "own", *TINY, "classifier.epochs=1"]
    join(cluster)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(plugins, "_allowed", set())
        return call(search_command.main, *words, f"data.root={folder / 'data'}", results=folder / "results")


@pytest.fixture
def study(search: Ended, folder: Path) -> optuna.Study:
    assert search.code == 0, search.output
    return load_study("own", folder / "results")


@pytest.mark.slow
def test_every_method_and_option_of_ones_own_is_searched(study: optuna.Study) -> None:
    settings = [trial.user_attrs["settings"] for trial in complete(study)]
    assert {s["classifier.method"] for s in settings} == {"seam:Seam", "quiet:Quiet"}
    assert {s["classifier.options.er_weight"] for s in settings} == {1.0, 0.5}


@pytest.mark.slow
def test_losses_and_maps_are_those_of_the_method(study: optuna.Study, folder: Path) -> None:
    for trial in complete(study):
        assert {"er", "ecr", "classification"} <= set(trial.user_attrs["history"][0])
        with np.load(next(Path(trial.user_attrs["maps"]).glob("*.npz"))) as maps:
            assert maps["names"].tolist() == ["seam"]


@pytest.mark.slow
def test_the_final_takes_the_method_to_a_segmentation_model(study: optuna.Study, folder: Path) -> None:
    numbers = json.loads((folder / "results" / "final" / "own" / COMPARISON).read_text())
    best = complete(study)[0]
    [run] = numbers["arms"][numbers["chosen"]]["runs"]
    assert numbers["trial"] == best.number and 0 <= run["metrics"]["val/miou"] <= 1
    classifier = run["config"]["classifier"]
    assert classifier["method"] == best.params["classifier.method"]
    assert classifier["options"]["er_weight"] == best.params["classifier.options.er_weight"]


@pytest.mark.slow
def test_the_source_of_the_method_is_in_the_key_of_what_it_made(study: optuna.Study, folder: Path) -> None:
    manifests = [json.loads(p.read_text()) for p in (folder / "results" / "store").glob("classifier/*/manifest.json")]
    methods = [manifest["settings"]["classifier"]["method"].split() for manifest in manifests]
    assert {name for name, *_ in methods} == {"seam:Seam", "quiet:Quiet", "cam"}, "plain CAM is a reference"
    assert all(name == "cam" or len(digest[0]) == 16 for name, *digest in methods)


@pytest.fixture
def allowed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's folder is the current one; what commands allow is forgotten after the test."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plugins, "_allowed", set())


@pytest.mark.slow
@pytest.mark.usefixtures("study", "allowed")
def test_a_study_imports_code_only_where_the_command_names_it(folder: Path) -> None:
    refused = call(final.main, "--study", "own", results=folder / "results")
    assert refused.code == 2 and "Traceback" not in refused.output
    assert "does not import code by itself; if you trust it, name it on the command line by --plugin" in refused.output
    again = call(final.main, "--study", "own", *PLUGINS, results=folder / "results")
    assert again.code == 0 and "chosen: trial" in again.output, again.output


@pytest.mark.slow
@pytest.mark.usefixtures("study", "allowed")
def test_a_report_on_it_needs_the_same_word(folder: Path) -> None:
    refused = call(report.main, "--study", "own", results=folder / "results")
    assert refused.code == 2 and "by --plugin seam:Seam" in refused.output
    assert call(report.main, "--study", "own", *PLUGINS, results=folder / "results").code == 0
    assert "er_weight" in (folder / "results" / "reports" / "own.html").read_text()


PLAN = """
base: synthetic.yaml
arms:
  SFC: {}
  masks as maps:
    set: {classifier.method: maps, classifier.options.folder: FOLDER, segmentation.start: backbone}
"""


@pytest.mark.slow
@pytest.mark.usefixtures("nodes")
def test_maps_of_another_program_are_an_arm_beside_sfc(tmp_path: Path) -> None:
    words = [*TINY, "classifier.epochs=1", f"data.root={tmp_path / 'data'}"]
    data = open_dataset(load_config("synthetic.yaml", words).data)
    write_masks_as_maps(data, tmp_path / "maps")
    (tmp_path / "plan.yaml").write_text(PLAN.replace("FOLDER", str(tmp_path / "maps")))
    plan = ["--plan", str(tmp_path / "plan.yaml"), "--seeds", "1"]
    done = call(ablate.main, *plan, *words, results=tmp_path / "results")
    assert done.code == 0, done.output
    [file] = (tmp_path / "results" / "ablations").glob("*/numbers.json")
    sfc, maps = (arm["runs"][0]["metrics"] for arm in json.loads(file.read_text())["arms"].values())
    assert maps["seed_val/miou"] > 0.95 > sfc["seed_val/miou"], "maps that are the masks give seeds that are the masks"
    assert maps["pseudo_train/miou"] > 0.5, "and labels near them after the CRF"
    assert 0 <= maps["val/miou"] <= 1
    manifests = (tmp_path / "results" / "store").glob("classifier/*/manifest.json")
    assert sum((file.parent / "model.pt").is_file() for file in manifests) == 1, "maps need no classifier"


def write_masks_as_maps(data: Dataset, folder: Path) -> None:
    """Perfect maps of every image: an .npy file (C, H, W) of zeros and ones."""
    folder.mkdir()
    for name in {name for split in data.split_names() for name in data.ids(split)}:
        mask = data.mask(name)
        channels = [(mask == key).astype(np.float32) for key in range(1, len(data.classes) + 1)]
        np.save(folder / f"{name}.npy", np.stack(channels))


@pytest.fixture
def own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a method `own_cam:Own` in the current folder; what is imported of it is gone after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plugins, "_allowed", set())
    file = tmp_path / "own_cam.py"
    file.write_text("from sfc.method.plain_cam import PlainCam\n\n\nclass Own(PlainCam):\n    pass\n")
    yield file
    sys.modules.pop("own_cam", None)
    plugins._digest.cache_clear()


def test_an_edit_of_the_source_changes_the_key_and_nothing_else_does(own_method: Path) -> None:
    def key() -> str:
        """The name of the classifier's output, as a new process finds it."""
        sys.modules.pop("own_cam", None)
        plugins._digest.cache_clear()
        words = ["data.synthetic.train=12", "data.synthetic.select=4", "data.synthetic.val=4", "data.synthetic.size=32"]
        words += ["classifier.method=own_cam:Own", "classifier.epochs=1", "classifier.crop=32"]
        config = load_config("synthetic.yaml", words)
        return Pipeline(config, Store(Path("store")), LocalEngine(1)).output("classifier").name

    first = key()
    assert key() == first
    own_method.touch()
    assert key() == first
    own_method.write_text(own_method.read_text() + "    # edited\n")
    assert key() != first


METHODS = """
base: synthetic.yaml
parameters:
  classifier.method: {choice: [sfc, cam]}
  classifier.options.prototype_weight: {uniform: [0.0, 2.0], when: {classifier.method: sfc}}
  classifier.lr: {uniform: [0.01, 0.1]}
published: {classifier.method: sfc, classifier.options.prototype_weight: 1.6, classifier.lr: 0.05}
start:
  - {classifier.method: cam, classifier.lr: 0.05}
"""


def test_a_space_over_methods_builds_a_configuration_for_each(tmp_path: Path) -> None:
    (tmp_path / "methods.yaml").write_text(METHODS)
    space = load_space(str(tmp_path / "methods.yaml"), overrides=["classifier.options.scale_weight=0.4"])
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    configs = [space.config(space.suggest(asked.ask())) for _ in range(20)]
    options = {config.classifier.method: flat(config.classifier.options) for config in configs}
    assert options.keys() == {"sfc", "cam"}
    assert options["cam"] == {}, "the options of the base's method are gone"
    assert options["sfc"]["scale_weight"] == 0.4 and options["sfc"]["prototype_weight"] != 1.6


def test_an_option_that_one_of_the_searched_methods_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "methods.yaml").write_text(
        METHODS.replace(", when: {classifier.method: sfc}", "").replace(
            "{classifier.method: cam, ", "{classifier.method: cam, classifier.options.prototype_weight: 1.0, "
        )
    )
    with pytest.raises(
        UserError, match=r"methods\.yaml:5: unknown parameter classifier\.options\.prototype_weight of the method cam"
    ):
        load_space(str(tmp_path / "methods.yaml"))
