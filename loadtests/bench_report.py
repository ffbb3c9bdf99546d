"""What every benchmark writes beside its numbers: command, machine, versions, commit; as JSON and as Markdown."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

Row = Mapping[str, Any]
_PACKAGES = ("masklet", "torch", "transformers", "numpy", "grpcio")


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeated timings of one thing, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    def milliseconds(self) -> str:
        """Median and range, for people."""
        low, high = min(self.seconds), max(self.seconds)
        return f"{1e3 * self.median:.0f} ({1e3 * low:.0f}-{1e3 * high:.0f})"


def spread(seconds: Iterable[float]) -> Spread:
    """Timings as a `Spread`."""
    return Spread(tuple(seconds))


@dataclass(slots=True)
class Report:
    """One run; `save` may be called again and again while it grows."""

    name: str
    sections: dict[str, list[Row]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    def add(self, section: str, row: Row) -> None:
        """Add a row to a section's table and show it."""
        self.sections.setdefault(section, []).append(row)
        print(f"[{section}] " + "  ".join(f"{key}={_shown(value)}" for key, value in row.items()), flush=True)

    def save(self, folder: Path) -> Path:
        """Write `<name>.json` and `<name>.md` into `folder`; the path of the latter."""
        folder.mkdir(parents=True, exist_ok=True)
        facts = circumstances(self.started)
        content = {"facts": facts, "sections": self.sections, "notes": self.notes}
        (folder / f"{self.name}.json").write_text(json.dumps(content, indent=1, default=_plain) + "\n")
        page = folder / f"{self.name}.md"
        page.write_text(self._markdown(facts))
        return page

    def _markdown(self, facts: Mapping[str, str]) -> str:
        lines = [f"# {self.name}", "", *(f"- {key}: {value}" for key, value in facts.items()), ""]
        for section, rows in self.sections.items():
            lines += [f"## {section}", "", *_table(rows), ""]
        lines += [*(f"- {note}" for note in self.notes), ""] if self.notes else []
        return "\n".join(lines)


def circumstances(started: datetime) -> dict[str, str]:
    """Where and on what a benchmark ran."""
    facts = {
        "command": " ".join([Path(sys.executable).name, Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": f"{started:%Y-%m-%d %H:%M} UTC",
        "cpu": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} torch threads",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "commit": _commit(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def resident_bytes() -> int:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", maxsplit=1)[1].strip()
    return platform.processor() or "unknown CPU"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"


def _commit() -> str:
    here = Path(__file__).parent
    try:
        git = ("git", "-C", str(here))
        found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ".."], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip() + (" with changes" if changed else "")


def _table(rows: Sequence[Row]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    body = ["| " + " | ".join(_shown(row.get(column, "")) for column in columns) + " |" for row in rows]
    return ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns), *body]


def _shown(value: object) -> str:
    if isinstance(value, Spread):
        return value.milliseconds()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plain(value: object) -> object:
    if isinstance(value, Spread):
        return {"median_s": value.median, "all_s": list(value.seconds)}
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
