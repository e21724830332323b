"""Tables: what is bold, what is left out, what is escaped, on numbers with known differences."""

import csv
import io
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from sfc.scoring.metrics import iou_of, summarise_pixels
from sfc.scoring.tally import IMAGES
from tune.evidence.tables import Bold, differences, document, latex, latex_document, markdown, tables, tidy

COUNTS = [30, 20, 10]
SEEDS = [11, 12, 13, 14, 15]


def run(folder: Path, seed: int, wrong: float, stage: str = "seed_val") -> dict[str, Any]:
    """A run on 40 images and 4 channels of which the part `wrong` of what is predicted is wrong; jitters by seed."""
    rng = np.random.default_rng(seed)
    hit = np.random.default_rng(0).integers(50, 100, (40, 4)) + rng.integers(0, 3, (40, 4))
    pixels = np.stack([hit, hit / (1 - wrong), hit + 20], -1).astype(np.uint32)
    folder.mkdir(parents=True)
    np.savez(folder / IMAGES, ids=np.arange(40).astype(str), pixels=pixels, counts=np.array(COUNTS))
    metrics = {f"{stage}/{k}": v for k, v in summarise_pixels(pixels.sum(0), np.array(COUNTS)).items()}
    return {
        "seed": seed,
        "metrics": metrics,
        "supervision": dict.fromkeys(metrics, "held-out masks"),
        "iou": {stage: iou_of(pixels.sum(0)).tolist()},
        "folders": {stage: str(folder)},
    }


def ablation(tmp_path: Path, wrong: dict[str, float], seeds: list[int] = SEEDS) -> dict[str, Any]:
    return {
        "plan": "test",
        "command": "python tune/ablate.py",
        "commit": "0",
        "torch": "0",
        "until": "segmentation",
        "reference": next(iter(wrong)),
        "seeds": seeds,
        "classes": ["background", "cat", "dog_1", "emu"],
        "counts": COUNTS,
        "arms": {
            arm: {
                "changes": {"cam.mirror": False} if i else {},
                "runs": [run(tmp_path / f"{i}-{seed}", seed, part) for seed in seeds],
            }
            for i, (arm, part) in enumerate(wrong.items())
        },
    }


def test_bold_is_what_both_intervals_hold_apart_from_zero(tmp_path: Path) -> None:
    numbers = ablation(tmp_path, {"full": 0.1, "same": 0.1, "worse": 0.4})
    rows = tables(numbers)["Seeds, val: comparison"].set_index("arm").difference
    assert list(rows.index) == ["full", "same", "worse"]
    assert rows["same"] == "+0.0" and not isinstance(rows["same"], Bold)
    assert isinstance(rows["worse"], Bold) and float(rows["worse"]) < -5
    text = document(numbers)
    bold = sum(isinstance(cell, Bold) for table in tables(numbers).values() for cell in table.to_numpy().flat)
    assert " **-" in text and text.count("**") == 2 * bold
    assert latex_document(numbers).count(r"\textbf{") == bold


def test_one_interval_is_not_enough_for_bold(tmp_path: Path) -> None:
    numbers = ablation(tmp_path, {"full": 0.1, "worse": 0.4})
    found = differences(numbers, "seed_val", "worse")[""]
    assert isinstance(found.cell(), Bold)
    around = type(found.seeds)(found.seeds.value, -1.0, 1.0)
    for part in ("seeds", "images"):
        assert not isinstance(type(found)(**(vars(found) | {part: around})).cell(), Bold)


def test_differences_are_those_of_the_runs(tmp_path: Path) -> None:
    numbers = ablation(tmp_path, {"full": 0.1, "worse": 0.4})
    full, worse = (entry["runs"] for entry in numbers["arms"].values())
    found = differences(numbers, "seed_val", "worse")
    for part in ("", "_head", "_middle", "_tail"):
        name = f"seed_val/miou{part}"
        expected = np.mean([b["metrics"][name] - a["metrics"][name] for a, b in zip(full, worse, strict=True)])
        assert found[part].seeds.value == pytest.approx(expected)
        assert found[part].images.value == pytest.approx(expected), "the counts give another number than the metrics"
    assert found[3].seeds.value == pytest.approx(found["_tail"].seeds.value)


def test_p_is_corrected_over_the_arms(tmp_path: Path) -> None:
    alone = ablation(tmp_path / "1", {"full": 0.1, "a": 0.103})
    both = ablation(tmp_path / "2", {"full": 0.1, "a": 0.103, "b": 0.103})

    def p(numbers: dict[str, Any]) -> float:
        return float(tables(numbers)["Seeds, val: comparison"]["p (Holm)"][1].removeprefix("< "))

    assert p(both) >= p(alone)


def test_one_seed_has_no_interval_and_nothing_bold(tmp_path: Path) -> None:
    text = document(ablation(tmp_path, {"full": 0.1, "worse": 0.4}, [11]))
    assert "One seed only" in text and "**" not in text and "±" not in text


def test_failed_runs_are_named_and_their_seeds_left_out_on_both_sides(tmp_path: Path) -> None:
    numbers = ablation(tmp_path, {"full": 0.1, "worse": 0.4})
    numbers["arms"]["worse"]["runs"][0] = {"seed": 11, "failed": "the *loss* is not finite"}
    assert r"- worse, seed 11: the \*loss\* is not finite" in document(numbers)
    made = tables(numbers)
    assert list(made["Seeds, val: comparison"]["seeds"]) == ["5", "4"]
    assert made["Seeds, val: every run"]["seed 11"][1] == "-"
    pairs = zip(*(numbers["arms"][arm]["runs"][1:] for arm in ("worse", "full")), strict=True)
    expected = np.mean([a["metrics"]["seed_val/miou"] - b["metrics"]["seed_val/miou"] for a, b in pairs])
    assert differences(numbers, "seed_val", "worse")[""].seeds.value == pytest.approx(expected)


def test_nothing_but_failures_is_still_a_document(tmp_path: Path) -> None:
    numbers = ablation(tmp_path, {"full": 0.1, "worse": 0.4})
    for entry in numbers["arms"].values():
        entry["runs"] = [{"seed": seed, "failed": "why"} for seed in SEEDS]
    assert document(numbers).count(": why") == 10
    assert latex_document(numbers)


def test_what_no_run_has_is_left_out(tmp_path: Path) -> None:
    text = document(ablation(tmp_path, {"full": 0.1, "worse": 0.4}))
    assert "seeds, val, tail |" in text and "## Seeds, val: classes" in text
    assert "pseudo" not in text.lower() and "segmentation" not in text.lower() and "seeds, select" not in text


def test_the_csv_is_tidy(tmp_path: Path) -> None:
    numbers = ablation(tmp_path, {"full": 0.1, "with, comma": 0.4})
    numbers["arms"]["full"]["runs"][0]["iou"]["seed_val"][2] = None
    rows = list(csv.DictReader(io.StringIO(tidy(numbers).to_csv(index=False))))
    assert list(rows[0]) == ["arm", "seed", "metric", "class", "value", "supervision"]
    assert {row["arm"] for row in rows} == {"full", "with, comma"}
    assert {row["supervision"] for row in rows} == {"held-out masks"}
    dog = [r for r in rows if r["metric"] == "seed_val/iou" and r["class"] == "dog_1" and r["arm"] == "full"]
    assert [r["seed"] for r in dog] == [str(seed) for seed in SEEDS] and dog[0]["value"] == ""
    whole = next(r for r in rows if r["metric"] == "seed_val/miou")
    assert float(whole["value"]) == numbers["arms"]["full"]["runs"][0]["metrics"]["seed_val/miou"]


HOSTILE = "50 % & a_b {x} \\ ~^#$ | *c* <b>`[d](e)"


def test_markdown_shows_names_as_they_are() -> None:
    text = markdown(pd.DataFrame([[HOSTILE, Bold("+1.0")], ["&amp;", "< 0.001"]], columns=[HOSTILE, "p"], dtype=object))
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    cells = [re.sub("<.*?>", "", cell) for cell in re.findall("<t[dh].*?>(.*)</t[dh]>", html)]
    assert [unescape(cell) for cell in cells] == [HOSTILE, "p", HOSTILE, "+1.0", "&amp;", "< 0.001"]
    assert html.count("<strong>+1.0</strong>") == html.count("strong>") / 2 == 1
    assert "<em>" not in html and "<code>" not in html and "<a " not in html


def test_arms_may_be_called_as_columns_are(tmp_path: Path) -> None:
    numbers = ablation(tmp_path, {"class": 0.1, "images": 0.4})
    assert list(tables(numbers)["Seeds, val: classes"].columns) == ["class", "images", "class", "images"]
    assert document(numbers) and latex_document(numbers)


def test_latex_escapes_names_and_needs_no_package() -> None:
    table = pd.DataFrame([["50 % & a_b {x} \\ ~^#$", "< 0.001"], ["c|", Bold("-1.2 ± 0.3")]], dtype=object)
    text = latex(table.set_axis(["arm_1", "p"], axis=1), "title")
    assert r"50 \% \& a\_b \{x\} \textbackslash{} \textasciitilde{}\textasciicircum{}\#\$ & $<$ 0.001 \\" in text
    assert r"c$|$ & \textbf{$-$1.2 $\pm$ 0.3} \\" in text
    assert text.startswith("% title\n\\begin{tabular}{lr}\n\\hline\narm\\_1 & p") and text.endswith(r"\end{tabular}")
    assert "rule" not in text
