"""Files of weights from anywhere: read as plain tensors, compared with a network name by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfc.errors import UserError

SHOWN = 10
"""Names in a message for each kind of mistake, at most."""


def read_tensors(file: Path, setting: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint: a state dictionary, or one under `net`, with or without DataParallel's `module.`.

    Args:
        file: `.safetensors`, or saved by torch; nothing in the file is executed.
        setting: name of the setting that holds the file's path, for messages.

    Raises:
        UserError: the file is missing, not a checkpoint, or holds more than plain tensors.
    """
    if not file.is_file():
        raise UserError(f"{setting}: there is no file {file}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file  # late: an optional library

            state: Any = load_file(file)
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


def check_fit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], message: str) -> None:
    """Raise a UserError, `message` and the names, if tensors of a state are missing, unexpected or of another shape.

    Counters of batch norm's batches may be missing; nothing reads them.
    """
    mistakes = {
        "missing": [k for k in expected if k not in state and not k.endswith("num_batches_tracked")],
        "unexpected": [k for k in state if k not in expected],
        "of another shape": [
            f"{k} {tuple(state[k].shape)} instead of {tuple(tensor.shape)}"
            for k, tensor in expected.items()
            if k in state and tensor.shape != state[k].shape
        ],
    }
    texts = []
    for mistake, names in mistakes.items():
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            texts.append(f"{len(names)} {mistake}: {', '.join(names[:SHOWN])}{more}")
    if texts:
        raise UserError(f"{message}: {'; '.join(texts)}")
