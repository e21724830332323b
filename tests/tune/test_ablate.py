"""Plans: every shipped one builds configurations; wrong ones are named; tables say what was run."""

from pathlib import Path

import pytest

from sfc.errors import UserError
from sfc.settings import change_config, load_config
from tune.ablate import COLUMNS, PLANS, arm_configs, load_plan, main, table


@pytest.mark.parametrize("path", sorted(PLANS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_plan_builds_different_arms(path: Path) -> None:
    plan = load_plan(path.name)
    base = load_config(plan.base)
    configs = arm_configs(plan, base, change_config(base, {"classifier.scale_weight": 0.3}))
    assert list(configs) == list(plan.arms)
    assert len({config.model_dump_json() for config in configs.values()}) == len(configs)


def test_unknown_settings_of_an_arm_are_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("base: synthetic.yaml\narms:\n  one: {set: {classifier.epoch: 3}}\n")
    plan = load_plan(str(path))
    with pytest.raises(UserError, match=r"(?s)arm 'one'.*did you mean classifier.epochs"):
        arm_configs(plan, load_config(plan.base), None)


def test_unknown_entries_of_a_plan_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("base: synthetic.yaml\narms:\n  one: {sett: {}}\n")
    with pytest.raises(UserError, match=r"plan.yaml:3.*sett"):
        load_plan(str(path))


def test_a_tuned_arm_needs_a_study(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--plan", "synthetic.yaml", "--results", str(tmp_path)]) == 2
    assert "name it by --study" in capsys.readouterr().err
    assert main(["--plan", "synthetic.yaml", "--study", "none", "--results", str(tmp_path)]) == 2
    assert "there is no study none" in capsys.readouterr().err


def test_the_table_has_mean_and_deviation_over_seeds_and_none_for_one() -> None:
    runs = [dict.fromkeys(COLUMNS.values(), value) for value in (0.2, 0.4)]
    rows = table({"two": runs, "one": runs[:1]}).splitlines()
    assert rows[2].split(" | ")[1] == "30.0 ± 14.1"
    assert rows[3].split(" | ")[1] == "20.0"
    assert "- |" in table({"none": [{}]})
