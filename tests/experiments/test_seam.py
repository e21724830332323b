"""Properties of SEAM alone; tests/sfc/method/test_methods.py has those of every method."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from sfc.config import Backbone, Config, plugins
from sfc.config.files import change_config
from sfc.data.crops import Crop
from sfc.method.build import build_method
from sfc.method.protocol import Method, TrainingSet

LABEL = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


@pytest.fixture(scope="module")
def seam() -> ModuleType:
    plugins.allow("seam:Seam")
    return __import__(plugins.load("seam:Seam").__module__)


@pytest.fixture
def method(small: Backbone, seam: ModuleType) -> Method:
    torch.manual_seed(0)
    section = change_config(Config(), {"classifier.method": "seam:Seam"}).classifier
    return build_method(section, small, TrainingSet(("a", "b", "c"), (5, 3, 1), 1.0)).train()


def test_each_pixel_keeps_its_strongest_class_beside_the_background(seam: ModuleType) -> None:
    cam = torch.tensor([0.9, 0.2, 0.3, 0.3]).reshape(1, 4, 1, 1)  # background, then three classes, two of them equal
    torch.testing.assert_close(seam.winners(cam).flatten(), torch.tensor([0.9, 0.0, 0.3, 0.3]))


def test_classes_that_an_image_lacks_take_nothing_from_its_background(seam: ModuleType) -> None:
    cam = torch.tensor([0.1, 0.2, 0.9, 0.4]).reshape(1, 4, 1, 1)
    labelled = seam.labelled(cam, torch.tensor([[1.0, 0.0, 1.0]]))
    torch.testing.assert_close(labelled.flatten(), torch.tensor([0.6, 0.2, 0.0, 0.4]))


def test_the_cross_loss_teaches_the_correlation_and_no_map_that_it_compares_with(method: Method) -> None:
    image = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    losses = method.step(Crop(image, torch.tensor([[0, 40, 0, 40]] * 2), LABEL, torch.empty(0)), 0.0)
    losses["ecr"].backward()
    taught = {name for name, parameter in method.named_parameters() if parameter.grad is not None}
    assert taught == {"low.weight", "high.weight", "joint.weight"}


def test_the_cross_loss_is_zero_where_the_spread_map_is_the_other_view_s(method: Method, seam: ModuleType) -> None:
    cam = seam.labelled(torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(0)), LABEL)
    assert method.cross(cam, seam.winners(cam), LABEL) == 0
    assert method.cross(cam, 1 - seam.winners(cam), LABEL) > 0
