"""Deletion costs: what is written on which pod, when, and by whom. Real HTTP, real time."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from tests.routing.farm import SETTINGS as TRACKED
from tests.routing.farm import Farm
from tests.routing.kubernetes_server import SETTINGS, ApiServer, endpoint, until

from masklet.observability.metrics import Metrics
from masklet.routing.kubernetes import KubernetesEndpoints
from masklet.routing.kubernetes_api import KubernetesApi, connect
from masklet.routing.kubernetes_cost import COST, DeletionCosts, _differs
from masklet.routing.kubernetes_lease import Lease
from masklet.routing.kubernetes_slices import Pod, Service

PODS = {f"10.0.0.{number}:8001": Pod("masklet", f"t-{number}", f"uid-t-{number}") for number in (1, 2)}


class Front:
    """One service that would write."""

    def __init__(self, api: KubernetesApi, settings, identity: str, held: dict[str, int]) -> None:
        self.metrics = Metrics()
        self.asked = 0
        self.held = held
        lease = Lease(api, settings.lease_name, identity, duration_s=settings.lease_duration_s)
        self.costs = DeletionCosts(api, lease, settings, pods=lambda: PODS, survey=self.survey, metrics=self.metrics)

    async def survey(self) -> dict[str, int]:
        self.asked += 1
        return dict(self.held)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"masklet_kubernetes_{name}", labels) or 0.0


@pytest.fixture
def api(api):
    for pod in PODS.values():
        api.add_pod(pod.name, kept="yes")
    return api


@pytest.fixture
def known(kubeconfig_path):
    return replace(SETTINGS, kubeconfig=str(kubeconfig_path), deletion_cost=True, deletion_cost_period_s=0.1)


@pytest.fixture
def running(known):
    @asynccontextmanager
    async def run(identity: str = "one", held: dict[str, int] | None = None):
        client = KubernetesApi(connect(known), known)
        front = Front(client, known, identity, held if held is not None else dict.fromkeys(PODS, 0))
        task = asyncio.create_task(front.costs.run())
        try:
            yield front
        finally:
            task.cancel()
            await asyncio.wait([task])
            client.close()

    return run


def costs(api: ApiServer) -> list[str | None]:
    return [api.annotations(pod.name).get(COST) for pod in PODS.values()]


async def test_pods_say_how_many_sessions_they_hold(api: ApiServer, running):
    held = {"10.0.0.1:8001": 3, "10.0.0.2:8001": 0, "10.0.0.9:8001": 5}  # the last is no pod that is known
    async with running(held=held) as front:
        await until(lambda: costs(api) == ["3", None])
        held["10.0.0.2:8001"] = 1
        await until(lambda: costs(api) == ["3", "1"])
        held["10.0.0.1:8001"] = 0
        await until(lambda: costs(api) == ["0", "1"])
        assert api.annotations("t-1")["kept"] == "yes"
        await until(lambda: (front.value("leader"), front.value("deletion_costs_total")) == (1, 3))
    assert (front.value("leader"), api.holder()) == (0, "")


async def test_what_makes_no_difference_is_not_written(api: ApiServer, running):
    held = {"10.0.0.1:8001": 100}
    async with running(held=held) as front:
        await until(lambda: costs(api)[0] == "100")
        held["10.0.0.1:8001"] = 105
        asked = front.asked
        await until(lambda: front.asked > asked + 2)
        assert (api.count("patch", "pods"), api.count("get", "pods")) == (1, 1)


@pytest.mark.parametrize(
    ("said", "cost", "differs"),
    [(None, 0, False), (0, 1, True), (1, 0, True), (1, 2, True), (9, 10, True), (20, 21, False), (20, 25, True)],
)
def test_what_makes_a_difference(said, cost, differs):
    assert _differs(said, cost) is differs


async def test_one_of_two_writes_and_when_it_dies_the_other_does(api: ApiServer, running, known):
    held = {"10.0.0.1:8001": 3}
    async with running("one", held) as one:
        await until(lambda: one.value("leader") == 1)
        async with running("two", held) as two:
            await until(lambda: costs(api)[0] == "3")
            await asyncio.sleep(0.3)
            assert (two.value("leader"), two.asked) == (0, 0)
            one.costs._lease.hold = lambda: False  # it hangs, and never says that it is gone
            held["10.0.0.1:8001"] = 8
            await until(lambda: costs(api)[0] == "8")
            assert api.holder() == "two"
            await until(lambda: two.value("leader") == 1)


async def test_what_another_leader_wrote_on_a_triton_that_is_empty_now_is_taken_back(api: ApiServer, running):
    api.pods["t-1"]["metadata"]["annotations"][COST] = "500"
    async with running():
        await until(lambda: costs(api) == ["0", None])


async def test_a_pod_that_changed_meanwhile_or_is_another_or_is_gone_is_left_for_later(api: ApiServer, running):
    api.pods["t-1"]["metadata"]["uid"] = "another"
    read = api.pods.pop("t-2")
    async with running(held=dict.fromkeys(PODS, 2)) as front:
        await until(lambda: front.asked > 2)
        assert api.count("patch", "pods") == 0
        api.pods["t-2"] = read
        client, stale = front.costs._api, api.pods["t-2"]
        front.costs._api = _Stale(client, {"metadata": {**stale["metadata"], "resourceVersion": "1"}})
        asked = front.asked
        await until(lambda: front.asked > asked + 2)
        assert COST not in api.annotations("t-2")
        front.costs._api = client
        await until(lambda: api.annotations("t-2").get(COST) == "2")
        assert front.value("errors_total", operation="pod", reason="conflict") == 0


class _Stale:
    """The API as someone sees it who was asleep between reading and writing."""

    def __init__(self, api: KubernetesApi, pod) -> None:
        self._pod = pod
        self.annotate_pod = api.annotate_pod

    def read_pod(self, pod: Pod):
        return self._pod


async def test_who_is_denied_says_so_and_tries_on(api: ApiServer, running, caplog):
    api.denied = {"pods"}
    with caplog.at_level(logging.ERROR):
        async with running(held={"10.0.0.1:8001": 1}) as front:
            await until(lambda: front.value("errors_total", operation="pod", reason="denied") >= 1)
            api.denied = set()
            await until(lambda: costs(api)[0] == "1")
    assert "pods" in caplog.records[0].message and "masklet-front" in caplog.records[0].message


async def test_an_api_that_is_down_ends_nothing(api: ApiServer, running):
    async with running(held={"10.0.0.1:8001": 1}) as front:
        await until(lambda: costs(api)[0] == "1")
        api.stop()
        await until(lambda: front.value("errors_total", operation="lease", reason="unreachable") >= 2)
        front.held["10.0.0.1:8001"] = 7
        api.start()
        await until(lambda: costs(api)[0] == "7")


async def test_a_router_counts_the_sessions_of_all_its_clients(api: ApiServer, known):
    api.put("s", endpoint("10.0.0.1", pod="t-1"), endpoint("10.0.0.2", pod="t-2"))
    farm = Farm(*PODS)
    client = KubernetesApi(connect(known), known)
    pods = KubernetesEndpoints(client, [Service("triton", "", "grpc")], known, metrics=farm.metrics)
    other = farm.client("10.0.0.2:8001")  # a client of another front
    for name in "abc":
        await other.open(name, TRACKED)
    async with farm.routed(pods) as backend:
        await backend.open("s", TRACKED)  # at the emptier one
        farm["10.0.0.1:8001"].max_sessions = 100
        assert await backend.survey() == {"10.0.0.1:8001": 1, "10.0.0.2:8001": 3}
        writing = asyncio.create_task(pods.costs(backend.survey).run())
        await until(lambda: costs(api) == ["1", "3"])
        farm["10.0.0.2:8001"].up = False
        assert set(await backend.survey()) == {"10.0.0.1:8001"}
        writing.cancel()
        await asyncio.wait([writing])
