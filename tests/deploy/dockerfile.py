"""Reads a Dockerfile as far as the tests need: stages and their instructions, continuation lines joined."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "docker"


@dataclass(frozen=True, slots=True)
class Stage:
    """From one FROM to the next; `instructions` are (name in capitals, the rest of the line)."""

    name: str
    base: str
    instructions: tuple[tuple[str, str], ...]

    def all_of(self, name: str) -> list[str]:
        return [rest for found, rest in self.instructions if found == name]

    def copied(self) -> list[str]:
        """Sources of COPY that come from the build context."""
        words = [shlex.split(rest) for rest in self.all_of("COPY")]
        return [source for one in words if not one[0].startswith("--from") for source in one[:-1]]


def read_stages(path: Path = FOLDER / "Dockerfile") -> dict[str, Stage]:
    """The stages by name."""
    found: list[list[str]] = []
    for line in _joined(path.read_text()):
        if line.startswith("FROM "):
            found.append([line])
        elif found:
            found[-1].append(line)
    return {stage.name: stage for stage in map(_stage, found)}


def chain(stages: dict[str, Stage], name: str) -> list[Stage]:
    """A stage and those it is built on, the base first."""
    stage = stages[name]
    return [*(chain(stages, stage.base) if stage.base in stages else []), stage]


def _joined(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return "\n".join(lines).replace("\\\n", " ").splitlines()


def _stage(lines: list[str]) -> Stage:
    _, base, _, name = lines[0].split()
    pairs = (line.split(None, 1) for line in lines[1:])
    return Stage(name, base, tuple((word.upper(), rest.strip()) for word, rest in pairs))
