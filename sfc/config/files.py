"""YAML files and `section.key=value` words to a Config, and back; every mistake is reported at once, with its place."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sfc.config import Backbone, Config, plugins
from sfc.config.base import Content
from sfc.config.values import marked, walk
from sfc.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "experiments"
EXPERIMENTS = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "experiments"
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
    for path in [Path(name), *(folder / name for folder in folders)]:
        if path.is_file():
            return path
    files = sorted(file.name for folder in folders for file in folder.glob("*.yaml"))
    close = difflib.get_close_matches(Path(name).name, files, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(files) or 'none'}"
    raise UserError(f"there is no file {name}{hint}")


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Address, str]]:
    """The mapping in a file, and `file:line` of each of its entries.

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

    def visit(node: yaml.Node, address: Address) -> None:
        children: list[tuple[Any, yaml.Node, yaml.Node]] = []
        if isinstance(node, yaml.MappingNode):
            children = [(key.value, key, child) for key, child in node.value]
        elif isinstance(node, yaml.SequenceNode):
            children = [(i, child, child) for i, child in enumerate(node.value)]
        for key, where, child in children:
            if (*address, key) in places and isinstance(node, yaml.MappingNode):
                raise UserError(f"{path}:{where.start_mark.line + 1}: {key} stands here twice")
            places[(*address, key)] = f"{path}:{where.start_mark.line + 1}"
            visit(child, (*address, key))

    if node is not None:
        visit(node, ())
    allow_named(value)
    return value, places


def allow_named(value: Any) -> None:
    """Let this process import the code that the user's own file or command line names as `module:name`."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            allow_named(item)
    elif isinstance(value, str) and plugins.is_path(value):
        plugins.allow(value)


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`base` with the entries of `change` put over it, section by section."""
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def merge_settings(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`merge` of settings: where the change names another method, the options of the old one go."""
    old, new = base.get("classifier"), change.get("classifier")
    if isinstance(old, dict) and isinstance(new, dict) and new.get("method") not in (None, old.get("method", "sfc")):
        base = base | {"classifier": {key: value for key, value in old.items() if key != "options"}}
    return merge(base, change)


def nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    """{"section.key": value} -> {"section": {"key": value}}."""
    result: dict[str, Any] = {}
    for name, value in changes.items():
        for key in reversed(name.split(".")):
            value = {key: value}
        result = merge(result, value)
    return result


def setting_names(config: Config | None = None) -> list[str]:
    """Every setting as `section.key`, those of `segmentation.backbone` and of the method's options too."""
    config = config or Config()
    if config.segmentation.backbone is None:
        own = config.segmentation.model_copy(update={"backbone": Backbone()})
        config = config.model_copy(update={"segmentation": own})
    return [name for name, _, _ in walk(config)]


def nearest(name: str) -> str:
    """`; did you mean ...?` with the nearest setting, or an empty text."""
    settings = setting_names() if "." in name else list(Config.model_fields)
    section, _, key = name.rpartition(".")
    same_key = [setting for setting in settings if setting.split(".")[-1] == key]
    close = [setting for setting in same_key if setting.startswith(f"{section}.")]  # one level too high
    close = close or difflib.get_close_matches(name, settings, n=1, cutoff=0.5) or same_key
    return f"; did you mean {close[0]}?" if close else ""


def _place(address: Address, places: dict[Address, str]) -> str | None:
    """Where a setting stands, else the first below it, else the section around it."""
    below = [place for other, place in places.items() if other[: len(address)] == address]
    if below:
        return places.get(address, below[0])
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
        elif item["type"] == "value_error":  # a check of a whole section begins with the setting's name below it
            message = str(item["ctx"]["error"])
            if below := re.match(r"([a-z_.]+): ", message):
                place = _place((*address, *below[1].split(".")), places) or place
                text = f"{name}.{message}" if name else message
            else:
                text = f"{name}: {message}"
        else:
            shown = json.dumps(item["input"], default=str)
            text = f"{name}: {item['msg']}" + ("" if item["type"] == "missing" else f" (found {shown})")
        lines.append(f"{place}: {text}")
    return "\n".join(dict.fromkeys(lines))


def parse_override(word: str) -> tuple[str, Any]:
    """`section.key=value`, the value read as YAML.

    Raises:
        UserError: there is no `=`, or the value is not YAML.
    """
    name, equals, text = word.partition("=")
    if not equals or not name:
        raise UserError(f"command line: {word!r} is not of the form section.key=value")
    try:
        return name, parse_yaml(text)
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
    return merge_settings(base_values, values), base_places | places


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The Config of an experiment file (a path or a bare name in experiments/) with overrides put over it.

    Raises:
        UserError: lists every mistake in the file and the overrides.
    """
    path = find_file(str(name), [EXPERIMENTS])
    return build_config(*apply_overrides(*read_values(path), overrides), str(path))


def apply_overrides(
    values: dict[str, Any], places: dict[Address, str], words: Sequence[str]
) -> tuple[dict[str, Any], dict[Address, str]]:
    """`values` and `places` with `section.key=value` words put over them; the last of equal ones holds."""
    change: dict[str, Any] = {}
    for word in words:
        name, value = parse_override(word)
        allow_named(value)
        change = merge(change, nested({name: value}))
        places = places | {tuple(name.split(".")): f"command line, {word}"}
    return merge_settings(values, change), places


def change_config(config: Config, changes: dict[str, Any]) -> Config:
    """`config` with `{"section.key": value}` put over it, checked like a file."""
    values = merge_settings(config.model_dump(mode="json"), nested(changes))
    return build_config(values, origin="changed settings")


def absolute(config: Config) -> Config:
    """`config` with the data's root and its paths to existing files and folders made absolute, so that it means the
    same in another process's working folder."""
    changes = {"data.root": str(Path(config.data.root).absolute())}
    for name, field, value in walk(config):
        if isinstance(value, str) and marked(field, Content) and Path(value).exists():
            changes[name] = str(Path(value).absolute())
    return change_config(config, changes)


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML that `load_config` reads back."""
    values = config.model_dump(mode="json")
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110)
