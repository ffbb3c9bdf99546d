"""Which Triton is removed first when there are fewer to be: the emptiest, because its pod says what it holds.

The ReplicaSet controller removes pods of the lowest `controller.kubernetes.io/pod-deletion-cost` first. One service
writes it, the holder of a Lease. Should two ever believe they are, no harm is done: both write what the Tritons say,
and a pod that has changed since it was read is left for the next round.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from masklet.config import KubernetesConfig
from masklet.observability.metrics import Metrics
from masklet.routing.kubernetes_api import ApiProblem, KubernetesApi
from masklet.routing.kubernetes_lease import Lease
from masklet.routing.kubernetes_slices import Json, Pod
from masklet.routing.kubernetes_watch import denied

COST = "controller.kubernetes.io/pod-deletion-cost"
_MATERIAL = 0.1
_RENEWALS = 3  # per duration of the Lease
_RELEASE_S = 2.0
_DENIED = (401, 403)
_PASSING = (404, 409)  # the pod is gone, or has changed: next time
_LARGEST = 2**31 - 1
_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

Survey = Callable[[], Awaitable[Mapping[str, int]]]


class DeletionCosts:
    """Keeps the annotations up to date while this service holds the Lease.

    Args:
        api: is asked.
        lease: of all who may write.
        settings: times.
        pods: which pod an address is.
        survey: load of each address, by all its clients, asked now.
        metrics: failures, writes and who leads go there.
    """

    def __init__(
        self,
        api: KubernetesApi,
        lease: Lease,
        settings: KubernetesConfig,
        *,
        pods: Callable[[], Mapping[str, Pod]],
        survey: Survey,
        metrics: Metrics,
    ) -> None:
        self._api = api
        self._lease = lease
        self._settings = settings
        self._pods = pods
        self._survey = survey
        self._metrics = metrics
        self._written: dict[Pod, int] = {}
        self._due_s = 0.0
        self._thread = ThreadPoolExecutor(1, "masklet-costs")

    async def run(self) -> None:
        """Until cancelled; then the Lease is another's."""
        try:
            while True:
                pause_s = await self._turn()
                await asyncio.sleep(pause_s * random.uniform(0.8, 1.0))
        finally:
            self._metrics.kubernetes_leader.set(0)
            await self._release()
            self._thread.shutdown(wait=False)

    async def _turn(self) -> float:
        """Holds on to the Lease, and writes if it is time; seconds until the next turn."""
        pause_s = min(self._settings.lease_duration_s / _RENEWALS, self._settings.deletion_cost_period_s)
        try:
            if await self._blocking(self._lease.hold):
                await self._write_if_due()
            else:
                self._written.clear()  # whoever writes now knows better
        except ApiProblem as problem:
            pause_s = max(pause_s, self._failed(problem))
        except Exception:
            _LOG.exception("deletion costs not written")
        self._metrics.kubernetes_leader.set(self._lease.is_held)
        return pause_s

    async def _write_if_due(self) -> None:
        if time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + self._settings.deletion_cost_period_s
        pods = self._pods()
        held = {pods[address]: cost for address, cost in (await self._survey()).items() if address in pods}
        self._written = {pod: cost for pod, cost in self._written.items() if pod in pods.values()}
        for pod, cost in held.items():
            if not self._lease.is_held:
                return
            await self._blocking(partial(self._mark, pod, min(cost, _LARGEST)))

    def _mark(self, pod: Pod, cost: int) -> None:
        """Blocks. Raises ApiProblem."""
        if pod in self._written and not _differs(self._written[pod], cost):  # else another leader may have written
            return
        try:
            metadata = _part(self._api.read_pod(pod), "metadata")
            said = _number(_part(metadata, "annotations").get(COST))
            if metadata.get("uid") == pod.uid and _differs(said, cost):
                version = str(metadata.get("resourceVersion") or "")
                self._api.annotate_pod(pod, version=version, annotations={COST: str(cost)})
                self._metrics.kubernetes_deletion_costs.inc()
                said = cost
        except ApiProblem as problem:
            if problem.status not in _PASSING:
                raise
            return
        self._written[pod] = said or 0

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(_RELEASE_S):
                await self._blocking(self._lease.release)
        except (ApiProblem, TimeoutError) as problem:
            _LOG.info("the Lease is left to run out", extra={"why": str(problem)})

    def _failed(self, problem: ApiProblem) -> float:
        """Says so; seconds to wait at least."""
        self._metrics.kubernetes_errors.labels(problem.operation, problem.reason).inc()
        about = {"operation": problem.operation, "why": str(problem)}
        if problem.status in _DENIED:
            resource = {"lease": "leases.coordination.k8s.io", "pod": "pods"}[problem.operation]
            _LOG.error(denied(problem, resource), extra=about)
            return self._settings.retry_max_s
        _LOG.warning("deletion costs not written", extra=about)
        return problem.retry_after_s

    async def _blocking(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _differs(said: int | None, cost: int) -> bool:
    """Whether it matters: what is not said counts as 0, and little changes count while there is little."""
    before = said or 0
    return before != cost and (0 in (before, cost) or abs(cost - before) >= _MATERIAL * max(before, cost))


def _number(text: object) -> int | None:
    try:
        return int(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _part(of: Json, name: str) -> Json:
    part = of.get(name)
    return part if isinstance(part, dict) else {}
