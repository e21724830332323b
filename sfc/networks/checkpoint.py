"""Files of weights from anywhere: read as plain tensors, compared with a network name by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sfc.errors import UserError

SHOWN = 10
"""Names in a message, of each kind of mistake."""


def read_tensors(file: Path, setting: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint: a state dictionary, or one under `net`, with or without DataParallel's `module.`.

    Args:
        file: the checkpoint; nothing in it is executed.
        setting: what named the file, for the message.

    Raises:
        UserError: it is missing, not a checkpoint, or holds more than plain tensors.
    """
    if not file.is_file():
        raise UserError(f"{setting}: there is no file {file}")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different class for each way in which a file can be wrong
        raise UserError(f"{setting}: {file} is not a checkpoint of plain tensors ({error})") from None
    if isinstance(state, dict) and isinstance(state.get("net"), dict):
        state = state["net"]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UserError(f"{setting}: {file} is not a checkpoint: no dictionary of tensors by name")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What keeps tensors from fitting a network, or nothing: names that are missing, unexpected, of another shape.

    Counters of batch norm's batches may be missing; nothing reads them.
    """

    def listed(what: str, names: Sequence[str]) -> list[str]:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return [f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}"] if names else []

    wrong = [
        f"{k} {tuple(given[k].shape)} instead of {tuple(own[k].shape)}"
        for k in own
        if k in given and own[k].shape != given[k].shape
    ]
    missing = [k for k in own if k not in given and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in given if k not in own]
    return "; ".join(listed("missing", missing) + listed("unexpected", unexpected) + listed("of another shape", wrong))
