"""Endpoints as Kubernetes knows them: the pods behind services, followed by threads beside the event loop."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress

from masklet.config import KubernetesConfig
from masklet.observability.metrics import Metrics
from masklet.routing.discovery import Found
from masklet.routing.kubernetes_api import KubernetesApi, connect
from masklet.routing.kubernetes_cost import DeletionCosts, Survey
from masklet.routing.kubernetes_lease import Lease
from masklet.routing.kubernetes_slices import Pod, Service, Sighting
from masklet.routing.kubernetes_watch import SliceWatcher, Tell


class KubernetesEndpoints:
    """The pods behind some services.

    Args:
        api: is asked.
        services: see `Service.from_endpoint`.
        settings: times.
        metrics: failures, and the time of the last agreement, go there.
    """

    def __init__(
        self, api: KubernetesApi, services: Sequence[Service], settings: KubernetesConfig, *, metrics: Metrics
    ) -> None:
        self._api = api
        self._services = services
        self._settings = settings
        self._metrics = metrics
        self._seen: dict[SliceWatcher, Sighting] = {}

    @property
    def pods(self) -> Mapping[str, Pod]:
        """Which pod an address is."""
        return {address: pod for seen in self._seen.values() for address, pod in seen.pods.items()}

    async def watch(self) -> AsyncIterator[Found]:
        """What is wanted of each pod's address; nothing before the API has answered."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def tell(watcher: SliceWatcher, seen: Sighting) -> None:
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(self._take, watcher, seen, changed)

        watchers = [self._watcher(service, tell) for service in self._services]
        self._seen.clear()
        for watcher in watchers:
            watcher.start()
        try:
            while True:
                await changed.wait()
                changed.clear()
                yield {address: standing for seen in self._seen.values() for address, standing in seen.found.items()}
        finally:
            await asyncio.gather(*(asyncio.to_thread(watcher.stop) for watcher in watchers))
            self._api.close()

    def costs(self, survey: Survey) -> DeletionCosts:
        """What writes the pods' deletion costs, as long as it runs."""
        identity = f"{socket.gethostname()}_{uuid.uuid4()}"
        lease = Lease(self._api, self._settings.lease_name, identity, duration_s=self._settings.lease_duration_s)
        return DeletionCosts(
            self._api, lease, self._settings, pods=lambda: self.pods, survey=survey, metrics=self._metrics
        )

    def _watcher(self, service: Service, tell: Tell) -> SliceWatcher:
        return SliceWatcher(self._api, service, self._settings, metrics=self._metrics, tell=tell)

    def _take(self, watcher: SliceWatcher, seen: Sighting, changed: asyncio.Event) -> None:
        if self._seen.get(watcher) != seen:
            self._seen[watcher] = seen
            changed.set()
        oldest_s = min(one.synced_s for one in self._seen) if len(self._seen) == len(self._services) else 0.0
        self._metrics.kubernetes_synced.set(oldest_s)


def kubernetes_endpoints(
    endpoints: Sequence[str], settings: KubernetesConfig, *, metrics: Metrics
) -> KubernetesEndpoints:
    """Of "k8s:" endpoints. Raises ConfigError: the extra is not installed, or the API is not known."""
    api = KubernetesApi(connect(settings), settings)
    return KubernetesEndpoints(api, [Service.from_endpoint(one) for one in endpoints], settings, metrics=metrics)
