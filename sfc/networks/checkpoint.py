"""Files of weights from anywhere: read as plain tensors, compared with a network name by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sfc.errors import UserError

SHOWN = 10
"""Largest number of names in a message for each kind of mistake."""


def read_tensors(file: Path, setting: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint: a state dictionary, or one under `net`, with or without DataParallel's `module.`.

    Args:
        file: the checkpoint (`.safetensors`, or saved by torch); nothing in it is executed.
        setting: what named the file, for the message.

    Raises:
        UserError: it is missing, not a checkpoint, or holds more than plain tensors.
    """
    if not file.is_file():
        raise UserError(f"{setting}: there is no file {file}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file  # late: an optional library

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except ImportError:
        raise UserError(f"{setting}: {file} needs safetensors: pip install safetensors") from None
    except Exception as error:  # torch raises a different class for each way in which a file can be wrong
        raise UserError(f"{setting}: {file} is not a checkpoint of plain tensors ({error})") from None
    if isinstance(state, dict) and isinstance(state.get("net"), dict):
        state = state["net"]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UserError(f"{setting}: {file} is not a checkpoint: no dictionary of tensors by name")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def differences(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Names that are missing, unexpected or of another shape in a state dictionary; empty where it fits.

    Counters of batch norm's batches may be missing; nothing reads them.
    """

    def listed(mistake: str, names: Sequence[str]) -> list[str]:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return [f"{len(names)} {mistake}: {', '.join(names[:SHOWN])}{more}"] if names else []

    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(expected[k].shape)}"
        for k in expected
        if k in state and expected[k].shape != state[k].shape
    ]
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in expected]
    return "; ".join(listed("missing", missing) + listed("unexpected", unexpected) + listed("of another shape", shapes))
