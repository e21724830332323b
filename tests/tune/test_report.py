"""The report: it stands alone, says what the study says, and nothing more."""

import base64
import functools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from PIL import Image

from sfc.config.files import change_config, load_config
from sfc.pipeline import Pipeline
from sfc.runtime.engine import LocalEngine
from sfc.runtime.store import Store
from sfc.scoring.tally import Tally
from tests.tune.conftest import TINY
from tests.tune.evidence.test_tables import ablation
from tune import report
from tune.evidence import tables
from tune.evidence.page import page as page_of
from tune.runs.ablation import write_tables
from tune.study.study import storage_at

EVIL = '<img src="http://evil.example/x.png" onerror=alert(1)> & $\\frac$'
NAME = 'a study"><script src="http://evil.example/x.js"></script>'
WEIGHTING = CategoricalDistribution(["pairwise", EVIL])
SPACES = {
    "classifier.options.prototype_weight": FloatDistribution(0.1, 2.0, log=True),
    "classifier.options.weighting": WEIGHTING,
    "classifier.options.beta": FloatDistribution(0.0, 1.0),
}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "img", "br", "wbr", "link", "hr", "input"}


class Page(HTMLParser):
    """Tags that open and close, what they refer to, the text, and the cells of each table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.texts: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.alts: list[str] = []
        self.labels: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        assert not [name for name in found if name.startswith("on")]
        self.references += [found[name] or "" for name in ("src", "href", "srcset", "data", "action") if name in found]
        if tag == "img":
            self.alts.append(found.get("alt") or "")
        if found.get("aria-label"):
            self.labels.append(found["aria-label"] or "")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            assert "url(" not in data and "@import" not in data
            return
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def with_column(self, name: str) -> list[list[str]]:
        """Rows of the first table with a column of that name."""
        return next(t[1:] for t in self.tables if t and name in t[0])

    def table(self, *head: str) -> list[list[str]]:
        """Rows of the first table whose head begins so."""
        return next(t[1:] for t in self.tables if t and [c.split("\n")[0] for c in t[0]][: len(head)] == list(head))


def trial(state: TrialState, value: float | None, **given: Any) -> optuna.trial.FrozenTrial:
    params = given.pop("params")
    spaces = {name: SPACES[name] for name in params}
    previews = given.pop("previews", {})
    return create_trial(
        state=state, value=value, params=params, distributions=spaces, user_attrs=given, intermediate_values=previews
    )


def numbers(value: float, proxy: float) -> dict[str, float]:
    return {
        "seed/best_miou": value,
        "seed/best_miou_tail": value - 0.1,
        "seed/best_threshold": 0.3,
        "seed/miou": value - 0.02,
        "proxy/map_agreement": proxy,
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny data set, and the maps of two settings over it, made by the real stages."""
    root = tmp_path_factory.mktemp("base")
    config = load_config("synthetic.yaml", [*TINY, "classifier.epochs=1", f"data.root={root / 'data'}"])
    maps, history = {}, {}
    for weight in (1.6, 0.4):
        engine = LocalEngine(1)
        pipeline = Pipeline(
            change_config(config, {"classifier.options.prototype_weight": weight}), Store(root / "store"), engine
        )
        maps[weight] = str(pipeline.output("maps", "select"))
        history[weight] = json.loads((pipeline.output("classifier") / "history.json").read_text())
    return {
        "config": change_config(config, {"classifier.epochs": 3}),
        "maps": maps,
        "history": history,
        "classes": len(pipeline.data.classes),
    }


def build(folder: Path, base: dict[str, Any], name: str, *, full: bool = True, data: str | None = None) -> optuna.Study:
    """A study in a real storage, as a search leaves it."""
    config = base["config"] if data is None else change_config(base["config"], {"data.format": "folder"})
    values = config.model_dump(mode="json")
    values["data"]["root"] = data or values["data"]["root"]
    made = optuna.create_study(study_name=name, storage=storage_at(folder), direction="maximize")
    made.set_user_attr("metric", "seed/best_miou")
    made.set_user_attr("split", "select")
    made.set_user_attr("base", values)
    published = {"classifier.options.prototype_weight": 1.6, "classifier.options.weighting": "pairwise"}
    made.set_user_attr("published", published)
    space = {
        "base": "synthetic.yaml",
        "parameters": {
            "classifier.options.prototype_weight": {"uniform": [0.0, 2.0]},
            "classifier.options.weighting": {"choice": ["pairwise", EVIL]},
            "classifier.options.beta": {"choice": [0.9]},
            "pseudo.fusion": {"uniform": [0.0, 1.0]},
        },
        "published": published | {"pseudo.fusion": 0.7},
    }
    made.set_user_attr("space", space)
    made.set_user_attr("command", "python tune/search.py --space 'a <b>.yaml'")
    made.set_user_attr("commit", "0123456789ab")
    made.set_user_attr("identity", {})
    rows = [(1.6, 0.50), (0.4, 0.62), (0.8, 0.55), (1.2, 0.53), (1.9, 0.45)] if full else []
    for weight, value in rows:
        params: dict[str, Any] = {
            "classifier.options.prototype_weight": weight,
            "classifier.options.weighting": "pairwise",
        }
        if weight == 0.8:
            params |= {"classifier.options.weighting": EVIL, "classifier.options.beta": 0.9}
        attrs: dict[str, Any] = {"metrics": numbers(value, value / 2), "epoch": 3, "seconds": 6.0}
        attrs["iou"] = {"seed": [0.9] + [value] * base["classes"]}
        inner = [(0.7, value - 0.03), (0.5, value - 0.01), (0.2, value)]
        attrs |= {
            "supervision": dict.fromkeys(attrs["metrics"], "image-labels") | {"seed/best_miou": "same masks"},
            "inner": [
                {"values": {"pseudo.fusion": fusion}, "first": v, "value": v, "metrics": {"seed/best_miou": v}}
                for fusion, v in inner
            ],
            "settings": params | {"pseudo.fusion": 0.2},
            "maps": base["maps"].get(weight, "/nowhere"),
            "history": base["history"].get(weight, []),
        }
        previews = {1: value - 0.2, 3: value}
        made.add_trial(trial(TrialState.COMPLETE, value, params=params, previews=previews, **attrs))
    for weight in (0.2, 0.3):
        params = {"classifier.options.prototype_weight": weight, "classifier.options.weighting": EVIL}
        stopped = {"epoch": 1, "seconds": 2.0, "previews": {1: 0.99}}
        made.add_trial(trial(TrialState.PRUNED, None, params=params, **stopped))
    params = {"classifier.options.prototype_weight": 0.11, "classifier.options.weighting": "pairwise"}
    made.add_trial(trial(TrialState.FAIL, None, params=params, epoch=1, seconds=1.0, reason=f"diverged {EVIL}"))
    return made


@pytest.fixture
def make(tmp_path: Path, base: dict[str, Any]) -> Callable[..., optuna.Study]:
    return functools.partial(build, tmp_path, base)


def scored(folder: Path, wrong: int, seed: int, channels: int) -> dict[str, float]:
    """A stage's output with the counts of eight images, each with so many of 64 pixels wrong. Returns its numbers."""
    tally, rng = Tally(channels), np.random.default_rng(seed)
    for i in range(8):
        truth = rng.integers(0, channels, (8, 8)).astype(np.uint8)
        predicted = truth.copy()
        predicted.flat[: wrong + seed % 2] = 0
        tally.add(f"image {i}", truth, predicted)
    folder.mkdir(parents=True)
    tally.write(folder, np.arange(channels - 1, 0, -1))
    return json.loads((folder / "metrics.json").read_text())


def compared(folder: Path, study: optuna.Study, classes: int) -> None:
    """Confirmation of three trials on two seeds, and a comparison in which the choice is far better than plain CAM, and
    than the published setting on one seed of three."""
    place = folder / "final" / study.study_name
    counts, names = list(range(classes, 0, -1)), ["background", *(f"class {i}" for i in range(classes))]
    common = {"plan": study.study_name, "commit": "0", "torch": "0", "classes": names, "counts": counts, "command": "c"}
    metric = "seed/best_miou"
    place.mkdir(parents=True)
    arms: dict[str, Any] = {}
    for number, values in ((1, (0.60, 0.58)), (2, (0.50, 0.60)), (0, (0.40, 0.39))):
        runs = [{"seed": s, "metrics": {metric: v}} for s, v in zip((11, 12), values, strict=True)]
        arms[f"trial {number}"] = {"changes": {}, "runs": runs}
    numbers = common | {"reference": "trial 1", "seeds": [11, 12], "arms": arms, "metric": metric}
    (place / "confirmation_1.json").write_text(json.dumps(numbers | {"search": dict.fromkeys(arms, 0.62)}))
    study.set_user_attr("chosen", 1)

    arms = {}
    for arm, wrong in {"published": (10, 10, 40), "plain CAM": (30, 31, 30), "chosen": (10, 10, 10)}.items():
        runs = []
        for seed, pixels in zip((13, 14, 15), wrong, strict=True):
            out = place / "out" / arm / str(seed)
            found = scored(out, pixels, seed, classes + 1)
            iou = found.pop("iou")
            metrics = {f"val/{k}": v for k, v in found.items()} | {metric: 0.5}
            runs.append(
                {
                    "seed": seed,
                    "metrics": metrics,
                    "supervision": dict.fromkeys(metrics, "held-out masks"),
                    "iou": {"val": iou},
                    "folders": {"val": str(out)},
                    "warnings": [f"segmentation model: {EVIL}"] if (arm, seed) == ("plain CAM", 13) else [],
                }
            )
        arms[arm] = {"changes": {}, "runs": runs}
    numbers = common | {"reference": "published", "seeds": [13, 14, 15], "arms": arms, "metric": metric}
    numbers |= {"chosen": "chosen", "kept": "chosen", "trial": 1, "whole": True}
    (place / "comparison.json").write_text(json.dumps(numbers))
    write_tables(place, numbers)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory, base: dict[str, Any]) -> str:
    """The page of a study with everything."""
    folder = tmp_path_factory.mktemp("all")
    study = build(folder, base, NAME)
    compared(folder, study, base["classes"])
    return page_of(study, folder, "python tune/report.py")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_stands_alone_and_what_is_hostile_stays_text(html: str, page: Page) -> None:
    assert page.references and all(re.match(r"data:image/(svg\+xml|png);base64,|#", r) for r in page.references)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert NAME in page.text and EVIL.split(" & ")[0] in page.text
    assert all(page.alts)
    anchors = [r for r in page.references if r.startswith("#")]
    assert anchors and all(f'id="{anchor[1:]}"' in html for anchor in anchors)
    for source in page.references:
        if source.startswith("data:image/svg"):
            for element in ElementTree.fromstring(base64.b64decode(source.split(",")[1])).iter():
                assert element.tag.split("}")[1] not in ("script", "image", "a", "foreignObject")
                assert all(v.startswith("#") for k, v in element.attrib.items() if k.split("}")[-1] == "href")
                assert not any(re.search(r"url\((?!#)", value) for value in element.attrib.values())


def test_the_first_thing_is_the_answer(html: str) -> None:
    answer = Page(html[html.index('<div class="answer">') : html.index("</div>") + 6]).text
    assert answer.index("no difference shown in segmentation, val, 3 seeds") < answer.index("Chosen is trial 1")
    assert "chosen is better than plain CAM in segmentation, val, 3 seeds" in answer
    assert "by the mean of seed/best_miou over further seeds" in answer and "95 % over seeds: +" in answer
    assert "8 trials: 5 in full, 2 stopped early, 1 failed" in answer


def test_without_a_comparison_the_answer_says_that_there_is_none(
    make: Callable[..., optuna.Study], tmp_path: Path
) -> None:
    html = page_of(make("alone"), tmp_path)
    answer = Page(html[html.index('<div class="answer">') : html.index("</div>") + 6]).text
    assert "Trial 1 has the best single number: seed/best_miou 0.6200 on the split select ( same masks )" in answer
    assert "no comparison with plain CAM and the published setting has been made" in answer
    assert "tune/final.py --study alone" in Page(html).text


def test_the_confirmation_says_what_can_be_told_apart(page: Page) -> None:
    rows = {row[0]: row for row in page.with_column("told apart")}
    assert list(rows) == ["1", "2", "0"] and rows["1"][-1] == ""
    assert (rows["2"][-1], rows["0"][-1]) == ("no", "yes")
    assert rows["1"][2:5] == ["0.6000", "0.5800", "0.5900"]


def test_warnings_of_outputs_that_cannot_be_meant_stand_in_the_comparison(page: Page) -> None:
    assert f"plain CAM, seed 13: segmentation model: {EVIL}" in page.text


def test_only_complete_trials_are_ranked(page: Page) -> None:
    rows = page.with_column("time")
    assert [row[0] for row in rows] == ["1", "2", "3", "0", "4", "0 (published)"]
    assert [row[1] for row in rows] == ["0.6200", "0.5500", "0.5300", "0.5000", "0.4500", "0.4700"]
    assert [row[2] for row in rows] == [
        "0.5900",
        "0.5200",
        "0.5000",
        "0.4700",
        "0.4200",
        "0.4700",
    ]  # before the inner search
    early = next(t[1:] for t in page.tables if any("last preview" in cell for cell in t[0]))
    assert [row[0] for row in early] == ["5", "6"] and [row[2] for row in early] == ["0.9900", "0.9900"]
    assert "from 5 complete trials. Fewer than 20" in page.text
    assert "saved 4 of 21 epochs (19 %): about 8s of computing at 2 s an epoch" in page.text
    assert f"diverged {EVIL}" in page.text


def test_every_number_says_which_masks_it_has_seen(page: Page) -> None:
    known = ("image-labels", "held-out masks", "same masks")
    found = 0
    for table in page.tables:
        for place, head in enumerate(table[0]):
            cells = [row[place] for row in table[1:]]
            if any(re.fullmatch(r"[+-]?0\.\d{4}( ± 0\.\d{4})?", cell) for cell in cells):
                found += 1
                assert any(k in head for k in known) or all(row[-1] in known for row in table[1:]), head
    assert found >= 10
    rows = page.table("number", "published", "best")
    assert {row[-1] for row in rows if not row[0].startswith("proxy/")} == {"same masks"}  # masks chose the best


def test_mask_free_objectives_are_judged_by_their_order(page: Page) -> None:
    row = page.table("objective")[0]
    assert row[:2] == ["proxy/map_agreement", "1.00"] and row[-1] == "5"


def test_both_levels_are_shown(page: Page) -> None:
    chosen = {row[0]: row[1:] for row in page.table("setting")}
    assert chosen["pseudo.fusion"] == ["inside each trial", "0.7", "0.2"]
    assert chosen["classifier.options.prototype_weight"] == ["by the search", "1.6", "0.4"]
    assert "from 15 evaluations inside trials" in page.text


def test_without_a_complete_trial_it_says_so(make: Callable, tmp_path: Path) -> None:
    page = Page(page_of(make("s", full=False), tmp_path))
    assert "No trial ran in full, so nothing is ranked and there is no best setting." in page.text
    assert "3 trials: 0 in full, 2 stopped early, 1 failed" in page.text
    assert "Leaderboard" not in page.text and "importance" not in " ".join(page.labels).lower()


def test_a_data_set_that_is_gone_costs_the_pictures_only(make: Callable, tmp_path: Path) -> None:
    page = Page(page_of(make("s", data=str(tmp_path / "gone")), tmp_path))
    assert (
        page.text.count("since the data set can't be read") == 2 and "Trial 1 has the best single number" in page.text
    )


def test_maps_that_are_broken_cost_the_pictures_only(make: Callable, tmp_path: Path) -> None:
    study = make("s")
    copy = optuna.create_study(study_name="t", storage=storage_at(tmp_path), direction="maximize")
    for name, value in study.user_attrs.items():
        copy.set_user_attr(name, value)
    trials = study.get_trials()
    for one in trials:
        one.user_attrs["maps"] = str(tmp_path)
    copy.add_trials(trials)
    page = Page(page_of(copy, tmp_path))
    assert "an image or its maps can't be read" in page.text
    assert any("Seed IoU by class" in label for label in page.labels)


def test_runs_of_the_comparison_that_failed_do_not_count(make: Callable, tmp_path: Path, base: dict[str, Any]) -> None:
    study = make("s")
    compared(tmp_path, study, base["classes"])
    file = tmp_path / "final" / "s" / "comparison.json"
    content = json.loads(file.read_text())
    content["arms"]["plain CAM"]["runs"][0] = {"seed": 13, "failed": "diverged"}
    file.write_text(json.dumps(content))
    text = Page(page_of(study, tmp_path)).text
    assert "1 of its runs failed" in text and "plain CAM in segmentation, val, 2 seeds" in text


def test_maps_and_classes_are_drawn(html: str) -> None:
    assert "data:image/png" in html
    assert any("Fused maps and seeds of published and best over 4 images" in alt for alt in Page(html).alts)
    page = Page(html)
    assert "Seed IoU by class: published and best" in page.labels
    assert "Segmentation IoU by class: published, plain CAM, chosen" in page.labels
    bars = [table for table in page.tables if re.fullmatch(r".+ \(\d+\)", table[0][0])]
    assert len(bars) == 2
    for table in bars:
        counts = [int(re.findall(r"\((\d+)\)", row[0])[-1]) for row in table]
        assert counts == sorted(counts, reverse=True)
    assert {row[1] for row in bars[0]} == {"0.500.62"}


def test_importance_is_shown_with_its_shares(page: Page) -> None:
    [shares] = [t for t in page.tables if t[0][0] == "classifier.options.prototype_weight" and len(t[0]) == 2]
    assert [row[0] for row in shares] == ["classifier.options.prototype_weight", "classifier.options.weighting"]
    assert sum(float(row[1]) for row in shares) == pytest.approx(1)


def test_tables_of_ablations_are_shown_without_their_html(make: Callable, tmp_path: Path) -> None:
    document = tables.document(ablation(tmp_path / "runs", {"full": 0.1, "<b>worse</b>": 0.4}))
    for name, study in (("ours", "s"), ("another", "t"), ("free", None)):
        folder = tmp_path / "ablations" / name
        folder.mkdir(parents=True)
        (folder / "numbers.json").write_text(json.dumps({"study": study}))
        (folder / "tables.md").write_text(f"# {name} plan\n\n{document}\n\n![x](http://evil.example/x.png) {EVIL}\n")
    page = Page(page_of(make("s"), tmp_path))
    assert sum("<b>worse</b>" in [row[0] for row in t] for t in page.tables) >= 2
    assert "another plan" not in page.text
    assert "strong" in page.tags and not any("evil" in r for r in page.references)


def test_the_command_writes_into_reports(make: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make("../x y")
    assert report.main(["--study", "../x y", "--results", str(tmp_path)]) == 0
    file = tmp_path / "reports" / ".._x_y.html"
    assert str(file) in capsys.readouterr().out
    assert "python tune/report.py --study '../x y'" in Page(file.read_text(encoding="utf-8")).text


def test_bad_input_is_named(make: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make("known")
    assert report.main(["--study", "unknown", "--results", str(tmp_path)]) == 2
    assert "there is no study unknown" in (error := capsys.readouterr().err) and "known" in error
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "x.html")
    assert report.main(["--study", "known", "--results", str(tmp_path), "--out", out]) == 2
    assert f"--out {out}: can't be written" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["--study", "s", "--wrong"], 2)])
def test_the_parser_answers_before_anything_heavy_is_imported(words: list[str], code: int) -> None:
    heavy = ["torch", "optuna", "matplotlib", "mlflow", "ray", "pandas", "scipy"]
    check = (
        "import sys\nfrom tune import report\n"
        f"try: report.main({words})\n"
        "except SystemExit as end:\n"
        f"    assert not {{*{heavy}}} & set(sys.modules)\n    sys.exit(end.code)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "--plugin" in done.stdout + done.stderr


def test_a_plugin_is_allowed_before_the_study_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = pytest.importorskip("sfc.config.plugins")
    allowed: list[str] = []
    monkeypatch.setattr(plugins, "allow", allowed.append)
    words = ["--study", "none", "--results", str(tmp_path), "--plugin", "a:B", "--plugin", "c:D"]
    assert report.main(words) == 2 and allowed == ["a:B", "c:D"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_without_a_network_shows_it(html: str, tmp_path: Path) -> None:
    file, picture = tmp_path / "page.html", tmp_path / "page.png"
    file.write_text(html, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    offline = ["--proxy-server=http://127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND"]
    shot = [f"--screenshot={picture}", "--window-size=1200,7000", "--hide-scrollbars"]
    for scheme, paper in ((1, (255, 255, 255)), (0, (20, 24, 29))):
        colours = f"--blink-settings=preferredColorScheme={scheme}"
        subprocess.run(
            [*command, *offline, *shot, colours, file.as_uri()], check=True, capture_output=True, timeout=120
        )
        pixels = np.asarray(Image.open(picture).convert("RGB"))
        assert tuple(pixels[0, 0]) == paper
        for colour in ((0, 114, 178), (230, 159, 0)):  # bars of trials in full and stopped early: charts are drawn
            assert (pixels == colour).all(-1).sum() > 1000
