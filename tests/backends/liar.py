"""A server that speaks Triton's protocol and answers what it is told to, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from masklet.backends.triton_model import Arrival, TritonModel, load_model
from masklet.config import Config, ModelConfig

Lie = Callable[[Any], Any]


class Liar(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers as our model does until `lie` is set; then with what that makes of the true answer."""

    def __init__(self, model: TritonModel) -> None:
        self._model = model
        self.lie: Lie | None = None
        self.hold = asyncio.Event()
        self.hold.set()

    async def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=True)

    async def ModelInfer(self, request, context):
        await self.hold.wait()
        if isinstance(self.lie, grpc.StatusCode):
            await context.abort(self.lie, "says the liar")
        arrival = Arrival(request.parameters["sequence_id"].string_param, request.raw_input_contents[0])
        answer = response(self._model.execute([arrival])[0])
        return self.lie(answer) if self.lie else answer


def response(content: bytes, *, name: str = "ANSWER", kind: str = "UINT8") -> Any:
    made = service_pb2.ModelInferResponse(model_name="sam2_track")
    made.outputs.add(name=name, datatype=kind, shape=[1, len(content)])
    made.raw_output_contents.append(content)
    return made


def small_model() -> TritonModel:
    """For a server in this process."""
    return load_model(Config(model=ModelConfig(variant="mini", device="cpu", precision="float32", threads=1)))


@asynccontextmanager
async def serving(servicer: Liar) -> AsyncIterator[str]:
    """Its address, while it serves."""
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
