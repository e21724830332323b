"""YAML files and `section.key=value` words to a Config, and back; every mistake is reported at once, with its place."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from sfc.config import Config
from sfc.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
EXPERIMENTS = next(
    (folder for folder in (_PACKAGE / "experiments", _PACKAGE.parent / "experiments") if folder.is_dir()),
    _PACKAGE.parent / "experiments",
)
"""Folder of the YAML files: inside the installed package, or beside `sfc/` in a checkout."""

Address = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: 1e-4 is a number, which PyYAML's rules read as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?)$"),
    list("-+0123456789."),
)
# Whole numbers also match the pattern above; the resolver of integers has to be asked first.
for _first, _rules in _Loader.yaml_implicit_resolvers.items():
    _Loader.yaml_implicit_resolvers[_first] = sorted(_rules, key=lambda rule: rule[0].endswith(":float"))


def parse_yaml(text: str) -> Any:
    """A YAML document of plain values; no tag can make an object."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except (ValueError, AttributeError) as error:  # a value that looks like a date and is none
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader above would not read as text."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def find_file(name: str, folders: Sequence[Path]) -> Path:
    """`name` as a path, else a bare name in one of the folders.

    Raises:
        UserError: it is in neither; lists what the folders hold.
    """
    path = Path(name)
    for place in [path, *(folder / name for folder in folders)]:
        if place.is_file():
            return place
    known = sorted(file.name for folder in folders for file in folder.glob("*.yaml"))
    close = difflib.get_close_matches(path.name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known) or 'none'}"
    raise UserError(f"there is no file {name}{hint}")


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Address, str]]:
    """The mapping in a file, and the place `file:line` of each of its entries.

    Raises:
        UserError: not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file") from None
    try:
        value, node = parse_yaml(text), yaml.compose(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if value is None:
        return {}, {}
    if not isinstance(value, dict):
        raise UserError(f"{path}:1: expected `section:` with settings below it, found {type(value).__name__}")
    places: dict[Address, str] = {}

    def walk(node: yaml.Node, address: Address) -> None:
        children: list[tuple[Any, yaml.Node, yaml.Node]] = []
        if isinstance(node, yaml.MappingNode):
            children = [(key.value, key, child) for key, child in node.value]
        elif isinstance(node, yaml.SequenceNode):
            children = [(i, child, child) for i, child in enumerate(node.value)]
        for key, where, child in children:
            if (*address, key) in places and isinstance(node, yaml.MappingNode):
                raise UserError(f"{path}:{where.start_mark.line + 1}: {key} stands here twice")
            places[(*address, key)] = f"{path}:{where.start_mark.line + 1}"
            walk(child, (*address, key))

    walk(node, ())
    return value, places


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`base` with the entries of `change` put over it, section by section."""
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section class that a field holds, `Section | None` too; None for a plain setting."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def field_at(address: Sequence[str | int]) -> type[BaseModel] | Any | None:
    """The section class or the field that an address such as ("classifier", "lr") names, or None."""
    model: Any = Config
    for i, key in enumerate(address):
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or key not in model.model_fields:
            return None
        field = model.model_fields[str(key)]
        nested = section_of(field.annotation)
        if i == len(address) - 1:
            return nested or field
        model = nested
    return model


def setting_names() -> list[str]:
    """Every setting as `section.key`."""

    def names(model: type[BaseModel], prefix: str) -> list[str]:
        found = []
        for key, field in model.model_fields.items():
            nested = section_of(field.annotation)
            found += names(nested, f"{prefix}{key}.") if nested else [f"{prefix}{key}"]
        return found

    return names(Config, "")


def nearest(name: str) -> str:
    """`; did you mean ...?` with the nearest setting, or nothing."""
    known = setting_names() if "." in name else list(Config.model_fields)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:  # the right key under a wrong section
        close = [k for k in known if k.split(".")[-1] == name.split(".")[-1]][:1]
    return f"; did you mean {close[0]}?" if close else ""


def _place(address: Address, places: dict[Address, str]) -> str | None:
    """Where a setting was given: itself, something below it, or the section it stands in."""
    below = [place for known, place in places.items() if known[: len(address)] == address]
    if address in places or below:
        return places.get(address) or below[0]
    return _place(address[:-1], places) if len(address) > 1 else None


def explain(error: ValidationError, places: dict[Address, str], origin: str) -> str:
    """One line a mistake: place, setting, what is wrong, the nearest right name."""
    lines = []
    for item in error.errors(include_url=False):
        address: Address = tuple(item["loc"])
        place = _place(address, places) or origin
        name = ".".join(str(part) for part in address)
        if item["type"] == "extra_forbidden":
            text = f"unknown setting {name}{nearest(name)}"
        elif item["type"] == "value_error":
            text = f"{name}.{item['ctx']['error']}" if name else str(item["ctx"]["error"])
        else:
            shown = json.dumps(item["input"], default=str)
            text = f"{name}: {item['msg']}" + ("" if item["type"] == "missing" else f" (found {shown})")
        line = f"{place}: {text}"
        if line not in lines:
            lines.append(line)
    return "\n".join(lines)


def parse_override(word: str) -> tuple[Address, Any]:
    """`section.key=value`, the value read as YAML.

    Raises:
        UserError: there is no `=`, or the value is not YAML.
    """
    name, equals, text = word.partition("=")
    if not equals or not name:
        raise UserError(f"command line: {word!r} is not of the form section.key=value")
    try:
        return tuple(name.split(".")), parse_yaml(text)
    except yaml.YAMLError:
        raise UserError(f"command line: the value in {word!r} is not YAML") from None


def build_config(values: dict[str, Any], places: dict[Address, str] | None = None, origin: str = "settings") -> Config:
    """A Config from nested plain values.

    Raises:
        UserError: lists every mistake.
    """
    try:
        return Config.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise UserError(explain(error, places or {}, origin)) from None


def read_values(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict[str, Any], dict[Address, str]]:
    """An experiment's values and places; a top entry `base: FILE` names the experiment that it changes."""
    values, places = read_yaml(path)
    base = values.pop("base", None)
    if base is None:
        return values, places
    beside = path.parent / str(base)
    file = beside if beside.is_file() else find_file(str(base), [path.parent, EXPERIMENTS])
    chain = (*above, path.resolve())
    if file.resolve() in chain:
        raise UserError(f"{places[('base',)]}: base {base} leads back to itself")
    base_values, base_places = read_values(file, chain)
    return merge(base_values, values), base_places | places


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The Config of an experiment file (a path or a bare name in experiments/) with overrides put over it.

    Raises:
        UserError: lists every mistake in the file and the overrides.
    """
    path = find_file(str(name), [EXPERIMENTS])
    values, places = read_values(path)
    for word in overrides:
        values, places = apply_override(values, places, word)
    return build_config(values, places, str(path))


def apply_override(
    values: dict[str, Any], places: dict[Address, str], word: str
) -> tuple[dict[str, Any], dict[Address, str]]:
    """`values` and `places` with one override put over them."""
    address, value = parse_override(word)
    return merge(values, nest(address, value)), places | {address: f"command line, {word}"}


def nest(address: Sequence[str | int], value: Any) -> dict[str, Any]:
    """("a", "b"), 1 -> {"a": {"b": 1}}."""
    for key in reversed(address):
        value = {str(key): value}
    return value


def change_config(config: Config, changes: dict[str, Any]) -> Config:
    """`config` with `{"section.key": value}` put over it, checked like a file."""
    values = config.model_dump(mode="json")
    for name, value in changes.items():
        values = merge(values, nest(name.split("."), value))
    return build_config(values, origin="changed settings")


def absolute(config: Config) -> Config:
    """`config` with its paths made absolute, so that it means the same in another process's working folder."""
    changes: dict[str, Any] = {"data.root": str(Path(config.data.root).absolute())}
    sections = {name: getattr(config, name) for name in ("backbone", "classifier", "affinity")}
    sections["segmentation.backbone"] = config.segmentation.backbone
    for name, section in sections.items():
        if section and section.weights and Path(section.weights).is_file():
            changes[f"{name}.weights"] = str(Path(section.weights).absolute())
    return change_config(config, changes)


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML that `load_config` reads back."""
    values = config.model_dump(mode="json")
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110)
