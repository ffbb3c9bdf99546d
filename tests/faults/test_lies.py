"""A router over a Triton that lies and one that does not: its session moves, and nothing happens to the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from tests.backends.contract import SETTINGS, click, frame
from tests.backends.liar import Liar, serving
from tests.backends.test_triton_lies import LIES
from tests.faults.fleet import MODEL, ROUTING
from tritonclient.grpc import service_pb2

from masklet.backends.triton import TritonBackend
from masklet.backends.triton_model import TritonModel, load_model
from masklet.config import Config
from masklet.errors import BackendError
from masklet.routing.discovery import ListedEndpoints
from masklet.routing.router import RoutedBackend
from masklet.types import StateOrigin

pytestmark = pytest.mark.triton


class Mocked(Liar):
    """Ready, as far as it says."""

    async def ServerReady(self, request, context):
        return service_pb2.ServerReadyResponse(ready=True)


@pytest.fixture(scope="module")
def model() -> TritonModel:
    return load_model(Config(model=MODEL))


@asynccontextmanager
async def mocked(model: TritonModel) -> AsyncIterator[tuple[Mocked, str]]:
    servicer = Mocked(model)
    async with serving(servicer) as endpoint:
        try:
            yield servicer, endpoint
        finally:
            servicer.lie = None


@asynccontextmanager
async def two(model: TritonModel) -> AsyncIterator[tuple[RoutedBackend, Mocked]]:
    """The router, and the server that is going to lie: session "s" lives there, "other" with the other server."""
    async with mocked(model) as (one, one_at), mocked(load_model(Config(model=MODEL))) as (other, other_at):
        backend = RoutedBackend(ListedEndpoints([one_at, other_at]), TritonBackend, ROUTING)
        async with backend:
            while len(backend._fleet.links()) < 2:
                await backend._fleet.wait_changed()
            for session_id in ("s", "other"):
                await backend.open(session_id, SETTINGS)
                await backend.step(session_id, frame(1, click()))
            assert backend.location("s") != backend.location("other")
            yield backend, one if backend.location("s") == one_at else other


@pytest.mark.parametrize("lie", ["noise", "another tensor", "another frame", "another size", grpc.StatusCode.INTERNAL])
async def test_a_lie_costs_its_session_nothing_but_the_way_to_the_other_triton(model, lie):
    async with two(model) as (backend, liar):
        before = backend._fleet.links()
        liar.lie = lie if isinstance(lie, grpc.StatusCode) else LIES[lie][0]  # type: ignore[assignment]
        result = await backend.step("s", frame(2))
        assert (result.recovered, len(result.objects)) == (StateOrigin.RESTORED, 1)
        assert backend.location("s") == backend.location("other")
        assert (await backend.step("other", frame(2))).recovered is None
        assert backend._fleet.links() == before, "one that lies about one session may be right about others"
        liar.lie = None
        assert (await backend.step("s", frame(3))).recovered is None


async def test_a_lie_of_the_only_triton_is_an_error_of_its_frame(model):
    async with (
        mocked(model) as (liar, endpoint),
        RoutedBackend(ListedEndpoints([endpoint]), TritonBackend, ROUTING) as backend,
    ):
        await backend.open("s", SETTINGS)
        await backend.step("s", frame(1, click()))
        liar.lie, said = LIES["noise"]
        with pytest.raises(BackendError, match=said):
            await backend.step("s", frame(2))
        liar.lie = None
        result = await backend.step("s", frame(3))
        assert (result.recovered, len(result.objects)) == (StateOrigin.RESTORED, 1)


async def test_a_triton_that_says_it_is_unavailable_loses_its_session_to_the_other(model):
    async with two(model) as (backend, liar):
        liar.lie = grpc.StatusCode.UNAVAILABLE  # type: ignore[assignment]
        result = await backend.step("s", frame(2))
        assert result.recovered is StateOrigin.RESTORED
        assert backend.location("s") == backend.location("other")
        assert (await backend.step("other", frame(2))).recovered is None
