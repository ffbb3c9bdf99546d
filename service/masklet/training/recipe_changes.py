"""Single values of a recipe, changed from the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from masklet.errors import ConfigError

_ABSENT = "(none)"


def changed(content: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A recipe's TOML with some values replaced.

    Args:
        content: parsed TOML; left as it is.
        changes: like "stages.0.size=512" or "optimiser.warmup_steps=20"; values are TOML, words need no quotes.

    Raises:
        ConfigError: a change that is none, or a path that leads nowhere. Unknown keys are left to the recipe's checks.
    """
    result = deepcopy(dict(content))
    for change in changes:
        path, equals, value = change.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set is {change}, must be KEY=VALUE, for example stages.0.size=512", field=path)
        _set(result, path.strip().split("."), _value(value.strip()), change)
    return result


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What `new` has otherwise than `old`, both recipes as plain tables: like "stages.0.size 256 -> 512"."""
    before, after = _flat(old), _flat(new)
    names = [name for name in {**before, **after} if before.get(name, _ABSENT) != after.get(name, _ABSENT)]
    return [f"{name} {before.get(name, _ABSENT)} -> {after.get(name, _ABSENT)}" for name in names]


def _flat(table: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(table, Mapping):
        items: Any = table.items()
    elif isinstance(table, list | tuple):
        items = enumerate(table)
    else:
        return {prefix.removesuffix("."): table}
    return {name: value for key, inner in items for name, value in _flat(inner, f"{prefix}{key}.").items()}


def _set(table: Any, path: list[str], value: object, change: str) -> None:
    for depth, key in enumerate(path[:-1]):
        if isinstance(table, dict):
            table = table.setdefault(key, {})
        elif isinstance(table, list) and key.isdecimal() and int(key) < len(table):
            table = table[int(key)]
        else:
            held = f"{len(table)} tables, from 0" if isinstance(table, list) else "no tables"
            raise ConfigError(f"--set {change}: {'.'.join(path[:depth]) or 'the recipe'} has {held}, so no {key}")
    if not isinstance(table, dict):
        raise ConfigError(f"--set {change}: {'.'.join(path[:-1])} is no table")
    table[path[-1]] = value


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
