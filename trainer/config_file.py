"""Reading a settings file: YAML, `--set` overrides, and errors that name the line and the nearest key."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, Union

import yaml
from pydantic import BaseModel, ValidationError

_BOOL = "tag:yaml.org,2002:bool"

READY_CONFIGS = Path(__file__).parent / "configs"

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but true and false alone are truth values, as in YAML 1.2: `precision: no` is a word."""

    yaml_implicit_resolvers = {
        letter: [resolver for resolver in resolvers if resolver[0] != _BOOL]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(_BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


class ConfigError(ValueError):
    """Settings that cannot be used; the message lists every fault with its place."""


@dataclass
class Source:
    """The values of a settings file and where each stands: dotted key -> "file, line 3" or "--set"."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)


def find_config(name: str) -> Path:
    """The file of that path, or the ready one of that name. Raises ConfigError."""
    path = Path(name)
    if path.is_file():
        return path
    ready = {file.stem: file for file in sorted(READY_CONFIGS.glob("*.yaml"))}
    stem = path.name.removesuffix(".yaml")
    if str(path) in (stem, f"{stem}.yaml") and stem in ready:
        return ready[stem]
    raise ConfigError(f"there is no settings file {name}; the ready ones are {', '.join(ready)}.")


def read_config(model: type[Model], name: str, overrides: Sequence[str] = ()) -> Model:
    """Read a settings file, apply `a.b=value` overrides and check everything the values alone can tell.

    Raises ConfigError with every fault, its line and, for an unknown key, the nearest known one.
    """
    source = read_source(find_config(name))
    for override in overrides:
        _apply(source, override)
    return validated(model, source)


def validated(model: type[Model], source: Source) -> Model:
    """The source's values as settings. Raises ConfigError."""
    try:
        return model.model_validate(source.values)
    except ValidationError as error:
        faults = [_fault(model, source, details) for details in error.errors()]
        raise ConfigError(f"{source.name} cannot be used:\n" + "\n".join(f"- {fault}" for fault in faults)) from None


def read_source(path: Path) -> Source:
    """Parse a YAML file. Raises ConfigError if it is no YAML, no mapping, or gives a key twice."""
    source = Source(path.name)
    try:
        node = yaml.compose(path.read_text("utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a YAML file: {error}") from None
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path} holds no settings: it should be lines of `key: value`.")
    for key, line in _keys(node, ""):
        if key in source.places:
            raise ConfigError(f"{path.name}, line {line}: {key} is given twice (first in {source.places[key]}).")
        source.places[key] = f"{path.name}, line {line}"
    source.values = _Loader("").construct_document(node)
    return source


def dump(values: Mapping[str, Any]) -> str:
    """Settings as YAML text, in the order of the model."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=120)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted key -> value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        flat.update(flatten(value, f"{dotted}.") if isinstance(value, Mapping) and value else {dotted: value})
    return flat


def known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key that a settings file may hold, sections included."""
    for name, info in model.model_fields.items():
        yield f"{prefix}{name}"
        for section in _sections(info.annotation):
            yield from known_keys(section, f"{prefix}{name}.")


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return [section for part in typing.get_args(annotation) for section in _sections(part)]
    return []


def _keys(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, int]]:
    for key_node, value_node in node.value:
        key = f"{prefix}{key_node.value}"
        yield key, key_node.start_mark.line + 1
        if isinstance(value_node, yaml.MappingNode):
            yield from _keys(value_node, f"{key}.")


def _apply(source: Source, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override}: write it as key=value, for instance --set optimiser.learning_rate=1e-4.")
    *sections, last = key.strip().split(".")
    values = source.values
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {section} is a single value, not a section.")
        values = inner
    try:
        values[last] = yaml.load(text, _Loader)
    except yaml.YAMLError:
        values[last] = text
    source.places[key.strip()] = f"--set {override}"


def _fault(model: type[BaseModel], source: Source, details: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in details["loc"])
    shown = [part for part in details["loc"] if not isinstance(part, int)]
    place = source.places.get(".".join(map(str, shown)), source.name)
    if details["type"] == "extra_forbidden":
        return f"{place}: there is no setting {key}{_nearest(model, key)}"
    if details["type"] == "missing":
        return f"{source.name}: the setting {key} is missing."
    message = details["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{place}: {key} is {details['input']!r}: {message[0].lower()}{message[1:]}."


def _nearest(model: type[BaseModel], key: str) -> str:
    known = list(known_keys(model))
    section = key.rpartition(".")[0]
    beside = [other for other in known if other.rpartition(".")[0] == section]
    close = difflib.get_close_matches(key, beside, 1, 0.7)
    close = close or [other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2]]
    close = close or difflib.get_close_matches(key, known, 1, 0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; {'in ' + section if section else 'at the top'} there are {', '.join(beside)}."
