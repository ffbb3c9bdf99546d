"""What runbooks ask Prometheus for is answered: sides of an operator have labels that match."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.prometheus import FOLDER, rules, run_tool, runbook_queries, triton_names
from tests.metrics_table import SERVICE, TRITON, Metric, documented

MINUTES = 70
SCRAPED = {"masklet-front": ("a:9464", "b:9464"), "masklet-triton": ("a:8002", "b:8002")}
_MATCHER = re.compile(r'(\w+)=~?"([^"$]*)"')
_CHANGE = re.compile(r"\b(?:changes|increase)\(")
_RESTARTED = "process_start_time_seconds"
_FRAMES = "masklet_frames_received_total"
_TRITON_LABELS = frozenset({"model", "version"})


def asked_values() -> dict[str, set[str]]:
    """What labels are compared with in the queries, and in the rules that they read, by label."""
    found: dict[str, set[str]] = {}
    for query in [*runbook_queries().values(), *(rule["expr"] for rule in rules() if "record" in rule)]:
        for label, values in _MATCHER.findall(query):
            found.setdefault(label, set()).update(values.split("|"))
    return found


def series_of(name: str, metric: Metric, job: str) -> list[dict[str, str]]:
    """As both instances of a job export it; counters rise, gauges are 1. All were restarted half an hour ago."""
    values, found = asked_values(), []
    rising = metric.kind in ("counter", "histogram")
    names = [f"{name}_{suffix}" for suffix in ("bucket", "sum", "count")] if metric.kind == "histogram" else [name]
    for one, instance in product(names, SCRAPED[job]):
        choices: dict[str, list[str]] = {label: sorted({"some", *values.get(label, ())}) for label in metric.labels}
        if one.endswith("_bucket"):
            choices["le"] = ["0.1", "+Inf"]
        for chosen in product(*choices.values()):
            labels = dict(zip(choices, chosen, strict=True)) | {"job": job, "instance": instance, "pod": instance[0]}
            text = ", ".join(f'{label}="{value}"' for label, value in labels.items())
            found.append({"series": f"{one}{{{text}}}", "values": _course(one, rising=rising)})
    return found


def _course(name: str, *, rising: bool) -> str:
    if name == _RESTARTED:
        return f"1x{MINUTES - 30} 2x30"
    step = 100 if name == _FRAMES else 1  # most can be decoded
    return f"{f'0+{step}' if rising else '1'}x{MINUTES}"


def everything_scraped() -> list[dict[str, str]]:
    exported = {name: (metric, "masklet-front") for name, metric in documented(SERVICE).items()}
    exported |= {name: (metric, "masklet-triton") for name, metric in documented(TRITON).items()}
    for name in triton_names():
        counts = re.search(r"_(success|failure|count|us)$", name) and "pending" not in name
        labels = _TRITON_LABELS | {"reason"} if name.endswith("failure") else _TRITON_LABELS
        exported[name] = (Metric("counter" if counts else "gauge", labels), "masklet-triton")
    found = [series for name, (metric, job) in exported.items() for series in series_of(name, metric, job)]
    return found + [series for job in SCRAPED for series in series_of("up", Metric("gauge", frozenset()), job)]


@pytest.fixture
def asked(tmp_path: Path) -> Any:
    def ask(queries: dict[str, str]) -> str:
        """What promtool says of queries that find nothing, or no change; empty: all find something."""
        checks = [
            {"expr": f"count({_found(query)}) > bool 0", "eval_time": f"{MINUTES}m", "exp_samples": _ONE}
            for query in queries.values()
        ]
        test = {"interval": "1m", "input_series": everything_scraped(), "promql_expr_test": checks}
        files = [str(FOLDER / "rules" / "recording.yml")]
        text = yaml.safe_dump({"rule_files": files, "evaluation_interval": "1m", "tests": [test]})
        (tmp_path / "test.yml").write_text(text)
        done = run_tool("promtool", "test", "rules", "test.yml", folder=tmp_path)
        return "" if done.returncode == 0 else done.stdout

    return ask


_ONE = [{"labels": "{}", "value": 1}]


def _found(query: str) -> str:
    """What it has to find: any value, or above 0 if it asks how much something changed."""
    filled = query.replace("HOST:9464", "a:9464")
    return f"({filled}) > 0" if _CHANGE.search(query) else filled


def test_every_query_of_a_runbook_finds_something(asked: Any) -> None:
    assert len(runbook_queries()) > 50
    assert asked(runbook_queries()) == ""


def test_sides_that_do_not_match_would_be_noticed(asked: Any) -> None:
    assert "sum by (instance) (up) / masklet_ready" in asked({"": "sum by (instance) (up) / masklet_ready"})


@pytest.mark.parametrize("query", ["changes(masklet_build_info[1h])", "increase(masklet_ready[1h])"])
def test_changes_of_what_never_changes_would_be_noticed(asked: Any, query: str) -> None:
    assert query in asked({"": query})
    assert asked({"": "changes(process_start_time_seconds[1h])"}) == ""
