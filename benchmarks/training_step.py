"""A training step of SFC against its floor and against the published formulation: time and peak memory.

    python benchmarks/training_step.py            CPU: ResNet-50, 4 images of 384 x 384, float32
    python benchmarks/training_step.py --small    CPU, one core: the network and the batch of synthetic.yaml, float32
    python benchmarks/training_step.py --gpu      batch 20, crop 512, bf16

The floor is the backbone and the classifier alone at both views, with the same cut gradient. The published formulation
builds the N x K x D x h x w product for prototypes and for their similarity, divides the dense affinity by its column
sums, and makes the prototype map of the half view, which no loss reads. Each memory is that of a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from common import in_turn, machine, verdict
from torch import Tensor

from sfc.config import Backbone, SfcOptions
from sfc.config.files import load_config
from sfc.data.crops import Crop
from sfc.method.cam import EPS, classifier_map, resize, valid_mask
from sfc.method.losses import classification_loss, prototype_consistency, scale_consistency
from sfc.method.network import Features, score
from sfc.method.protocol import TrainingSet
from sfc.method.prototypes import BACKGROUND_FACTOR
from sfc.method.sfc import Sfc
from sfc.networks.backbone import build_backbone
from sfc.runtime.engine import Numerics
from sfc.runtime.machine import available_cpus, keep_freed_memory
from sfc.stages.classifier import Step

KINDS = ("sfc", "floor", "published")
VOC_STEPS, VOC_EPOCHS = 10582 // 16, 6


class Case(NamedTuple):
    """What a step works on."""

    backbone: Backbone
    images: int
    side: int
    classes: int
    rounds: int
    time_bound: float
    """Largest ratio of SFC's time to the floor's."""
    memory_bound: float = 1.15
    gpu: bool = False


CASES = {
    "": Case(Backbone(), 4, 384, 20, 5, 1.15),
    "--small": Case(load_config("synthetic.yaml").backbone, 10, 64, 10, 40, 1.6),
    "--gpu": Case(Backbone(), 20, 512, 20, 20, 1.15, gpu=True),
}


def published_correlation(cam: Tensor, feature: Tensor) -> Tensor:
    """m A A with the normalised affinity A as a matrix of its own."""
    vectors = feature.flatten(2)
    vectors = vectors / (torch.norm(vectors, dim=1, keepdim=True) + EPS)
    affinity = F.relu(torch.matmul(vectors.transpose(1, 2), vectors))
    affinity = affinity / (affinity.sum(1, keepdim=True) + EPS)
    return torch.matmul(torch.matmul(cam.flatten(2), affinity), affinity).view_as(cam)


def published_prototypes(cam: Tensor, feature: Tensor, valid: Tensor) -> Tensor:
    """Means over seeds and cosines by N x K x D x h x w products."""
    weighted = cam.clone()
    weighted[:, 0] = weighted[:, 0] * BACKGROUND_FACTOR
    seeds = F.one_hot(weighted.argmax(1), cam.shape[1]).permute(0, 3, 1, 2) * valid
    spread = seeds[:, :, None] * feature[:, None]
    prototype = spread.sum((3, 4)) / seeds.sum((2, 3)).clamp(min=1)[..., None]
    return F.relu(torch.cosine_similarity(feature[:, None], prototype[..., None, None], dim=2))


class Published(Sfc):
    """The step as published, with our network's parameters."""

    def _maps(self, features: Features, crop: Crop) -> tuple[Tensor, Tensor]:
        valid = valid_mask(crop.label, crop.box, (crop.image.shape[-2], crop.image.shape[-1]), features.size)
        cam = classifier_map(features.logits, valid)
        cam = published_correlation(cam, self.f9(torch.cat([features.image, features.semantic], 1)))
        return cam, published_prototypes(cam, features.hierarchical, valid)

    def step(self, crop: Crop, progress: float) -> dict[str, Tensor]:
        half_view = F.interpolate(crop.image, scale_factor=0.5, mode="bilinear", align_corners=True)
        full, half = self.features(crop.image), self.features(half_view)
        (cam, prototype), (cam_half, _) = self._maps(full, crop), self._maps(half, crop)
        return {
            "total": classification_loss([score(full), score(half)], crop.label)
            + self.options.prototype_weight * prototype_consistency(cam, prototype, self.weight_C)
            + self.options.scale_weight * scale_consistency(cam, cam_half, crop.label, self.weight_C)
        }


class Floor(Sfc):
    """Backbone and classifier alone."""

    def step(self, crop: Crop, progress: float) -> dict[str, Tensor]:
        height, width = crop.image.shape[-2:]
        half = resize(crop.image, (height // 2, width // 2), align_corners=True)
        logits = [self.classifier(self.backbone(view)[-1]) for view in (crop.image, half)]
        return {"total": classification_loss([x.float().mean((2, 3)) for x in logits], crop.label)}


def step(kind: str, case: Case) -> Callable[[], float]:
    """A call that makes one step, forward and backward; it returns the loss."""
    how = Numerics(torch.device("cuda" if case.gpu else "cpu"), case.gpu)
    generator = torch.Generator().manual_seed(0)
    label = (torch.rand(case.images, case.classes, generator=generator) < 0.1).float()
    shape = (case.images, 3, case.side, case.side)
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    crop = Crop(image, torch.tensor([[0, case.side, 0, case.side]] * case.images), label, torch.empty(0))
    crop = Crop(*(tensor.to(how.device) for tensor in crop))
    torch.manual_seed(0)
    kinds = {"sfc": Sfc, "floor": Floor, "published": Published}
    training = TrainingSet(tuple(map(str, range(case.classes))), (1,) * case.classes, 0.0)
    network = kinds[kind](build_backbone(case.backbone), training, SfcOptions())
    model = how.place(Step(network, case.backbone)).train()

    def call() -> float:
        model.zero_grad(set_to_none=True)
        with how.autocast():
            total = model(crop, 0.5)["total"]
        total.backward()
        return float(total.detach())

    return call


def peak(kind: str, case: Case) -> float:
    """MiB that two steps take above what lies there before them; of this process, so one kind a process."""
    call = step(kind, case)
    if case.gpu:
        allocated = torch.cuda.memory_allocated()
        call(), call()
        return (torch.cuda.max_memory_allocated() - allocated) / 2**20

    def status(name: str) -> float:  # VmHWM, unlike getrusage's maximum, does not start at the parent's
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

    base = status("VmRSS")
    call(), call()
    return status("VmHWM") - base


def main() -> None:
    name = next((word for word in CASES if word and word in sys.argv), "")
    case = CASES[name]
    torch.set_num_threads(1 if name == "--small" else available_cpus())
    keep_freed_memory()
    if "--peak" in sys.argv:
        print(peak(sys.argv[-1], case))
        return
    command = [sys.executable, __file__, *filter(None, [name]), "--peak"]
    memory = {  # the median of three processes: what the allocator keeps differs between them
        kind: sorted(float(subprocess.check_output([*command, kind])) for _ in range(3))[1] for kind in KINDS
    }
    steps = {kind: step(kind, case) for kind in KINDS}
    seconds = in_turn(steps, case.rounds, warm=5 if case.rounds > 5 else 1)
    size = f"{case.images} x {case.side} x {case.side}, {'bf16' if case.gpu else 'float32'}"
    print(f"{case.backbone.name}, {size}, {torch.get_num_threads()} threads; {machine()}")
    print(f"{'':10}{'ms a step':>12}{'x floor':>9}{'MiB':>9}{'x floor':>9}{'images/s':>10}{'loss':>9}")
    for kind in KINDS:
        print(
            f"{kind:10}{seconds[kind] * 1000:12.1f}{seconds[kind] / seconds['floor']:9.2f}{memory[kind]:9.0f}"
            f"{memory[kind] / memory['floor']:9.2f}{case.images / seconds[kind]:10.1f}{steps[kind]():9.4f}"
        )
    print(verdict("time of sfc over the floor", seconds["sfc"] / seconds["floor"], case.time_bound))
    print(verdict("peak memory of sfc over the floor", memory["sfc"] / memory["floor"], case.memory_bound))
    if case.gpu:
        whole = VOC_STEPS * VOC_EPOCHS
        print(f"6 epochs of VOC train_aug, {whole} steps: {whole * seconds['sfc'] / 60:.1f} min")


if __name__ == "__main__":
    main()
