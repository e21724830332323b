"""Training steps in bf16 with channels_last against float32: python benchmarks/precision.py [CONFIG]."""

import sys
import time

import torch

from sfc.config.files import load_config
from sfc.data.crops import Crop
from sfc.method.build import build_method
from sfc.method.protocol import TrainingSet
from sfc.runtime.engine import Numerics, bf16_gains, default_device
from sfc.stages.classifier import Step

STEPS = 12


def main() -> None:
    config = load_config(sys.argv[1] if len(sys.argv) > 1 else "synthetic.yaml")
    device, classes = default_device(), 10
    number, side = config.classifier.batch + config.classifier.bank_images, config.classifier.crop
    generator = torch.Generator().manual_seed(0)
    crop = Crop(
        torch.randint(0, 256, (number, 3, side, side), dtype=torch.uint8, generator=generator).to(device),
        torch.tensor([[0, side, 0, side]] * number, device=device),
        (torch.rand(number, classes, generator=generator) < 0.2).float().to(device),
        torch.empty(0),
    )
    backbone = config.backbone.model_copy(update={"weights": None})
    training = TrainingSet(tuple(map(str, range(classes))), (1,) * classes, 0.0)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    steps = {}
    for bf16 in seconds:
        how = Numerics(device, bf16)
        steps[bf16] = how, how.place(Step(build_method(config.classifier, backbone, training), backbone))
    for _ in range(STEPS):  # in turn, so that a change of the machine's speed meets both
        for bf16, (how, model) in steps.items():
            begin = time.perf_counter()
            with how.autocast():
                losses = model.train()(crop, 0.9)
            losses["total"].backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[bf16].append(time.perf_counter() - begin)
    full, half = (sorted(seconds[bf16][2:])[(STEPS - 2) // 2] for bf16 in (False, True))
    print(f"{config.backbone.name}, {number} x {side} x {side}, {device}, {torch.get_num_threads()} threads")
    print(f"float32 {full * 1000:.1f} ms, bf16 channels_last {half * 1000:.1f} ms: {full / half:.2f} x as fast")
    print(f"precision `auto` chooses {'bf16' if bf16_gains(device, steps[True][1]) else 'fp32'} here")


if __name__ == "__main__":
    main()
