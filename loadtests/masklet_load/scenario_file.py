"""Reads scenarios: defaults < TOML file < flags. Every mistake is one error that names the key and the value."""

from __future__ import annotations

import difflib
import math
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from masklet.errors import ConfigError
from masklet_load.actions import parse_action
from masklet_load.scenario import CHOICES, MAX_DURATION_S, MAX_SESSIONS, MAX_STREAMS, RANGES, Scenario

SCENARIOS = Path(__file__).resolve().parent.parent / "scenarios.toml"
_KIND_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}


def field_kinds() -> dict[str, Any]:
    """The type of each field of `Scenario`, in the order declared."""
    hints = typing.get_type_hints(Scenario)
    return {item.name: hints[item.name] for item in fields(Scenario)}


def load_scenario(name: str, path: Path | None, overrides: Mapping[str, object]) -> Scenario:
    """The scenario `name` of a file with `overrides`; an empty name: the defaults with them.

    Args:
        name: a table of the file.
        path: the file; None: the one of the source tree.
        overrides: values by field, text or of the field's type.

    Raises:
        ConfigError: an unreadable file, an unknown scenario or key, a value of the wrong type or out of range.
    """
    given: dict[str, object] = {}
    if name:
        table = _table(name, path or SCENARIOS)
        given |= {key: _value(key, value, f"[{name}] of {(path or SCENARIOS).name}") for key, value in table.items()}
    given |= {key: _value(key, value, f"flag {flag_of(key)}") for key, value in overrides.items()}
    scenario = Scenario(**given)  # type: ignore[arg-type]
    check_scenario(scenario)
    return scenario


def scenario_names(path: Path | None) -> list[str]:
    """The names a file has. Raises ConfigError."""
    return list(_tables(path or SCENARIOS))


def flag_of(key: str) -> str:
    """The flag of a field."""
    return "--" + key.replace("_", "-").removesuffix("s" if key == "kills" else "")


def check_scenario(scenario: Scenario) -> None:
    """What the fields must be together. Raises ConfigError."""
    longest = max(scenario.warm_up_s, scenario.spike_at_s, scenario.ramp_s)
    if longest >= scenario.duration_s:
        raise ConfigError(
            f"warm_up_s, spike_at_s and ramp_s go up to {longest:g}, must be below duration_s = {scenario.duration_s:g}"
        )
    together = scenario.streams + scenario.spike_streams
    if together > MAX_STREAMS:
        raise ConfigError(f"streams + spike_streams is {together}, must be at most {MAX_STREAMS}")
    sessions = together + scenario.churn_per_s * scenario.duration_s
    if sessions > MAX_SESSIONS:
        raise ConfigError(f"churn_per_s for duration_s makes {sessions:.0f} sessions, the limit is {MAX_SESSIONS}")
    if scenario.storm_every_s and scenario.storm_every_s * 1000 < scenario.duration_s:
        raise ConfigError(f"storm_every_s is {scenario.storm_every_s:g}: more than 1000 storms in duration_s")


def _tables(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "; name one with --scenarios" if path == SCENARIOS else ""
        raise ConfigError(f"cannot read the scenario file {path}: {error.strerror}{hint}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    for name, table in found.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{path.name}: {name} is {table!r}, must be a table [{name}]", field=name)
    return found


def _table(name: str, path: Path) -> dict[str, Any]:
    tables = _tables(path)
    if name not in tables:
        raise ConfigError(f"no scenario {name!r} in {path.name}{_near(name, tables)}", field=name)
    found: dict[str, Any] = tables[name]
    return found


def _near(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"


def _value(key: str, value: object, source: str) -> object:
    kinds = field_kinds()
    if key not in kinds:
        raise ConfigError(f"unknown key {key} ({source}){_near(key, kinds)}", field=key)
    try:
        converted = _convert(kinds[key], value)
    except ValueError:
        wanted = _KIND_NAMES.get(kinds[key], "a list of texts")
        raise ConfigError(f"{key} is {value!r}, must be {wanted} ({source})", field=key) from None
    _check(key, converted, source)
    return converted


def _convert(kind: Any, value: object) -> object:
    """`value` as `kind`; ValueError if it is none. Flags are text."""
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise ValueError
        return tuple(value)
    if kind is bool and isinstance(value, str):
        if value.lower() not in _BOOLEANS:
            raise ValueError
        return _BOOLEANS[value.lower()]
    if kind is float and isinstance(value, str | int | float) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, str):
        return int(value)
    if type(value) is not kind:
        raise ValueError
    return value


def _check(key: str, value: object, source: str) -> None:
    if key in CHOICES and value not in CHOICES[key]:
        raise ConfigError(f"{key} is {value!r}, must be one of {', '.join(CHOICES[key])} ({source})", field=key)
    if key == "kills" and isinstance(value, tuple):
        for line in value:
            parse_action(line, most_s=MAX_DURATION_S)
    if key in RANGES and isinstance(value, int | float):
        low, high = RANGES[key]
        if not (math.isfinite(value) and low <= value <= high):
            raise ConfigError(f"{key} is {value:g}, must be {low:g} to {high:g} ({source})", field=key)
