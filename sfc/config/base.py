"""The section class that all settings are made of, and the types that several sections share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

SETTINGS_VERSION = 3
"""Raised when the meaning or the default of a setting changes: stores and studies of another version are refused."""


class Content:
    """Marks a setting that names a file or folder. Keys of outputs hold a digest of its content instead of its path,
    and a relative path means the same in every process."""


class Source:
    """Marks a setting that may name code of the user's as `module:name`. Keys hold a digest of the module's source."""


Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=32)]
"""Side of a square crop, in pixels."""
Scales = Annotated[tuple[Annotated[float, Field(ge=0.1, le=4)], ...], Field(min_length=1)]
Factors = tuple[Positive, Positive]
"""Range of a random factor."""
Precision = Literal["auto", "bf16", "fp32"]
"""`auto`: bf16 where a network of this size gains by it on this hardware, else fp32."""
Optimiser = Literal["sgd", "sgd_as_published", "adamw"]
"""SGD with the momentum of its section; SGD with the weight decay in the momentum's place, since the published code of
SFC hands its arguments on in that order; or AdamW (Loshchilov and Hutter, ICLR 2019), which has no momentum to set."""
File = Annotated[str | None, Content()]

SCALE_PRESETS: dict[str, tuple[float, ...]] = {
    "single": (1.0,),
    "three": (1.0, 0.75, 1.25),
    "five": (1.0, 0.5, 0.75, 1.25, 1.5),
}
"""Names for scales at test time; a name and its scales are the same setting."""


def _named_scales(value: object) -> object:
    if not isinstance(value, str):
        return tuple(value) if isinstance(value, list) else value  # after a validator, strict mode refuses a list
    if value not in SCALE_PRESETS:
        names = ", ".join(SCALE_PRESETS)
        raise PydanticCustomError("unknown_scales", "Input should be {names} or a list of factors", {"names": names})
    return SCALE_PRESETS[value]


TestScales = Annotated[Scales, BeforeValidator(_named_scales)]


class Section(BaseModel):
    """A frozen group of settings without room for unknown names."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def __hash__(self) -> int:  # also of options with lists, which a method of one's own may have
        return hash(self.model_dump_json())


def one_of(names: Collection[str], more: str, fits: Callable[[str], object]) -> AfterValidator:
    """A check that a text is one of some names or else `fits`, of which `more` is the form."""

    def check(value: str) -> str:
        if value not in names and not fits(value):
            text = f"Input should be {', '.join(names)} or {more}"
            raise PydanticCustomError("unknown_name", "{text}", {"text": text})
        return value

    return AfterValidator(check)


def check_range(name: str, ends: tuple[float, float] | None) -> None:
    """Raise ValueError where the low end of a range lies above the high end."""
    if ends and ends[0] > ends[1]:
        raise ValueError(f"{name}: an empty range, {list(ends)}")


class Training(Section):
    """What every training has: schedule, optimiser, crops."""

    epochs: Count = 6
    batch: Count = 16
    """Images from the data set in a step, over all workers."""
    micro_batch: Count | None = None
    """Images that a worker holds at once, where its share of the batch does not fit; their gradients are added up.
    None: all. It changes the result only where a batch norm learns."""
    crop: Side = 512
    flip: bool = True
    """Mirror every second image."""
    optimiser: Optimiser = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 1e-4
    clip: Positive | None = None
    """Largest norm of the gradient; None: any."""
    power: NotNegative = 0.9
    """Exponent of the learning rate's decay (1 - t/T)^power, per step."""
    precision: Precision = "auto"
