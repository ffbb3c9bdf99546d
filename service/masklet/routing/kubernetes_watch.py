"""Following the EndpointSlices of one service, in a thread: list, watch from there, list anew when that ends badly.

What was seen last stays good while the API does not answer: an outage of it is not to take streams down.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from masklet.config import KubernetesConfig
from masklet.observability.metrics import Metrics
from masklet.routing.kubernetes_api import ApiProblem, KubernetesApi, SliceWatch
from masklet.routing.kubernetes_slices import Json, Service, Sighting, read_slices

_STOP_S = 2.0  # a request under way may take longer: its thread ends by itself
_LOOK_S = 0.02
_LONGEST_RETRY_AFTER_S = 300.0
_GONE = 410
_DENIED = (401, 403)
_LOG = logging.getLogger(__name__)


class SliceWatcher:
    """Tells what the slices of a service say, whenever that has changed.

    Args:
        api: is asked.
        service: whose slices.
        settings: times.
        metrics: failures go there.
        tell: called in the thread.
        pause: waits so many seconds, or until `stop`; whether it was that. None: it really does.

    Attributes:
        synced_s: Unix time of the last sign that the API and we agree; 0: there was none.
    """

    def __init__(
        self,
        api: KubernetesApi,
        service: Service,
        settings: KubernetesConfig,
        *,
        metrics: Metrics,
        tell: Tell,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        self.synced_s = 0.0
        self._api = api
        self._service = service
        self._settings = settings
        self._metrics = metrics
        self._tell = tell
        self._stopping = threading.Event()
        self._pause = pause or self._stopping.wait
        self._slices: dict[str, Json] = {}
        self._failures = 0
        self._watch: SliceWatch | None = None
        self._thread = threading.Thread(target=self.run, name="masklet-slices", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, within about two seconds; what is under way then is left to its timeout."""
        self._stopping.set()
        deadline_s = time.monotonic() + _STOP_S
        while self._thread.is_alive() and time.monotonic() < deadline_s:
            if watch := self._watch:
                watch.stop()  # again and again: it may be about to begin
            self._thread.join(_LOOK_S)

    def run(self) -> None:
        """Until stopped; never raises."""
        while not self._stopping.is_set():
            began_s, pause_s = time.monotonic(), 0.0
            try:
                self._follow()
            except ApiProblem as problem:
                if not self._stopping.is_set():
                    lived_s = time.monotonic() - began_s
                    pause_s = self._failed(problem, lived_s)
            except Exception:  # whatever it is, it may be gone next time
                _LOG.exception("watching endpoint slices failed", extra=self._about())
                pause_s = self._settings.retry_max_s
            if pause_s and self._pause(pause_s):
                return

    def _follow(self) -> None:
        """One list and its watches, until it is time for another."""
        until_s = time.monotonic() + self._settings.resync_period_s
        items, version = self._api.list_slices(self._service)
        self._slices = {_name(item): item for item in items}
        if not items:
            _LOG.warning("a service has no endpoint slices", extra=self._about())
        self._agree()
        while time.monotonic() < until_s and not self._stopping.is_set():
            version = self._watch_from(version)
            self._failures = 0

    def _watch_from(self, version: str) -> str:
        """One watch, to its end; the version the next one goes on from. Raises ApiProblem."""
        began_s = time.monotonic()
        self._watch = self._api.watch_slices(self._service, version)
        try:
            for kind, one in self._watch:
                if self._stopping.is_set():
                    return version
                version = _version(one) or version
                self._take(kind, one)
        finally:
            self._watch = None
        lived_s = time.monotonic() - began_s
        shortest_s = min(self._settings.retry_min_s, self._settings.watch_timeout_s / 2)
        if lived_s < shortest_s:
            raise ApiProblem("watch", 0, f"the watch ended after {lived_s:.3f} s, must last {shortest_s:g} s")
        self._agree()
        return version

    def _take(self, kind: str, one: Json) -> None:
        if kind in ("ADDED", "MODIFIED"):
            self._slices[_name(one)] = one
        elif kind == "DELETED":
            self._slices.pop(_name(one), None)
        self._agree()

    def _agree(self) -> None:
        self.synced_s = time.time()
        self._tell(self, read_slices(self._slices.values(), self._service.port))

    def _failed(self, problem: ApiProblem, lived_s: float) -> float:
        """Says so; seconds until the next attempt."""
        self._metrics.kubernetes_errors.labels(problem.operation, problem.reason).inc()
        settings = self._settings
        self._failures = 0 if lived_s > settings.retry_max_s else self._failures
        longest_s = min(settings.retry_max_s, settings.retry_min_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        about = {**self._about(), "operation": problem.operation, "why": str(problem)}
        if problem.status in _DENIED:
            longest_s = settings.retry_max_s
            _LOG.error(denied(problem, "endpointslices.discovery.k8s.io"), extra=about)
        elif problem.status == _GONE:
            _LOG.info("endpoint slices are listed anew", extra=about)
        else:
            _LOG.warning("the Kubernetes API fails, going on with what was known", extra=about)
        return max(longest_s * random.uniform(0.5, 1.0), min(problem.retry_after_s, _LONGEST_RETRY_AFTER_S))

    def _about(self) -> dict[str, str]:
        return {"service": self._service.name, "namespace": self._service.namespace or self._api.namespace}


def denied(problem: ApiProblem, resource: str) -> str:
    """What to grant to whom; the API's own words name the account."""
    return (
        f"the Kubernetes API does not let this service {problem.operation} {resource}: HTTP {problem.status}; "
        f"grant it to the service account (masklet.routing.kubernetes_rights lists what is needed): {problem}"
    )


def _name(one: Json) -> str:
    return str((one.get("metadata") or {}).get("name") or "")


def _version(one: Json) -> str:
    return str((one.get("metadata") or {}).get("resourceVersion") or "")


Tell = Callable[[SliceWatcher, Sighting], None]
