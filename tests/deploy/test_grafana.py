"""The dashboard: well-formed, and every query can be parsed and reads metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.deploy.prometheus import (
    DASHBOARD,
    DEPLOY,
    known_names,
    metrics_of,
    panel_queries,
    panels,
    parse_error,
    read_yaml,
)

PROVISIONING = DEPLOY / "grafana" / "provisioning"
COLUMNS = 24


def test_panels_have_ids_of_their_own_and_say_what_they_show() -> None:
    everything = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < COLUMNS
        taken |= cells


def test_every_query_can_be_parsed(tmp_path: Path) -> None:
    assert not parse_error(panel_queries(), tmp_path)


def test_every_query_reads_metrics_that_are_documented() -> None:
    for title, query in panel_queries().items():
        assert metrics_of(query) <= known_names(), title


def test_every_panel_asks_the_data_source_and_the_jobs_that_were_chosen() -> None:
    for panel in panels():
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
            chosen = re.search(r'job=~"\$(job|triton)"', target["expr"])
            assert chosen or metrics_of(target["expr"]) == {"ALERTS"}, target["expr"]


def test_the_variables_are_those_the_queries_use() -> None:
    variables = {one["name"] for one in json.loads(DASHBOARD.read_text())["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", DASHBOARD.read_text()))
    assert used == variables


def test_provisioning_finds_the_dashboard_and_a_prometheus() -> None:
    (source,) = read_yaml(PROVISIONING / "datasources" / "prometheus.yml")["datasources"]
    (provider,) = read_yaml(PROVISIONING / "dashboards" / "masklet.yml")["providers"]
    assert (source["type"], source["url"]) == ("prometheus", "$PROMETHEUS_URL")
    assert provider["options"]["path"] in (DEPLOY / "grafana" / "README.md").read_text()
