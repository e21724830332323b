"""Plain CAM (Zhou et al., CVPR 2016): a classifier of one view, its map, nothing else."""

from __future__ import annotations

from torch import Tensor, nn

from sfc.config import Cam, Section
from sfc.data.crops import Crop
from sfc.method.cam import classifier_map
from sfc.method.losses import classification_loss
from sfc.method.protocol import Method, TrainingSet
from sfc.networks.backbone import Backbone


class PlainCam(Method):
    """Classification loss alone; the map of the classifier's logits."""

    def __init__(self, backbone: Backbone, training: TrainingSet, options: Section) -> None:
        super().__init__(backbone, training, options)
        self.classifier = nn.Conv2d(backbone.channels[-1], len(training.classes), 1, bias=False)

    def logits(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, h, w), the classifier at each pixel."""
        logits: Tensor = self.classifier(self.backbone(image)[-1])
        return logits

    def step(self, crop: Crop, progress: float) -> dict[str, Tensor]:
        """Loss `classification`, which is the `total`."""
        loss = classification_loss([self.scores(crop.image)], crop.label)
        return {"classification": loss, "total": loss}

    def maps(self, image: Tensor, settings: Cam) -> dict[str, Tensor]:
        """`classifier`, from the logits of both mirror images added up."""
        logits = self.logits(image)
        if settings.mirror:
            logits = logits + self.logits(image.flip(-1)).flip(-1)
        return {"classifier": classifier_map(logits)}

    def scores(self, image: Tensor) -> Tensor:
        return self.logits(image).float().mean(dim=(2, 3))
