"""What happens to the server while it is under load: signals, restarts, commands, at given times."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from masklet.errors import ConfigError

_COMMAND_TIMEOUT_S = 120.0
_PID_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Action:
    """At `at_s` of the run: send a `verb` (KILL, TERM, ...) to, or "start", a target, or "run" a command.

    Attributes:
        at_s: seconds from the first stream's start.
        verb: a signal's name without SIG, "start" or "run".
        target: "server", "triton", a process id, or the command.
    """

    at_s: float
    verb: str
    target: str

    def __str__(self) -> str:
        """As in a scenario file."""
        return f"{self.at_s:g} {self.verb} {self.target}"


@dataclass(frozen=True, slots=True)
class Done:
    """What came of an action, in a line; `failed`: it did not do what it was to."""

    line: str
    failed: bool


class Part(Protocol):
    """A process that was started for the test."""

    @property
    def victim(self) -> int:
        """The id of the process that signals are meant for."""

    async def start(self) -> None:
        """Start it again; returns once it is ready."""


def parse_action(line: str, *, most_s: float) -> Action:
    """One line of `kills`. Raises ConfigError."""
    words = line.split(maxsplit=2)
    if len(words) != 3:
        raise ConfigError(f"kills: {line!r} must be SECONDS, a signal, start or run, and a target", field="kills")
    try:
        at_s = float(words[0])
    except ValueError:
        at_s = -1.0
    if not 0 <= at_s <= most_s:
        raise ConfigError(f"kills: {line!r} begins with {words[0]!r}, must be 0 to {most_s:g} seconds", field="kills")
    verb, target = words[1].removeprefix("SIG"), words[2]
    if verb not in ("start", "run") and f"SIG{verb}" not in signal.Signals.__members__:
        raise ConfigError(f"kills: {line!r} has {words[1]!r}, must be a signal, start or run", field="kills")
    if verb != "run" and target not in ("server", "triton") and not _is_pid(target):
        raise ConfigError(f"kills: {line!r} aims at {target!r}, must be server, triton or a process id", field="kills")
    return Action(at_s, verb, target)


def _is_pid(target: str) -> bool:
    return target.isdecimal() and len(target) <= _PID_DIGITS and int(target) > 1


def check_actions(actions: tuple[Action, ...], parts: Mapping[str, Part]) -> None:
    """Every target must be there before anything begins. Raises ConfigError."""
    for action in actions:
        named = action.target in ("server", "triton")
        if action.verb != "run" and named and action.target not in parts:
            raise ConfigError(f"kills: {action} aims at {action.target}, which --start did not start", field="kills")
        if action.verb == "start" and not named:
            raise ConfigError(f"kills: {action}: only server and triton can be started", field="kills")


async def perform_all(actions: tuple[Action, ...], parts: Mapping[str, Part], *, start_s: float) -> list[Done]:
    """All of them at their times (`start_s`: when the run began, monotonic); what came of each."""
    return list(await asyncio.gather(*(_perform_at(action, parts, start_s) for action in actions)))


async def _perform_at(action: Action, parts: Mapping[str, Part], start_s: float) -> Done:
    await asyncio.sleep(max(0.0, start_s + action.at_s - time.monotonic()))
    begun_s = time.monotonic()
    outcome, failed = await _perform(action, parts)
    took_s = time.monotonic() - begun_s
    return Done(f"{begun_s - start_s:.2f} s: {action.verb} {action.target}: {outcome} ({took_s:.2f} s)", failed)


async def _perform(action: Action, parts: Mapping[str, Part]) -> tuple[str, bool]:
    """What came of it, and whether it failed."""
    if action.verb == "run":
        return await _run(action.target)
    if action.verb == "start":
        await parts[action.target].start()
        return "ready", False
    pid = parts[action.target].victim if action.target in parts else int(action.target)
    try:
        os.kill(pid, signal.Signals[f"SIG{action.verb}"])
    except (ProcessLookupError, PermissionError) as error:
        return f"failed: {error.strerror}", True
    return f"sent to {pid}", False


async def _run(command: str) -> tuple[str, bool]:
    try:
        process = await asyncio.create_subprocess_exec(*shlex.split(command))
    except OSError as error:
        return f"failed: {error.strerror}", True
    try:
        async with asyncio.timeout(_COMMAND_TIMEOUT_S):
            status = await process.wait()
            return f"exit {status}", status != 0
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"killed after {_COMMAND_TIMEOUT_S:g} s", True
