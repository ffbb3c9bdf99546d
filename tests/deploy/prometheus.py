"""The rules, queries and tools of deploy/prometheus and deploy/grafana, as the tests need them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.metrics_table import SERVICE, TRITON, Metric, documented

DEPLOY = Path(__file__).parents[2] / "deploy"
FOLDER = DEPLOY / "prometheus"
RUNBOOKS = DEPLOY / "runbooks"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "masklet.json"
GPU_ONLY = "nv_gpu_"
_PACKAGES = {"promtool": "prometheus", "prometheus": "prometheus", "amtool": "prometheus-alertmanager"}
_TOOL_TIMEOUT_S = 110
_OPERATOR_EVERY_S = 30  # the Prometheus operator's evaluationInterval
_WORDS = {"and", "or", "unless", "by", "on", "ignoring", "group_left", "group_right", "bool", "offset", "without"}
_SUFFIXES = ("_bucket", "_sum", "_count")
_PROMETHEUS_OWN = {"up", "ALERTS"}


def tool(name: str) -> str:
    """Where it is; skips the test where it is not, on CI that is a failure."""
    if found := shutil.which(name):
        return found
    message = f"{name} is missing: apt-get install {_PACKAGES[name]}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def run_tool(name: str, *words: object, folder: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    """Output of both kinds in `stdout`."""
    command = [tool(name), *map(str, words)]
    return subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_TOOL_TIMEOUT_S
    )


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@cache
def rules() -> list[dict[str, Any]]:
    """All rules: recording rules have a `record`, alerts an `alert`."""
    files = sorted((FOLDER / "rules").glob("*.yml"))
    return [rule for path in files for group in read_yaml(path)["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """By name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def drain_told_s(drain_s: float) -> float:
    """When, after its SIGTERM, somebody has heard at the latest that a front's drain is stuck."""
    rule, route = alerts()["MaskletDrainStuck"], read_yaml(FOLDER / "alertmanager.yml")["route"]
    (late_s,) = re.findall(r"> masklet_drain_timeout_seconds \+ (\d+)$", rule["expr"])
    every = read_yaml(FOLDER / "prometheus.yml")["global"]
    steps = [every["scrape_interval"], rule["for"], route["group_wait"]]
    evaluated_s = max(_OPERATOR_EVERY_S, seconds(every["evaluation_interval"]))
    return drain_s + int(late_s) + evaluated_s + sum(map(seconds, steps))


def seconds(text: str) -> int:
    """Of "30s"."""
    found = re.fullmatch(r"(\d+)s", text)
    assert found, text
    return int(found[1])


def panels() -> list[dict[str, Any]]:
    """Of the dashboard, rows left out."""
    found = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def panel_queries(*, job: str = ".*", triton: str = ".*", interval: str = "5m") -> dict[str, str]:
    """Queries of the dashboard by panel and number, with values in place of its variables."""
    values = {"$job": job, "$triton": triton, "$__rate_interval": interval}
    found = {}
    for panel in panels():
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in values.items():
                query = query.replace(name, value)
            assert "$" not in query, f"{panel['title']} uses a variable nobody sets: {query}"
            found[f"{panel['title']} {target['refId']}"] = query
    return found


def runbook_queries() -> dict[str, str]:
    """By page and line."""
    found: dict[str, str] = {}
    for page in sorted(RUNBOOKS.glob("*.md")):
        for block in re.findall(r"^```promql\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
            for number, line in enumerate(block.splitlines()):
                found[f"{page.stem} {number} {len(found)}"] = line.partition("   #")[0]
    return found


def metrics_of(query: str) -> set[str]:
    """The names of the metrics and recorded series it reads."""
    bare = re.sub(r'"[^"]*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", "", bare)
    names = re.findall(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?!\w|\s*\()", bare)
    return {name for name in names if name not in _WORDS}


@cache
def known_names() -> set[str]:
    """What the two READMEs say is exported, with histograms' suffixes, and what rules record."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    return recorded | triton_names() | _PROMETHEUS_OWN | series_names(documented(SERVICE) | documented(TRITON))


def series_names(metrics: Mapping[str, Metric]) -> set[str]:
    """Their names as they are queried, with histograms' suffixes."""
    suffixes = {name: _SUFFIXES if metric.kind == "histogram" else ("",) for name, metric in metrics.items()}
    return {name + suffix for name in metrics for suffix in suffixes[name]}


def triton_names() -> set[str]:
    """Triton's own metrics that rules and dashboard may use, of the table in deploy/prometheus/README.md."""
    return set(re.findall(r"^\| `(nv_\w+)` \|", (FOLDER / "README.md").read_text(), flags=re.MULTILINE))


def parse_error(queries: dict[str, str], folder: Path) -> str:
    """What promtool says is wrong with them; empty: nothing."""
    made = [{"record": f"q:{number}", "expr": query} for number, query in enumerate(queries.values())]
    path = folder / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": made}]}))
    done = run_tool("promtool", "check", "rules", path)
    return "" if done.returncode == 0 else done.stdout
