"""Prometheus, a service and a Triton, all real: what is exported, what is asked, and an alert that comes and goes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from tests.deploy.prometheus import (
    GPU_ONLY,
    known_names,
    metrics_of,
    panel_queries,
    rules,
    series_names,
    tool,
    triton_names,
)
from tests.deploy.watched import Watched
from tests.metrics_table import SERVICE, TRITON, documented, scraped

import masklet_client
from masklet_load.report import load_report

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(600)]

FRAMES = 30
LOAD_S = 80.0
PATIENCE_S = 30.0
_MAY_BE_EMPTY = ("GPU", "Requests B", "Age of what")  # there is no GPU and no Kubernetes here, and no request fails


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    tool("prometheus")
    made = Watched(tmp_path_factory.mktemp("watched"))
    with made.running():
        yield made


async def track(address: str) -> int:
    """A stream with two objects; how many frames were answered."""
    frame = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    answered = 0
    async with masklet_client.connect(address) as client, client.track((48, 64), policy="block") as stream:
        await stream.click(1, (20, 20))
        await stream.click(2, (40, 30))
        for _ in range(FRAMES):
            await stream.send(frame)
            answered += len((await anext(stream)).objects) > 0
    return answered


async def test_what_is_documented_and_what_rules_and_dashboard_read_is_there_under_load(watched: Watched) -> None:
    assert await track(watched.service) == FRAMES
    every = documented(SERVICE) | documented(TRITON)
    (ours, unused), (tritons, unused_there) = (scraped(port) for port in watched.metrics_ports)
    assert not every.keys() - ours.keys() - tritons.keys()
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    read = {name for query in panel_queries().values() for name in metrics_of(query)}
    read |= {name for rule in rules() for name in metrics_of(rule["expr"])} | triton_names()
    read |= series_names({name: metric for name, metric in every.items() if name not in unused | unused_there})
    wanted = {name for name in read - recorded - {"ALERTS"} if not name.startswith(GPU_ONLY)}
    assert wanted <= known_names()
    watched.wait(lambda: not missing(watched, wanted), "all metrics")
    assert not watched.unhealthy_rules()


def missing(watched: Watched, names: set[str]) -> set[str]:
    return names - {sample["metric"]["__name__"] for sample in watched.query('{__name__=~".+"}')}


async def test_every_panel_gets_data(watched: Watched) -> None:
    empty = {title: query for title, query in panel_queries(interval="20s").items() if is_wanted(title)}
    assert len(empty) > 50
    until_s = time.monotonic() + PATIENCE_S
    while empty and time.monotonic() < until_s:
        assert await track(watched.service) == FRAMES
        empty = {title: query for title, query in empty.items() if not watched.query(query)}
    assert not empty


def is_wanted(title: str) -> bool:
    return not title.startswith(_MAY_BE_EMPTY)


def test_alerts_fire_when_a_triton_is_killed_and_end_when_it_is_back(watched: Watched) -> None:
    expected = {"MaskletTritonDown", "MaskletTritonEjected", "MaskletNoUsableTriton"}
    assert not watched.firing() & expected
    with watched.loaded(LOAD_S) as folder:
        watched.wait(lambda: watched.values("sum(masklet_sessions)") == [2.0], "the cameras are there")
        killed_s = time.monotonic()
        watched.kill_triton()
        watched.wait(lambda: watched.firing() >= expected, f"{expected} fire")
        print(f"fired {time.monotonic() - killed_s:.1f} s after the kill")
        watched.start_triton()
        ready_s = time.monotonic()
        watched.wait(lambda: not watched.firing() & expected, f"{expected} have ended")
        print(f"ended {time.monotonic() - ready_s:.1f} s after Triton was ready")
    load = load_report(folder / "load.json").groups["all"]
    assert load.frames["answered"] + load.frames["dropped"] == load.frames["due"] > 0
    assert load.sessions["recovered restored"] == 2
