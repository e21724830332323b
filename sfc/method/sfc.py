"""SFC as a method: the training step with the MSDW consistency loss, and both maps at inference.

Source: "SFC: Shared Feature Calibration in Weakly Supervised Semantic Segmentation", AAAI 2024, section "Methodology".
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfc.config import Cam, SfcOptions
from sfc.data.crops import Crop
from sfc.method.cam import resize, valid_mask
from sfc.method.losses import classification_loss, prototype_consistency, scale_consistency
from sfc.method.network import Features, SFCNet, score
from sfc.method.protocol import Method, TrainingSet
from sfc.method.weighting import distribution_weights
from sfc.networks.backbone import Backbone


class Sfc(SFCNet, Method):
    """Classifier whose maps are calibrated by class prototypes."""

    Options = SfcOptions

    def __init__(self, backbone: Backbone, training: TrainingSet, options: SfcOptions) -> None:
        SFCNet.__init__(self, backbone, len(training.classes))
        self.options = options
        resampled = training.resampled if options.resampling is None else options.resampling
        weights = distribution_weights(training.counts, options.weighting, resampled, options.beta)
        self.weight_C: Tensor
        self.register_buffer("weight_C", torch.from_numpy(weights), persistent=False)

    def step(self, crop: Crop, progress: float) -> dict[str, Tensor]:
        """Losses `classification`, `prototype` and `scale` (both weighted), and their sum `total`."""
        options, image, size = self.options, crop.image, (crop.image.shape[-2], crop.image.shape[-1])
        rise = min(1.0, progress / options.warmup) if options.warmup else 1.0
        # The maps are made whenever a weight will be above 0, so that a step costs the same from the first.
        use_prototype, use_scale = options.prototype_weight > 0, options.scale_weight > 0

        full = self.features(image, hierarchical=use_prototype)
        scores, scale_losses = [score(full)], []
        losses: dict[str, Tensor] = {}
        if use_prototype or use_scale:
            valid = valid_mask(crop.label, crop.box, size, full.size)
            cam, prototype = self.maps_of(full, valid, prototype=use_prototype)
            if prototype is not None:
                consistency = prototype_consistency(cam, prototype, self.weight_C)
                losses["prototype"] = options.prototype_weight * rise * consistency
        for scale in options.scales:
            view = resize(image, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))), align_corners=True)
            small = self.features(view, hierarchical=False)
            scores.append(score(small))
            if use_scale:
                valid = valid_mask(crop.label, crop.box, size, small.size)
                cam_small, _ = self.maps_of(small, valid, prototype=False)
                scale_losses.append(scale_consistency(cam, cam_small, crop.label, self.weight_C))
        if use_scale:
            losses["scale"] = options.scale_weight * rise * torch.stack(scale_losses).mean()
        losses["classification"] = classification_loss(scores, crop.label)
        return losses | {"total": torch.stack(list(losses.values())).sum()}

    def maps(self, image: Tensor, settings: Cam) -> dict[str, Tensor]:
        """`classifier` and `prototype`, from the features of both mirror images added up; no mask and no label."""
        features = self.features(image)
        if settings.mirror:
            mirrored = self.features(image.flip(-1))
            features = Features(*(a + b.flip(-1) for a, b in zip(features, mirrored, strict=True)))
        cam, prototype = self.maps_of(features, correlation=settings.correlation)
        assert prototype is not None
        return {"classifier": cam, "prototype": prototype}

    def scores(self, image: Tensor) -> Tensor:
        return score(self.features(image, hierarchical=False))
