"""Seeded parameters in the published checkpoints' naming: a value depends on (seed, name, shape) alone."""

import zlib

import numpy as np


def parameter(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Value of one parameter or buffer.

    Args:
        name: its name in the published checkpoint, e.g. ``resnet50.layer3.0.conv1.weight``.
        shape: its shape.
        seed: the case's seed.

    Returns:
        float32 array of ``shape`` (int64 zeros for ``num_batches_tracked``).
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_mean"):
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) in (2, 4):
        value = rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
        if name == "f9.weight":  # let the image's own colours count in the pixel correlation
            value[:, :3] *= 60.0
        return value.astype(np.float32)
    if name == "resnet50.layer4.2.bn3.bias":  # sparse features, so that several classes win
        return (-17.0 + 0.5 * rng.standard_normal(shape)).astype(np.float32)
    if name.endswith("bias"):
        return (0.05 * rng.standard_normal(shape)).astype(np.float32)
    damped = 0.25 if name.endswith("bn3.weight") else 1.0
    return (damped * rng.uniform(0.8, 1.2, shape)).astype(np.float32)
