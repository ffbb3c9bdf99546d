"""Lists and watches over real HTTP, and all the ways they end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace

import pytest
from tests.routing.kubernetes_server import SETTINGS, ApiServer, endpoint

from masklet.observability.metrics import Metrics
from masklet.routing.discovery import Standing
from masklet.routing.kubernetes_api import KubernetesApi, connect
from masklet.routing.kubernetes_slices import Service, Sighting
from masklet.routing.kubernetes_watch import SliceWatcher

TRITON = Service("triton", "", "8001")


class Watched:
    """A watcher, and what it has told."""

    def __init__(self, api: KubernetesApi, settings, pause: Callable[[float], bool] | None = None) -> None:
        self.metrics = Metrics()
        self.seen: Sighting | None = None
        self.watcher = SliceWatcher(api, TRITON, settings, metrics=self.metrics, tell=self._tell, pause=pause)

    def _tell(self, watcher: SliceWatcher, seen: Sighting) -> None:
        self.seen = seen

    @property
    def hosts(self) -> dict[str, Standing]:
        found = self.seen.found if self.seen else {}
        return {address.removesuffix(":8001"): standing for address, standing in found.items()}

    def errors(self, operation: str, reason: str) -> float:
        labels = {"operation": operation, "reason": reason}
        return self.metrics.registry.get_sample_value("masklet_kubernetes_errors_total", labels) or 0.0


@pytest.fixture
def api(api):
    api.put("s-1", endpoint("10.0.0.1"), endpoint("10.0.0.2"))
    return api


@pytest.fixture
def watching(kubeconfig_path):
    @contextmanager
    def begin(pause=None, **settings):
        known = replace(SETTINGS, kubeconfig=str(kubeconfig_path), **settings)
        client = KubernetesApi(connect(known), known)
        watched = Watched(client, known, pause)
        watched.watcher.start()
        try:
            yield watched
        finally:
            watched.watcher.stop()
            client.close()
            assert not watched.watcher._thread.is_alive()

    return begin


def until(true: Callable[[], object], within_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline_s, "did not happen"
        time.sleep(0.005)


def test_endpoints_come_and_go(api: ApiServer, watching):
    with watching() as watched:
        until(lambda: set(watched.hosts) == {"10.0.0.1", "10.0.0.2"})
        api.put("s-2", endpoint("10.0.0.3", ready=False))
        until(lambda: watched.hosts.get("10.0.0.3") is Standing.HELD)
        api.put("s-1", endpoint("10.0.0.2", ready=False, terminating=True))
        until(lambda: watched.hosts == {"10.0.0.2": Standing.LEAVING, "10.0.0.3": Standing.HELD})
        api.remove("s-1")
        until(lambda: set(watched.hosts) == {"10.0.0.3"})
        assert api.count("list", "endpointslices") == 1
        assert api.selectors == {"kubernetes.io/service-name=triton"}


def test_a_watch_goes_on_where_the_last_one_ended_bookmarks_included(api: ApiServer, watching):
    with watching() as watched:
        until(lambda: api.count("watch", "endpointslices") >= 1)
        version = str(api.bookmark())
        until(lambda: api.options("watch", "endpointslices")[-1]["resourceVersion"] == version)
        assert api.count("list", "endpointslices") == 1
        assert api.options("watch", "endpointslices")[-1]["allowWatchBookmarks"].lower() == "true"
        assert (watched.errors("watch", "unreachable"), watched.errors("watch", "gone")) == (0, 0)


@pytest.mark.parametrize("form", ["status", "event"])
def test_410_gone_lists_anew(api: ApiServer, watching, form: str):
    api.gone = form
    with watching() as watched:
        until(lambda: api.count("list", "endpointslices") >= 2)
        api.slices.clear()  # without an event: only a list can tell
        until(lambda: watched.seen and not watched.hosts)
        api.gone = ""
        api.put("s-3", endpoint("10.0.0.9"))
        until(lambda: set(watched.hosts) == {"10.0.0.9"})
        assert watched.errors("watch", "gone") >= 1


def test_410_again_and_again_is_not_asked_for_without_pauses(api: ApiServer, watching):
    api.gone, waited = "event", []

    def pause(pause_s: float) -> bool:
        waited.append(pause_s)
        return len(waited) >= 12

    with watching(pause, retry_min_s=0.5, retry_max_s=30.0) as watched:
        until(lambda: not watched.watcher._thread.is_alive())
    assert 0.25 <= waited[0] <= 0.5
    assert all(15 <= one <= 30 for one in waited[7:])


def test_a_watch_that_falls_silent_is_given_up_in_time(api: ApiServer, watching):
    api.silent = True
    with watching(request_timeout_s=0.5) as watched:
        until(lambda: api.count("watch", "endpointslices") >= 1)
        api.put("s-1", endpoint("10.0.0.7"))  # nobody hears of it
        until(lambda: set(watched.hosts) == {"10.0.0.7"}, within_s=60)
        assert watched.errors("watch", "unreachable") >= 1


def test_everything_is_listed_anew_from_time_to_time(api: ApiServer, watching):
    with watching(resync_period_s=1.0) as watched:
        until(lambda: watched.hosts)
        with api.lock:
            api.slices.clear()  # an event got lost
        until(lambda: watched.seen and not watched.hosts)
        assert watched.errors("watch", "gone") == 0


@pytest.mark.parametrize(
    "said",
    [b'{"type": "ADDED", "obj', b"not json\n", b"[]\n", b'{"type": "ADDED"}\n', b'{"type": "ERROR", "object": {}}\n'],
)
def test_a_watch_that_is_cut_or_says_nonsense_is_begun_anew(api: ApiServer, watching, said: bytes):
    api.cut = said
    with watching() as watched:
        until(lambda: watched.errors("watch", "unreachable") >= 2)
        api.cut = b""
        api.put("s-4", endpoint("10.0.0.4"))
        until(lambda: "10.0.0.4" in watched.hosts)


def test_an_api_that_is_down_for_ten_minutes_takes_nothing_away(api: ApiServer, watching):
    passed_s, down = 0.0, threading.Event()

    def pause(pause_s: float) -> bool:  # time that need not pass
        nonlocal passed_s
        if down.is_set():
            passed_s += pause_s
            if passed_s > 600 and not api.up:
                api.start()
                down.clear()
        return False

    with watching(pause, retry_min_s=0.5, retry_max_s=30.0) as watched:
        until(lambda: len(watched.hosts) == 2)
        synced_s = watched.watcher.synced_s
        api.stop()
        down.set()
        until(lambda: passed_s > 300)
        assert len(watched.hosts) == 2
        assert watched.watcher.synced_s - synced_s < 2.0
        api.put("s-1", endpoint("10.0.0.8"))
        until(lambda: set(watched.hosts) == {"10.0.0.8"})
        tries = watched.errors("watch", "unreachable") + watched.errors("list", "unreachable")
        assert passed_s > 600
        assert 20 <= tries <= 60


def test_failures_of_the_api_are_counted_and_its_wish_to_be_left_alone_is_heard(api: ApiServer, watching):
    waited: list[float] = []
    api.failing, api.retry_after_s = 503, 7

    def pause(pause_s: float) -> bool:
        waited.append(pause_s)
        api.failing = 0
        return False

    with watching(pause) as watched:
        until(lambda: watched.hosts)
        assert watched.errors("list", "refused") == 1
    assert waited[0] == 7


def test_who_is_denied_says_what_is_missing_and_tries_on_slowly(api: ApiServer, watching, caplog):
    api.denied, waited = {"endpointslices"}, []

    def pause(pause_s: float) -> bool:
        waited.append(pause_s)
        if len(waited) == 2:
            api.denied = set()
        return False

    with caplog.at_level(logging.ERROR), watching(pause, retry_min_s=0.01, retry_max_s=30.0) as watched:
        until(lambda: watched.hosts)
    assert all(15 <= one <= 30 for one in waited)
    assert watched.errors("list", "denied") == 2
    for word in ("list", "endpointslices", "system:serviceaccount:masklet:masklet-front", "kubernetes_rights"):
        assert word in caplog.records[0].message


def test_stopping_does_not_wait_for_the_watch(api: ApiServer, watching):
    api.silent = True
    with watching(watch_timeout_s=60) as watched:
        until(lambda: api.count("watch", "endpointslices") == 1)
        began_s = time.monotonic()
        watched.watcher.stop()
        assert time.monotonic() - began_s < 2.0
