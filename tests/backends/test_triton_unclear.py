"""A Triton that does what it is asked and then answers INTERNAL, as when it has no shared memory for the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from tests.backends.contract import SETTINGS, click, frame
from tests.backends.liar import Liar, response, serving, small_model
from tritonclient.grpc import service_pb2

from masklet.backends.triton import TritonBackend
from masklet.backends.triton_messages import Call
from masklet.backends.triton_model import Arrival, TritonModel
from masklet.backends.triton_tensors import Operation
from masklet.config import RoutingConfig
from masklet.errors import BackendError, BackendUncertain, SessionStateLost, error_classes
from masklet.routing.discovery import ListedEndpoints
from masklet.routing.router import RoutedBackend
from masklet.types import StateOrigin

ROUTING = RoutingConfig(admit_by_load=False, checkpoint_min_interval_s=0.0)


class Garbler(Liar):
    """Fails one request of each operation in `garbled`, once it is carried out."""

    def __init__(self, model: TritonModel) -> None:
        super().__init__(model)
        self.model = model
        self.garbled: list[Operation] = []
        self.stuck = ""

    async def ServerReady(self, request, context):
        return service_pb2.ServerReadyResponse(ready=True)

    async def ModelInfer(self, request, context):
        arrival = Arrival(request.parameters["sequence_id"].string_param, request.raw_input_contents[0])
        operation = Call.from_bytes(arrival.call).operation
        if self.stuck and operation is Operation.STEP and arrival.session_id.startswith(self.stuck):
            await asyncio.sleep(3600)
        answer = response(self.model.execute([arrival])[0])
        if operation in self.garbled:
            self.garbled.remove(operation)
            await context.abort(grpc.StatusCode.INTERNAL, "Failed to increase the shared memory pool size")
        return answer

    @property
    def sessions(self) -> set[str]:
        return set(self.model._asked_s)


@pytest.fixture
async def garbler() -> AsyncIterator[tuple[Garbler, str]]:
    servicer = Garbler(small_model())
    async with serving(servicer) as endpoint:
        yield servicer, endpoint


def routed(endpoint: str, *, routing: RoutingConfig = ROUTING) -> RoutedBackend:
    discovery = ListedEndpoints([endpoint])
    return RoutedBackend(discovery, lambda address: TritonBackend(address, connect_timeout_s=0), routing)


@pytest.mark.parametrize("operation", [Operation.IMPORT, Operation.ATTACH, Operation.CLOSE, Operation.STEP])
async def test_a_session_is_restored_whatever_is_answered_with_nonsense(garbler, operation):
    servicer, endpoint = garbler
    async with routed(endpoint) as backend:
        await backend.open("s", SETTINGS)
        await backend.step("s", frame(1, click(), click(2, 40, 10)))
        servicer.garbled = [Operation.STEP, operation]
        result = await backend.step("s", frame(2))
        assert (result.recovered, len(result.objects)) == (StateOrigin.RESTORED, 2)
        assert servicer.sessions == {"s"} and not servicer.garbled
        assert (await backend.step("s", frame(3))).recovered is None
    assert servicer.sessions == set()


def test_outside_of_routing_it_is_an_error_like_others():
    assert error_classes()[BackendUncertain.reason] is BackendError


async def test_an_opening_without_a_clear_answer_can_be_closed(garbler):
    servicer, endpoint = garbler
    async with TritonBackend(endpoint) as backend:
        servicer.garbled = [Operation.OPEN]
        with pytest.raises(BackendUncertain, match="INTERNAL"):
            await backend.open("s", SETTINGS)
        assert servicer.sessions == {"s"}
        await backend.close("s")
        assert servicer.sessions == set()


@pytest.mark.parametrize("garbled", [Operation.ATTACH, Operation.CLOSE])
async def test_a_copy_is_closed_by_asking_again(garbler, garbled):
    servicer, endpoint = garbler
    async with TritonBackend(endpoint) as owner, TritonBackend(endpoint) as other:
        await owner.open("s", SETTINGS)
        servicer.garbled = [garbled]
        with pytest.raises(BackendUncertain):
            await other.close_copy("s", 2)
        await other.close_copy("s", 2)
        assert servicer.sessions == set()
        with pytest.raises(SessionStateLost):
            await owner.step("s", frame(1))
        await owner.open("t", SETTINGS, epoch=6)
        await other.close_copy("t", 5)
        await other.close_copy("nobody", 5)
        assert servicer.sessions == {"t"}


async def test_a_bank_whose_closing_is_not_clearly_answered_is_closed_later(garbler):
    servicer, endpoint = garbler
    async with routed(endpoint) as backend:
        await backend.open("s", SETTINGS)
        servicer.garbled = [Operation.CLOSE]
        await backend.close("s")
        async with asyncio.timeout(10):
            while servicer.sessions or any(len(one.orphans) for one in backend._fleet._endpoints.values()):
                await asyncio.sleep(0.05)


async def test_a_canary_given_up_leaves_no_bank_once_another_has_sung(garbler):
    servicer, endpoint = garbler
    servicer.stuck = "canary"
    asyncio.get_running_loop().call_later(1.0, setattr, servicer, "stuck", "")
    short = RoutingConfig(admit_by_load=False, canary_timeout_s=0.4)
    async with routed(endpoint, routing=short):
        async with asyncio.timeout(10):
            while servicer.sessions:
                await asyncio.sleep(0.05)


async def test_one_request_that_never_returns_does_not_hide_behind_others(garbler):
    servicer, endpoint = garbler
    async with routed(endpoint, routing=RoutingConfig(admit_by_load=False, step_timeout_s=0.5)) as backend:
        for name in ("stuck", "other"):
            await backend.open(name, SETTINGS)
            await backend.step(name, frame(1, click()))
        servicer.stuck = "stuck"
        stepping = asyncio.create_task(backend.step("stuck", frame(2)))
        asyncio.get_running_loop().call_later(1.5, setattr, servicer, "stuck", "")  # the one under way stays
        async with asyncio.timeout(20):
            for seq in range(2, 1000):
                await backend.step("other", frame(seq))
                if stepping.done():
                    break
                await asyncio.sleep(0.05)
        assert (await stepping).recovered is StateOrigin.RESTORED
