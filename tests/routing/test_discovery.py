"""Lists and names; addresses that come and go."""

from __future__ import annotations

import asyncio

from tests.routing.farm import SETTINGS, Farm, click, request
from tests.routing.simulated import simulate

from masklet.routing.discovery import DnsEndpoints, ListedEndpoints, discover, resolve_name
from masklet.types import StateOrigin


class Names:
    """A name service."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = frozenset(addresses)
        self.broken = False
        self.asked: list[tuple[str, int]] = []

    async def resolve(self, host: str, port: int) -> frozenset[str]:
        self.asked.append((host, port))
        if self.broken:
            raise OSError("no name service")
        return self.addresses

    def endpoints(self, *listed: str) -> DnsEndpoints:
        return DnsEndpoints(["triton:8001"], listed=listed, resolve=self.resolve)


def test_a_list_is_said_once():
    async def scenario():
        found = discover(["a:1", "b:1"], dns_period_s=5.0)
        assert isinstance(found, ListedEndpoints)
        assert [set(addresses) async for addresses in found.watch()] == [{"a:1", "b:1"}]

    simulate(scenario())


async def test_a_real_name_is_resolved():
    assert "127.0.0.1:8001" in await resolve_name("localhost", 8001) | await resolve_name("127.0.0.1", 8001)
    assert await resolve_name("::1", 8001) == {"[::1]:8001"}


def test_changes_of_a_name_are_said_and_failures_are_not():
    async def scenario():
        names = Names("a:1", "b:1")
        watch = names.endpoints("c:1").watch()
        assert set(await anext(watch)) == {"a:1", "b:1", "c:1"}
        loop = asyncio.get_running_loop()
        loop.call_later(10, setattr, names, "broken", True)
        loop.call_later(60, setattr, names, "addresses", frozenset(["b:1"]))
        loop.call_later(90, setattr, names, "broken", False)
        before_s = loop.time()
        assert set(await anext(watch)) == {"b:1", "c:1"}
        assert loop.time() - before_s >= 90
        names.addresses = frozenset()  # nothing is no news either
        loop.call_later(30, setattr, names, "addresses", frozenset(["d:1"]))
        assert set(await anext(watch)) == {"d:1", "c:1"}
        assert names.asked[0] == ("triton", 8001)

    simulate(scenario())


def test_a_name_and_a_list_may_be_mixed():
    found = discover(["a:1", "dns:triton:8001"], dns_period_s=5.0)
    assert isinstance(found, DnsEndpoints)


def test_an_endpoint_that_appears_is_used_and_one_that_vanishes_is_drained():
    async def scenario():
        farm = Farm("a:1", "b:1")
        names = Names("a:1")
        async with farm.routed(names.endpoints()) as backend:
            await backend.open("s", SETTINGS)
            await backend.step("s", request(1, click()))
            names.addresses = frozenset(["b:1"])
            await asyncio.sleep(10)
            assert farm.holding("s") == {"b:1"}
            assert (farm["a:1"].connections, farm["b:1"].connections) == (0, 1)
            assert (await backend.step("s", request(2))).recovered is StateOrigin.MIGRATED
            names.addresses = frozenset(["a:1"])
            await asyncio.sleep(10)
            assert farm.holding("s") == {"a:1"}

    simulate(scenario())


def test_an_endpoint_that_vanishes_with_nowhere_to_go_serves_on_and_may_come_back():
    async def scenario():
        farm = Farm("a:1")
        names = Names("a:1")
        async with farm.routed(names.endpoints()) as backend:
            await backend.open("s", SETTINGS)
            names.addresses = frozenset(["b:1"])
            farm.places["b:1"] = farm["a:1"].__class__("b:1")
            farm["b:1"].up = False
            await asyncio.sleep(20)
            assert len((await backend.step("s", request(1, click()))).objects) == 1
            names.addresses = frozenset(["a:1"])
            await asyncio.sleep(20)
            await backend.open("t", SETTINGS)
            assert farm.holding("t") == farm.holding("s") == {"a:1"}

    simulate(scenario())


def test_a_name_that_is_none_does_not_end_the_look_ups():
    async def scenario():
        asked: list[str] = []

        async def resolve(host: str, port: int) -> frozenset[str]:
            asked.append(host)
            return await resolve_name(host, port) if ".." in host else frozenset(["a:1"])

        watch = DnsEndpoints(["triton..svc:8001", "triton:8001"], resolve=resolve).watch()
        assert set(await anext(watch)) == {"a:1"}
        assert asked == ["triton..svc", "triton"]

    asyncio.run(scenario())
