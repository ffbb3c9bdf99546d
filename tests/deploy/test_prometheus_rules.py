"""Rules, alerts, runbooks and configurations, by the tools of Prometheus and Alertmanager."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.prometheus import (
    FOLDER,
    GPU_ONLY,
    RUNBOOKS,
    alerts,
    known_names,
    metrics_of,
    parse_error,
    read_yaml,
    rules,
    run_tool,
    runbook_queries,
    triton_names,
)
from tests.metrics_table import TRITON, documented

from masklet.backends.fake import FakeBackend
from masklet.config import Config, ServerConfig
from masklet.server.lifecycle import Server

HEADINGS = ["What it means", "Impact", "How to look", "What to do", "How to verify"]
TEST_FILES = sorted((FOLDER / "tests").glob("*.yml"))
_FRESHNESS_WINDOWS = {"Fast": ("1h", "5m", 14.4), "Medium": ("6h", "30m", 6), "Slow": ("3d", "6h", 1)}


def test_the_configuration_and_all_its_rules_are_valid() -> None:
    done = run_tool("promtool", "check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout
    assert f"{len(alerts())} rules found" in done.stdout


def test_the_example_for_alertmanager_is_valid() -> None:
    done = run_tool("amtool", "check-config", "alertmanager.yml")
    assert done.returncode == 0, done.stdout
    named = re.findall(r"Masklet\w+", (FOLDER / "alertmanager.yml").read_text())
    assert named and all(any(alert.startswith(name) for alert in alerts()) for name in named)


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
def test_alerts_fire_and_do_not_fire(path: Path) -> None:
    done = run_tool("promtool", "test", "rules", path.name, folder=path.parent)
    assert done.returncode == 0, done.stdout


def _cases() -> list[tuple[str, bool]]:
    """Of all promtool tests: the alert, and whether it is expected to fire."""
    tests: list[dict[str, Any]] = [one for path in TEST_FILES for one in read_yaml(path)["tests"]]
    assert all(one["input_series"] for one in tests)
    return [(case["alertname"], bool(case["exp_alerts"])) for one in tests for case in one["alert_rule_test"]]


@pytest.mark.parametrize("alert", alerts())
def test_every_alert_is_tested_both_ways(alert: str) -> None:
    assert {fires for name, fires in _cases() if name == alert} == {True, False}


@pytest.mark.parametrize("alert", alerts())
def test_every_alert_says_what_a_woken_person_needs(alert: str) -> None:
    rule = alerts()[alert]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert {"summary", "description", "runbook_url"} == rule["annotations"].keys()
    page = FOLDER.parents[1] / rule["annotations"]["runbook_url"]
    assert page == RUNBOOKS / f"{alert}.md"
    assert re.findall(r"^## (.*)$", page.read_text(), flags=re.MULTILINE) == HEADINGS


def test_every_page_belongs_to_an_alert_and_is_listed_with_its_severity() -> None:
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == alerts().keys()
    listed = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (\w+) \|", (RUNBOOKS / "README.md").read_text(), flags=re.M)
    assert {(name, name, rule["labels"]["severity"]) for name, rule in alerts().items()} == set(listed)


def test_links_between_documents_lead_somewhere() -> None:
    for page in [*RUNBOOKS.glob("*.md"), *RUNBOOKS.parent.glob("*.md"), FOLDER / "README.md"]:
        for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
            name, _, anchor = target.partition("#")
            found = (page.parent / name).resolve() if name else page
            assert found.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", found.read_text(), flags=re.MULTILINE)
                assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, f"{page.name}: {target}"


def test_the_budget_burns_over_two_windows_each() -> None:
    for speed, (long, short, rate) in _FRESHNESS_WINDOWS.items():
        expression = alerts()[f"MaskletFreshnessBurn{speed}"]["expr"]
        for window in (long, short):
            assert f"ratio_rate{window} > {rate:g} * 0.01" in expression


def test_rules_read_only_metrics_that_are_documented() -> None:
    read = {name for rule in rules() for name in metrics_of(rule["expr"])}
    assert len(read) > 30
    assert read <= known_names()


_SELECTOR = re.compile(r"(masklet_\w+_total)(?:\{([^}]*)\})?\[")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')


def asked_counters() -> Iterator[tuple[str, dict[str, str], dict[str, str]]]:
    """What rules ask of counters of the service: the name, what labels have to be, and what they must not be."""
    for rule in rules():
        for name, text in _SELECTOR.findall(rule["expr"]):
            matchers = [one for one in _MATCHER.findall(text) if one[0] != "job"]
            wanted = {label: value for label, kind, value in matchers if kind.startswith("=")}
            values = [value.split("|") for value in wanted.values()]
            for chosen in product(*values):
                unwanted = {label: value for label, kind, value in matchers if kind.startswith("!")}
                yield name, dict(zip(wanted, chosen, strict=True)), unwanted


def test_the_first_scrape_has_every_counter_that_rules_read() -> None:
    """A rate that begins with the first event misses it."""
    server = Server(Config(), backend=FakeBackend())
    samples = [sample for family in server.metrics.registry.collect() for sample in family.samples]
    asked = [one for one in asked_counters() if one[0] not in documented(TRITON)]
    assert len(asked) > 20
    for name, wanted, unwanted in asked:
        found = [sample.labels for sample in samples if sample.name == name and wanted.items() <= sample.labels.items()]
        assert [one for one in found if not unwanted.items() & one.items()], (name, wanted)
    assert len(samples) < 1000


def test_calls_of_all_methods_served_are_counted_from_zero() -> None:
    names = {False: ("Segmentation",), True: ("Segmentation", "Session")}
    for operators, services in names.items():
        server = Server(Config(server=ServerConfig(session_service=operators)), backend=FakeBackend())
        (family,) = server.metrics.rpcs.collect()
        methods = {sample.labels["method"] for sample in family.samples}
        assert {method.split("/")[1] for method in methods} == {f"masklet.v1.{name}Service" for name in services}
        assert "/masklet.v1.SegmentationService/Track" in methods
        assert {sample.value for sample in family.samples} == {0}


def test_runbooks_ask_for_metrics_that_exist_and_can_be_parsed(tmp_path: Path) -> None:
    queries = runbook_queries()
    assert len(queries) > 50
    assert not parse_error(queries, tmp_path)
    assert {name for query in queries.values() for name in metrics_of(query)} <= known_names()


def test_only_what_needs_a_gpu_is_left_out_of_the_live_test() -> None:
    gpu = {name for name in triton_names() if name.startswith(GPU_ONLY)}
    assert gpu and gpu < triton_names()


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ('sum by (job) (rate(a_total{x="b"}[5m])) / on (instance) c > 0', {"a_total", "c"}),
        ("clamp_min(1 - job:d:rate5m, 0) and up == 1 unless e offset 5m", {"job:d:rate5m", "up", "e"}),
    ],
)
def test_names_are_found_in_a_query(query: str, names: set[str]) -> None:
    assert metrics_of(query) == names
