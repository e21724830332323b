"""YAML and overrides to a Config: every mistake at once, with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfc.config import Backbone, Config, Segmentation
from sfc.config.files import (
    EXPERIMENTS,
    absolute,
    build_config,
    change_config,
    dump_config,
    load_config,
    parse_override,
    parse_yaml,
    setting_names,
)
from sfc.errors import UserError


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "experiment.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def refusal(path: str | Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_every_mistake_is_reported_at_once_with_place_and_nearest_name(write) -> None:
    path = write(
        "seed: 1\n"
        "classifier:\n"
        "  epochss: 3\n"
        "  lr: fast\n"
        "  momentum: 1.5\n"
        "  options: {weighting: pairwize}\n"
        "clasifier:\n"
        "  lr: 0.1\n"
        "pseudo:\n"
        "  crf:\n"
        "    gt_prob: 2\n"
    )
    message = refusal(path)
    lines = message.splitlines()
    for line, words in {
        3: ["classifier.epochss", "did you mean classifier.epochs?"],
        4: ["classifier.lr", '"fast"'],
        5: ["classifier.momentum", "less than 1", "1.5"],
        6: ["classifier.options.weighting", "pairwise", "effective_number"],
        7: ["clasifier", "did you mean classifier"],
        11: ["pseudo.crf.gt_prob", "less than 1"],
    }.items():
        (found,) = [text for text in lines if text.startswith(f"{path}:{line}: ")]
        assert all(word in found for word in words), found
    assert len(lines) == 6


def test_the_right_key_under_a_wrong_section_is_named(write) -> None:
    assert "did you mean classifier.options.prototype_weight?" in refusal(write("data:\n  prototype_weight: 1\n"))


def test_items_of_a_list_are_checked_with_their_line(write) -> None:
    path = write("cam:\n  scales:\n    - 1.0\n    - 99\n")
    assert f"{path}:4: cam.scales.1" in refusal(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("classifier: {epochs: 1.5}", "classifier.epochs"),
        ("classifier: {flip: 1}", "classifier.flip"),
        ("classifier: {lr: '0.1'}", "classifier.lr"),
        ("classifier: {lr: -1}", "greater than 0"),
        ("classifier: {resize_long: [640, 320]}", "empty range"),
        ("backbone: {frozen_stages: 5}", "backbone.frozen_stages"),
        ("backbone: {name: resnet51}", "resnet50"),
        ("cam: {scales: []}", "cam.scales"),
        ("data: {val: train}", "must differ"),
        ("data: {select: x, val: x}", "must differ"),
        ("classifier:\n", "classifier"),
        ("data: {root: null}", "data.root"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(write, text: str, words: str) -> None:
    path = write(text)
    message = refusal(path)
    assert words in message and f"{path}:1: " in message


@pytest.mark.parametrize("value", [".nan", ".inf"])
def test_numbers_that_are_not_finite_are_refused(write, value: str) -> None:
    assert "classifier.lr" in refusal(write(f"classifier: {{lr: {value}}}"))


def test_a_mistake_in_an_override_is_placed_on_the_command_line(write) -> None:
    path = write("classifier:\n  lr: nope\n")
    message = refusal(path, "classifier.epochs=many", "classifier.warm_up=0.5", "seed=-1")
    assert len(message.splitlines()) == 4
    assert f"{path}:2: classifier.lr" in message
    assert "command line, classifier.epochs=many: classifier.epochs" in message
    assert "command line, classifier.warm_up=0.5: " in message and "did you mean classifier.options.warmup?" in message
    assert "command line, seed=-1: seed" in message


@pytest.mark.parametrize("word", ["classifier.lr", "=3", "", "classifier.lr={", "classifier.options.scales=[0.5"])
def test_an_override_of_a_wrong_form_is_refused(word: str) -> None:
    with pytest.raises(UserError, match="command line"):
        parse_override(word)


@pytest.mark.parametrize("word", ["classifier.lr.deep=1", "classifier=3", "classifier..lr=1", "lr=1", "a.b.c.d=1"])
def test_an_override_that_names_no_setting_is_refused(write, word: str) -> None:
    assert f"command line, {word}" in refusal(write("seed: 1"), word)


def test_overrides_win_over_the_file_and_later_ones_over_earlier(write) -> None:
    path = write("classifier: {lr: 0.5, epochs: 2}")
    config = load_config(
        path, ["classifier.lr=1e-4", "classifier.epochs=3", "classifier.epochs=4", "pseudo.crf.iterations=2"]
    )
    assert (config.classifier.lr, config.classifier.epochs, config.pseudo.crf.iterations) == (1e-4, 4, 2)
    assert load_config(path, ["classifier.resize_long=null"]).classifier.resize_long is None
    assert load_config(path, ["cam.scales=[1, 2.0]"]).cam.scales == (1.0, 2.0)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E5", 1e5), ("-.5e1", -5.0), ("1.", 1.0), ("2", 2), ("-3", -3), ("1_000", 1000), ("0x10", 16)],
)
def test_numbers(text: str, value: float) -> None:
    read = parse_yaml(text)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize("text", ["1e-4x", "v1.5", "1.2.3", "e5", "-", "+", ".", "IMAGENET1K_V2"])
def test_text_stays_text(text: str) -> None:
    assert parse_yaml(f"'{text}'") == text
    assert isinstance(parse_yaml(text if text != "-" else "'-'"), str)


@pytest.mark.parametrize("value", ["2024-99-99", "!!python/object/apply:os.getcwd []", "!!timestamp x"])
def test_values_that_yaml_can_not_build_are_refused_in_words(write, value: str) -> None:
    assert "experiment.yaml" in refusal(write(f"data: {{train: {value}}}"))
    assert "command line" in refusal(write("seed: 1"), f"data.train={value}")


def test_a_base_is_changed_section_by_section(write) -> None:
    write("seed: 3\nclassifier: {lr: 0.5, epochs: 2}\ncam:\n  scales: [1.0]\n", "base.yaml")
    write("base: base.yaml\nclassifier: {epochs: 9}\n", "middle.yaml")
    config = load_config(write("base: middle.yaml\ncam: {mirror: false, scales: [2.0, 1.0]}\n"))
    assert (config.seed, config.classifier.lr, config.classifier.epochs) == (3, 0.5, 9)
    assert (config.cam.scales, config.cam.mirror) == ((2.0, 1.0), False)


def test_a_mistake_in_a_base_is_placed_in_the_base(write) -> None:
    base = write("\nclassifier:\n  lr: x\n", "base.yaml")
    path = write("base: base.yaml\npseudo:\n  fusionn: 1\n")
    message = refusal(path)
    assert f"{base}:3: classifier.lr" in message and f"{path}:3: unknown setting pseudo.fusionn" in message


def test_a_base_beside_the_file_comes_before_one_in_the_working_folder(write, monkeypatch) -> None:
    write("seed: 1", "elsewhere/base.yaml")
    write("seed: 2", "here/base.yaml")
    path = write("base: base.yaml", "here/experiment.yaml")
    monkeypatch.chdir(path.parent.parent / "elsewhere")
    assert load_config(path).seed == 2


def test_a_base_that_is_missing_is_named_with_the_nearest_file(write) -> None:
    write("seed: 1", "synthetic_fast.yaml")
    assert "did you mean synthetic_fast.yaml?" in refusal(write("base: synthetic_fats.yaml"))


def test_a_base_that_names_itself_is_refused(write) -> None:
    write("base: b.yaml", "a.yaml")
    assert "a.yaml" in refusal(write("base: a.yaml", "b.yaml"))


@pytest.mark.parametrize("text", ["seed: 1\nseed: 2\n", "classifier:\n  lr: 1.0\n  epochs: 2\n  lr: 2.0\n"])
def test_a_key_that_stands_twice_is_refused_with_its_second_line(write, text: str) -> None:
    path = write(text)
    assert refusal(path).startswith(f"{path}:{len(text.splitlines())}: ")


@pytest.mark.parametrize("text", ["[1, 2]", "just words", "a: [1", "a: b: c", "\tx: 1"])
def test_a_file_that_is_no_mapping_is_refused(write, text: str) -> None:
    path = write(text)
    assert str(path) in refusal(path)


def test_a_file_that_is_no_text_is_refused(write) -> None:
    path = write("")
    path.write_bytes(b"\xff\xfe\x00seed: 1")
    assert str(path) in refusal(path)


def test_a_missing_file_is_refused_with_the_nearest_experiment() -> None:
    assert "did you mean synthetic.yaml?" in refusal("sinthetic.yaml")


def test_an_empty_file_is_the_defaults(write) -> None:
    assert load_config(write("")) == load_config(write("# nothing\n")) == Config()


def test_a_dumped_configuration_loads_as_itself(write) -> None:
    config = change_config(
        Config(),
        {
            "classifier.lr": 1e-7,
            "classifier.resize_long": None,
            "data.root": "1e-4",
            "cam.scales": [0.5],
            "selected_on": "no",
        },
    )
    assert load_config(write(dump_config(config))) == config
    assert load_config(write(dump_config(Config()))) == Config()


def test_changes_are_checked_like_a_file() -> None:
    assert change_config(Config(), {"pseudo.crf.iterations": 3}).pseudo.crf.iterations == 3
    assert change_config(Config(), {}) == Config()
    with pytest.raises(UserError, match=r"classifier\.options\.warmup"):
        change_config(Config(), {"classifier.options.warmup": 2})
    with pytest.raises(UserError, match=r"did you mean classifier\.options\.warmup"):
        change_config(Config(), {"classifier.warmupp": 0.5})


def test_a_configuration_can_not_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().classifier.lr = 3.0


def test_every_setting_has_a_name_and_can_be_given_by_it() -> None:
    names = setting_names()
    assert {"seed", "classifier.lr", "pseudo.crf.gt_prob", "data.synthetic.size"} <= set(names)
    own = Config(segmentation=Segmentation(backbone=Backbone()))  # an optional section is there once a part is named
    for name in names:
        expected = own if name.startswith("segmentation.backbone.") else Config()
        value = expected.model_dump(mode="json")
        for part in name.split("."):
            value = value[part]
        assert change_config(Config(), {name: value}) == expected


def test_an_unknown_nested_value_is_refused_by_build_config_with_its_origin() -> None:
    with pytest.raises(UserError, match=r"^arm two: unknown setting cam\.scale; did you mean cam\.scales\?$"):
        build_config({"cam": {"scale": 1}}, origin="arm two")


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_experiment_loads(path: Path) -> None:
    config = load_config(path.name)
    assert config == load_config(path)
    assert isinstance(config, Config)


def test_there_are_experiments_to_load() -> None:
    assert (EXPERIMENTS / "synthetic.yaml").is_file()


def test_the_segmentation_model_takes_a_backbone_of_its_own(write) -> None:
    assert load_config(write("seed: 1\n")).segmentation.backbone is None
    text = "segmentation:\n  backbone:\n    name: resnet101\n"
    config = load_config(write(text), ["segmentation.backbone.frozen_stages=0"])
    assert config.segmentation.backbone == Backbone(name="resnet101", frozen_stages=0)
    path = write(text.replace("name", "nam"))
    assert refusal(path).startswith(f"{path}:3: unknown setting segmentation.backbone.nam; did you mean")


def test_both_backbones_weights_mean_the_same_file_from_every_folder(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "w.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    given = {"backbone.weights": "w.pt", "segmentation.backbone.weights": "w.pt"}
    made = absolute(change_config(Config(), given))
    assert made.backbone.weights == made.segmentation.backbone.weights == str(tmp_path / "w.pt")
    assert absolute(Config(segmentation=Segmentation())).segmentation.backbone is None


def test_scales_at_test_time_have_names(write) -> None:
    assert load_config(write("evaluation: {scales: single}\n")).evaluation.scales == (1.0,)
    assert load_config(write("evaluation: {scales: [2.0, 0.5]}\n")).evaluation.scales == (2.0, 0.5)
    message = refusal(write("evaluation: {scales: many}\n"))
    assert "evaluation.scales" in message and "single, three, five" in message and "many" in message
    assert "evaluation.crf" in refusal(write("evaluation: {crf: sea}\n"))
