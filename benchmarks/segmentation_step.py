"""A step of the segmentation stage against the network's own products: python benchmarks/segmentation_step.py

MobileNetV2 with DeepLabV3, 8 crops of 224 x 224, float32, one core. The products are the network forward and backward
with a fixed gradient: no normalisation of the input, no resize of the logits to the image, no loss. Beside them the
classifier's step on the same backbone, an image at two views.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import in_turn, machine, verdict

from sfc.config import Backbone, Classifier, Segmentation
from sfc.data.crops import Crop
from sfc.method.build import build_method
from sfc.method.protocol import TrainingSet
from sfc.networks.deeplab import build_deeplab
from sfc.runtime.machine import keep_freed_memory
from sfc.stages.classifier import Step
from sfc.stages.segmentation import PixelLoss

BACKBONE = Backbone(name="mobilenet_v2")
IMAGES, SIDE, CHANNELS = 8, 224, 21


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    net = build_deeplab(Segmentation(), BACKBONE, CHANNELS).train()
    loss = PixelLoss(net, BACKBONE)
    image = torch.randint(0, 256, (IMAGES, 3, SIDE, SIDE), dtype=torch.uint8)
    mask = torch.randint(0, CHANNELS, (IMAGES, SIDE, SIDE), dtype=torch.uint8)
    label = (torch.rand(IMAGES, CHANNELS - 1) < 0.1).float()
    crop = Crop(image, torch.tensor([[0, SIDE, 0, SIDE]] * IMAGES), label, mask)
    training = TrainingSet(tuple(map(str, range(CHANNELS - 1))), (1,) * (CHANNELS - 1), 0.0)
    classifier = Step(build_method(Classifier(), BACKBONE, training), BACKBONE).train()
    ready = torch.rand(IMAGES, 3, SIDE, SIDE)

    def products() -> None:
        net.zero_grad(set_to_none=True)
        logits = net.classifier(net.backbone(ready)["out"])  # type: ignore[operator]
        logits.backward(torch.ones_like(logits))

    def train(step: torch.nn.Module) -> Callable[[], None]:
        def call() -> None:
            step.zero_grad(set_to_none=True)
            step(crop, 0.5)["total"].backward()

        return call

    calls = {"products": products, "segmentation": train(loss), "classifier": train(classifier)}
    seconds = in_turn(calls, rounds=7)
    print(f"{BACKBONE.name}, {IMAGES} x {SIDE} x {SIDE}, float32, 1 thread; {machine()}")
    for name, value in seconds.items():
        print(f"{name:14}{1000 * value:9.1f} ms a step{IMAGES / value:8.1f} images/s")
    print(verdict("segmentation step over its products", seconds["segmentation"] / seconds["products"], 1.15))


if __name__ == "__main__":
    main()
