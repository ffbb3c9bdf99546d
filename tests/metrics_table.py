"""The tables of metrics in deploy/README.md, and what a scrape has to compare them with."""

from __future__ import annotations

import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

README = Path(__file__).parents[1] / "deploy" / "README.md"
SERVICE = "Metrics of the service"
TRITON = "Metrics of the model in Triton"
_ROW = re.compile(r"\| `(\w+)` \| (\w+) \| ?([^|]*) \| ([^|]+) \| ([^|]+) \|")


@dataclass(frozen=True)
class Metric:
    """A metric as it is queried, but for the suffixes of a histogram."""

    kind: str
    labels: frozenset[str]
    unit: str = ""


def documented(section: str) -> dict[str, Metric]:
    """The rows of one section's tables, by name."""
    (text,) = re.findall(rf"^## {section}$(.*?)(?=^## |\Z)", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    cells = [match.groups() for line in rows if (match := _ROW.fullmatch(line))]
    assert len(cells) == len(rows), "a row is not `name` | type | labels | unit | meaning"
    found = {
        name: Metric(kind, frozenset(re.findall(r"`(\w+)`", labels)), unit) for name, kind, labels, unit, _ in cells
    }
    assert len(found) == len(cells), "a metric is listed twice"
    return found


def scraped(port: int) -> tuple[dict[str, Metric], set[str]]:
    """What is exported at this port, by name, and the names of metrics that have no samples (and so no labels) now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    found, empty = {}, set()
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
        found[name] = Metric(family.type, labels)
        if not family.samples:
            empty.add(name)
    return found, empty


def differences(documented: dict[str, Metric], exported: dict[str, Metric], *, empty: set[str]) -> list[str]:
    """What one has and the other does not, or has otherwise; the labels of `empty` metrics are not known."""
    found = [f"{name} is exported and not documented" for name in sorted(exported.keys() - documented.keys())]
    found += [f"{name} is documented and not exported" for name in sorted(documented.keys() - exported.keys())]
    for name in sorted(documented.keys() & exported.keys()):
        said, is_ = documented[name], exported[name]
        if said.kind != is_.kind:
            found.append(f"{name} is a {is_.kind}, documented as a {said.kind}")
        if name not in empty and said.labels != is_.labels:
            found.append(f"{name} has labels {sorted(is_.labels)}, documented {sorted(said.labels)}")
    return found
