"""A configured method: its class by name, and an instance on its backbone."""

from __future__ import annotations

from sfc.config import Backbone, Classifier, plugins
from sfc.errors import UserError
from sfc.method.plain_cam import PlainCam
from sfc.method.protocol import Method, TrainingSet
from sfc.method.sfc import Sfc
from sfc.networks.backbone import build_backbone

METHODS: dict[str, type[Method]] = {"sfc": Sfc, "cam": PlainCam}
"""Methods of this package that train a network."""


def method_class(name: str) -> type[Method]:
    """The class of a method by its name, or by `module:Class`.

    Raises:
        UserError: there is none, or the class is no method.
    """
    method = METHODS.get(name) or plugins.load(name)
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise UserError(f"classifier.method: {name} is no method: it must be a subclass of sfc.Method")
    return method


def build_method(section: Classifier, backbone: Backbone, training: TrainingSet) -> Method:
    """The configured method on a new backbone, in train mode."""
    return method_class(section.method)(build_backbone(backbone), training, section.options)
