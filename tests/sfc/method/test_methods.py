"""What every method promises: ours, and the worked example of one's own."""

from __future__ import annotations

import pytest
import torch

from sfc.config import Backbone, Cam, Config, plugins
from sfc.config.files import build_config, change_config
from sfc.data.crops import Crop
from sfc.errors import UserError
from sfc.method.build import build_method, method_class
from sfc.method.protocol import Method, TrainingSet

METHODS = ("sfc", "cam", "seam:Seam")
MAPS = {"sfc": ["classifier", "prototype"], "cam": ["classifier"], "seam:Seam": ["seam"]}
IMAGE = torch.randn(2, 3, 40, 52, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _allowed() -> None:
    plugins.allow("seam:Seam")


@pytest.fixture
def build(small: Backbone):
    def method(name: str) -> Method:
        torch.manual_seed(0)
        section = change_config(Config(), {"classifier.method": name}).classifier
        return build_method(section, small, TrainingSet(("a", "b", "c"), (5, 3, 1), 1.0))

    return method


@pytest.mark.parametrize("name", METHODS)
def test_losses_are_finite_add_up_and_teach_every_parameter(name: str, build) -> None:
    method = build(name).train()
    image = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    crop = Crop(image, torch.tensor([[0, 40, 0, 40]] * 2), label, torch.empty(0))
    losses = method.step(crop, 0.5)
    total = losses.pop("total")
    torch.testing.assert_close(total, torch.stack(list(losses.values())).sum())
    total.backward()
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("mirror", [False, True])
def test_maps_have_a_background_lie_above_zero_and_follow_the_mirror(name: str, mirror: bool, build) -> None:
    method, settings = build(name).eval(), Cam(mirror=mirror)
    with torch.inference_mode():
        maps, scores = method.maps(IMAGE, settings), method.scores(IMAGE)
        mirrored = method.maps(IMAGE.flip(-1), settings)
    assert list(maps) == MAPS[name] and scores.shape == (2, 3) and scores.dtype == torch.float32
    for key, values in maps.items():
        assert values.shape[:2] == (2, 4) and values.dtype == torch.float32 and values.min() >= 0
        assert torch.isfinite(values).all()
        if mirror:
            torch.testing.assert_close(values, mirrored[key].flip(-1), atol=1e-3, rtol=1e-2)


def test_plain_cam_has_no_heads_that_it_does_not_use(build) -> None:
    heads = {name.split(".")[0] for name, _ in build("cam").named_parameters()} - {"backbone"}
    assert heads == {"classifier"}


def test_sfc_and_plain_cam_have_the_same_classifier_map(build) -> None:
    sfc, cam = build("sfc").eval(), build("cam").eval()
    cam.load_state_dict({key: value for key, value in sfc.state_dict().items() if key in cam.state_dict()})
    with torch.inference_mode():
        ours = sfc.maps(IMAGE, Cam(correlation=False))["classifier"]
        torch.testing.assert_close(cam.maps(IMAGE, Cam())["classifier"], ours)


def test_options_are_checked_by_the_method_s_own_section() -> None:
    values = {"classifier": {"method": "seam:Seam", "options": {"scale": 2.0, "er_wait": 1.0}}}
    places = {("classifier", "options", "scale"): "my.yaml:3", ("classifier", "options", "er_wait"): "my.yaml:4"}
    with pytest.raises(UserError) as error:
        build_config(values, places)
    assert "my.yaml:3: classifier.options.scale: Input should be less than 1" in str(error.value)
    assert "my.yaml:4: unknown setting classifier.options.er_wait; did you mean" in str(error.value)


def test_a_class_that_is_no_method_is_refused() -> None:
    plugins.allow("json:JSONDecoder")
    with pytest.raises(UserError, match=r"json:JSONDecoder is no method: it must be a subclass of sfc\.Method"):
        method_class("json:JSONDecoder")


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"classifier\.method: Input should be sfc, cam, maps or module:Class \(found \"scf\"\)"
    ):
        change_config(Config(), {"classifier.method": "scf"})
