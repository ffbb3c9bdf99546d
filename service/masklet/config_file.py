"""Reads the configuration: defaults < TOML file < environment < flags. Every key is `section.name`.

Works on the dataclass tree of `masklet.config` whatever it holds: a new section or field needs no change here,
unless its value has a range (`config_rules`).
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from masklet.config import Config
from masklet.config_rules import check_rule
from masklet.errors import ConfigError

_ENVIRONMENT_PREFIX = "MASKLET_"
# What Kubernetes and Docker set for a service named "masklet" or "masklet-...": addresses of services, not settings.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?$")
_LINK_VALUE = re.compile(r"(tcp|udp)://")
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """One thing that can be set.

    Attributes:
        path: "section.name".
        kind: the field's type, for example `int` or `str | None`.
        default: its default.
        summary: one line from the section's docstring, or empty.
    """

    path: str
    kind: Any
    default: object
    summary: str

    @property
    def section(self) -> str:
        """Everything before the last dot."""
        return self.path.rpartition(".")[0]

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return _ENVIRONMENT_PREFIX + self.path.replace(".", "_").upper()


@dataclass(frozen=True, slots=True)
class _Setting:
    """A value as found, and where."""

    value: object
    source: str


def config_keys(tree: type = Config) -> dict[str, ConfigKey]:
    """All keys of the tree by path, in the order they are declared."""
    return {key.path: key for key in _walk(tree, "")}


def load_config(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> Config:
    """The effective configuration.

    Args:
        path: a TOML file, or None.
        environ: the environment; variables are named MASKLET_<SECTION>_<NAME>.
        flags: values from the command line by key, for example {"server.port": "1"}.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, an unreadable file.
    """
    keys = config_keys()
    found: dict[str, _Setting] = {}
    found |= _from_file(path, keys) if path else {}
    found |= _from_environment(environ, keys)
    found |= {_known(key, keys, "flag"): _Setting(value, f"flag --{key}") for key, value in flags.items()}
    values = {key: _parse(keys[key], setting) for key, setting in found.items()}
    for key, value in values.items():
        check_rule(key, value, found[key].source)
    config: Config = _build(Config, values, "")
    return config


def in_environment(path: str, environ: Mapping[str, str]) -> str:
    """What the environment says of one key, as text; else the key's default."""
    key = config_keys()[path]
    value = environ.get(key.variable)
    return str(key.default) if value is None or _is_service_link(key.variable, value) else value


def check_config(config: Config) -> None:
    """Raises ConfigError if a value of a configuration made in code is out of range."""
    for key, value in _flatten(config, ""):
        check_rule(key, value, "code")


def to_toml(config: Config) -> str:
    """The whole configuration as TOML; `load_config` of it gives the same configuration."""
    lines: list[str] = []
    section = ""
    for key, value in _flatten(config, ""):
        parent, _, name = key.rpartition(".")
        if parent != section:
            section = parent
            lines += ["", f"[{section}]"]
        if value is not None:
            lines.append(f"{name} = {_toml_value(value)}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _walk(tree: type, prefix: str) -> Iterator[ConfigKey]:
    hints = typing.get_type_hints(tree)
    summaries = _summaries(tree)
    for item in dataclasses.fields(tree):
        kind = hints[item.name]
        if dataclasses.is_dataclass(kind):
            yield from _walk(typing.cast(type, kind), f"{prefix}{item.name}.")
        else:
            yield ConfigKey(prefix + item.name, kind, _default(item), summaries.get(item.name, ""))


def _default(item: dataclasses.Field[Any]) -> object:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default


def _summaries(tree: type) -> dict[str, str]:
    """What the docstring's "Attributes:" say about each field."""
    _, _, attributes = (inspect.getdoc(tree) or "").partition("Attributes:\n")
    entries = re.findall(r"^ {4}(\w+): (.+(?:\n {5,}.+)*)", attributes, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _from_file(path: Path, keys: Mapping[str, ConfigKey]) -> dict[str, _Setting]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin with a mark
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also numbers too long, and lists too deep, for the parser
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    source = f"file {path}"
    return {_known(key, keys, source): _Setting(value, source) for key, value in _table_items(table, "")}


def _table_items(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _table_items(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _from_environment(environ: Mapping[str, str], keys: Mapping[str, ConfigKey]) -> dict[str, _Setting]:
    by_variable = {key.variable: key.path for key in keys.values()}
    found = {}
    for name, value in environ.items():
        if not name.startswith(_ENVIRONMENT_PREFIX) or _is_service_link(name, value):
            continue
        path = by_variable[_known(name, by_variable, "environment", prefix=_ENVIRONMENT_PREFIX)]
        found[path] = _Setting(value, f"environment {name}")
    return found


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.search(name)) or (name.endswith("_PORT") and bool(_LINK_VALUE.match(value)))


def _known(key: str, known: Iterable[str], source: str, *, prefix: str = "") -> str:
    """`key`; ConfigError if it is not `known`. The `prefix`, which all have, makes no two alike."""
    names = list(known)
    if key in names:
        return key
    rests = [name.removeprefix(prefix) for name in names]
    near = difflib.get_close_matches(key.removeprefix(prefix), rests, n=1, cutoff=0.5)
    hint = f"; did you mean {prefix}{near[0]}?" if near else f"; known: {', '.join(sorted(names))}"
    raise ConfigError(f"unknown key {key} ({source}){hint}", field=key)


def _parse(key: ConfigKey, setting: _Setting) -> object:
    text = isinstance(setting.value, str)
    if isinstance(setting.value, str) and "\0" in setting.value:  # no path, host or name has one
        raise ConfigError(f"{key.path} has a NUL character in it (from {setting.source})", field=key.path)
    try:
        return _convert(key.kind, setting.value, from_text=text)
    except (ValueError, TypeError, OverflowError) as error:
        message = f"{key.path} is {setting.value!r}, must be {_kind_name(key.kind)} (from {setting.source})"
        raise ConfigError(message, field=key.path) from error


def _convert(kind: Any, value: object, *, from_text: bool) -> object:
    """`value` as `kind`; ValueError if it is none. Text is parsed, since environment and flags are all text."""
    origin, parameters = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value in (None, "") else _convert(parameters[0], value, from_text=from_text)
    if origin is tuple:
        items = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        return tuple(_convert(parameters[0], item, from_text=from_text) for item in typing.cast(list[object], items))
    if kind is bool:
        return _BOOLEANS[value.lower()] if isinstance(value, str) and value.lower() in _BOOLEANS else _same(bool, value)
    if kind is int:
        return int(value) if isinstance(value, str) else _same(int, value)
    if kind is float:
        return _finite(value)
    if isinstance(kind, type) and issubclass(kind, (StrEnum, Path)):
        return kind(_same(str, value))
    return _same(kind, value)


def _same(kind: type, value: object) -> Any:
    if type(value) is not kind:
        raise TypeError(f"not a {kind.__name__}")
    return value


def _finite(value: object) -> float:
    number = float(value) if isinstance(value, str) or type(value) in (int, float) else math.nan  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _kind_name(kind: Any) -> str:
    parameters = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return f"a list, each item {_kind_name(parameters[0])}, or one text with commas between"
    if parameters:  # X | None
        return f"{_kind_name(parameters[0])}, or empty"
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "one of " + ", ".join(kind)
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return names.get(kind, str(kind))


def _build(tree: type, values: Mapping[str, object], prefix: str) -> Any:
    hints = typing.get_type_hints(tree)
    given: dict[str, object] = {}
    for item in dataclasses.fields(tree):
        kind, path = hints[item.name], prefix + item.name
        if dataclasses.is_dataclass(kind):
            given[item.name] = _build(typing.cast(type, kind), values, f"{path}.")
        elif path in values:
            given[item.name] = values[path]
    return tree(**given)


def _flatten(section: Any, prefix: str) -> Iterator[tuple[str, object]]:
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        if dataclasses.is_dataclass(value):
            yield from _flatten(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, value


def _toml_value(value: object) -> str:
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return json.dumps(str(value), ensure_ascii=False)
