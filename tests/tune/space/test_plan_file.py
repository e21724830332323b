"""Plans: every shipped one builds configurations; each kind expands to its arms; every mistake is named and located."""

from pathlib import Path

import pytest

from sfc.config import Config
from sfc.config.files import change_config, load_config
from sfc.errors import UserError
from tune.space.plan_file import PLANS, arm_configs, load_plan

BASE = load_config("synthetic.yaml")  # bank_images 2, pairwise


def arms(tmp_path: Path, text: str, base: Config = BASE, tuned: Config | None = None) -> dict[str, Config]:
    path = tmp_path / "plan.yaml"
    path.write_text(f"base: synthetic.yaml\n{text}")
    return arm_configs(load_plan(str(path)), base, tuned)


def refused(tmp_path: Path, text: str, *, tuned: Config | None = None) -> str:
    with pytest.raises(UserError) as error:
        arms(tmp_path, text, tuned=tuned)
    return str(error.value)


@pytest.mark.parametrize("path", sorted(PLANS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_plan_builds_different_arms(path: Path) -> None:
    plan = load_plan(path.name)
    base = load_config(plan.file.base)
    tuned = change_config(base, {"classifier.options.prototype_weight": 0.3})
    for best in (tuned, None) if not plan.file.arms else (tuned,):
        configs = arm_configs(plan, base, best)
        assert len(configs) > 1
        assert len({config.model_dump_json() for config in configs.values()}) == len(configs)


def test_components_are_those_of_the_paper() -> None:
    configs = arm_configs(load_plan("components.yaml"), BASE)
    parts = ["bank", "prototype consistency", "scale consistency", "distribution weights", "fusion"]
    assert list(configs) == ["full", *(f"without {part}" for part in parts)]
    assert configs["full"] == BASE


def test_a_component_that_the_tuned_best_is_without_is_no_arm_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "leave_one_out:\n  bank: {classifier.bank_images: 0}\n  fusion: {pseudo.fusion: 0.0}\n"
    with caplog.at_level("WARNING", logger="sfc"):
        configs = arms(tmp_path, text, tuned=change_config(BASE, {"pseudo.fusion": 0.0}))
    assert list(configs) == ["full", "without bank"]
    assert "does without fusion already" in caplog.text


def test_leave_one_out_switches_one_component_off_at_a_time(tmp_path: Path) -> None:
    text = "leave_one_out:\n  bank: {classifier.bank_images: 0}\n  maps: {pseudo.fusion: 0.0, cam.correlation: false}\n"
    found = arms(tmp_path, text)
    assert found == {
        "full": BASE,
        "without bank": change_config(BASE, {"classifier.bank_images": 0}),
        "without maps": change_config(BASE, {"pseudo.fusion": 0.0, "cam.correlation": False}),
    }


def test_one_factor_changes_one_setting_at_a_time_and_the_bases_own_value_is_no_arm(tmp_path: Path) -> None:
    found = arms(tmp_path, "one_factor:\n  classifier.bank_images: [0, 2, 4]\n  classifier.options.scales: [[0.75]]\n")
    assert list(found) == ["base", "bank_images = 0", "bank_images = 4", "scales = [0.75]"]
    assert found["scales = [0.75]"] == change_config(BASE, {"classifier.options.scales": [0.75]})


def test_settings_with_the_same_last_name_are_told_apart(tmp_path: Path) -> None:
    found = arms(tmp_path, "one_factor:\n  cam.scales: [[1.0]]\n  classifier.options.scales: [[0.75]]\n")
    assert list(found) == ["base", "cam.scales = [1.0]", "classifier.options.scales = [0.75]"]


def test_a_factorial_has_every_combination(tmp_path: Path) -> None:
    text = "factorial:\n  classifier.bank_images: [0, 2]\n  classifier.options.weighting: [pairwise, uniform]\n"
    found = arms(tmp_path, text)
    assert list(found) == [
        "base",
        "bank_images = 0, weighting = pairwise",
        "bank_images = 0, weighting = uniform",
        "bank_images = 2, weighting = uniform",
    ]


def test_arms_start_from_the_base_or_from_the_tuned_best_and_the_reference_comes_first(tmp_path: Path) -> None:
    tuned = change_config(BASE, {"classifier.lr": 0.01})
    text = "arms:\n  plain: {}\n  best: {tuned: true}\n  both: {tuned: true, set: {cam.mirror: false}}\n"
    assert list(arms(tmp_path, text, tuned=tuned)) == ["plain", "best", "both"]
    found = arms(tmp_path, f"reference: best\n{text}", tuned=tuned)
    assert list(found) == ["best", "plain", "both"]
    assert found["best"] == tuned and found["plain"] == BASE
    assert found["both"] == change_config(tuned, {"cam.mirror": False})


def test_the_tuned_best_is_the_base_of_other_plans(tmp_path: Path) -> None:
    tuned = change_config(BASE, {"classifier.lr": 0.01})
    assert arms(tmp_path, "one_factor: {classifier.bank_images: [0]}", tuned=tuned)["base"] == tuned


def test_a_tuned_arm_needs_a_study(tmp_path: Path) -> None:
    assert "plan.yaml:4: the arm 'b'" in (said := refused(tmp_path, "arms:\n  a: {}\n  b: {tuned: true}\n"))
    assert "name it by --study" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arm:\n  one: {}", "plan.yaml:2: unknown entry arm; did you mean arms?"),
        ("arms:\n  one: {sett: {}}", "plan.yaml:3: unknown entry arms.one.sett; did you mean set?"),
        ("until: sed\narms: {one: {}}", "plan.yaml:2: until: Input should be 'seed', 'pseudo' or 'segmentation'"),
        ("", "needs exactly one of leave_one_out, one_factor, factorial, arms; has none"),
        ("arms: {one: {}}\none_factor: {cam.mirror: [false]}", "has one_factor, arms"),
        ("reference: two\narms: {one: {}}", "reference: there is no arm two; it has one"),
        ("reference: two\none_factor: {cam.mirror: [false]}", "only a plan with `arms` names it"),
        ("one_factor: {cam.mirror: []}", "plan.yaml:2: one_factor.cam.mirror: List should have at least 1 item"),
        ("one_factor:\n  clasifier.lr: [0.1]", "plan.yaml:3: unknown setting clasifier; did you mean classifier?"),
        ("one_factor:\n  classifier.lrr: [0.1]", "plan.yaml:3: unknown setting classifier.lrr; did you mean"),
        (
            "one_factor:\n  classifier.lr:\n  - 0.1\n  - -1",
            "plan.yaml:5: classifier.lr: Input should be greater than",
        ),
        ("arms:\n  a: {}\n  b:\n    set:\n      cam.miror: false", "plan.yaml:6: unknown setting cam.miror; did you"),
        ("leave_one_out:\n  x: {data.val: other}", "plan.yaml:3: data.val can't differ: every arm has the same data"),
        ("leave_one_out:\n  x: {seed: 3}", "plan.yaml:3: seed can't differ"),
        ("leave_one_out:\n  x: {pseudo.threshold: 0.1}", "plan.yaml:3: pseudo.threshold is chosen for each run"),
        ("leave_one_out:\n  x: {cam.mirror: true}", "plan.yaml:3: the arm 'without x' is the same as 'full';"),
        ("arms:\n  a: {}\n  b: {set: {classifier.bank_images: 2}}", "plan.yaml:4: the arm 'b' is the same as 'a';"),
        (
            "leave_one_out:\n  x: {cam.mirror: false}\n  y: {cam.mirror: false}",
            "plan.yaml:4: the arm 'without y' is the same as 'without x'",
        ),
        ("one_factor: {cam.mirror: [true]}", "no arm differs from the reference 'base'"),
        (
            "until: pseudo\nleave_one_out:\n  x: {evaluation.mirror: false}",
            "plan.yaml:4: the arm 'without x' is the same as 'full' up to the stage pseudo",
        ),
    ],
)
def test_every_mistake_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    text = "leave_one_out:\n  x: {cam.miror: true}\n  y: {classifier.lr: -1, data.root: x}\n  z: {cam.mirror: true}\n"
    lines = refused(tmp_path, text).splitlines()
    assert [line.split(":")[1] for line in lines] == ["3", "4", "4", "5"]


def test_a_plan_that_does_not_exist_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"there is no file component.yaml; did you mean components.yaml\?"):
        load_plan("component.yaml")
