"""Triton's end of `masklet.backends.triton`: unpack requests, call `TritonModel`, pack answers."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import torch
import triton_python_backend_utils as pb_utils

from masklet.backends.triton_model import Arrival, TritonModel, load_model, model_config, parameters_of
from masklet.backends.triton_parent import end_with_server
from masklet.backends.triton_tensors import ANSWER, CALL
from masklet.errors import MaskletError


class TritonPythonModel:
    """Named by Triton."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the weights and warm up; Triton reports ready after that."""
        end_with_server()
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
        try:
            parameters = parameters_of(json.loads(args["model_config"]))
            kind = args["model_instance_kind"]
            instance = f"GPU_{args['model_instance_device_id']}" if kind == "GPU" else kind
            self._model: TritonModel = load_model(model_config(parameters, os.environ, instance))
        except MaskletError as error:
            raise pb_utils.TritonModelException(f"{error.reason}: {error}") from error
        self._metrics = _Metrics({"model": args["model_name"], "version": args["model_version"]})
        self._metrics.show(self._model)
        self._model.tell(self._metrics.show)
        self._model.start_reaper()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One batch: at most one request of each sequence."""
        answers = self._model.execute([_arrival(request) for request in requests])
        return [pb_utils.InferenceResponse([_tensor(answer)]) for answer in answers]

    def finalize(self) -> None:
        """Forget everything."""
        self._model.close()


def _arrival(request: Any) -> Arrival:
    # Through DLPack: stubs built before numpy 2, as the wheel's are, hand over numpy arrays with wrong strides.
    call = torch.from_dlpack(pb_utils.get_input_tensor_by_name(request, CALL.name).to_dlpack())
    return Arrival(str(request.correlation_id()), memoryview(call.cpu().reshape(-1).numpy()))


def _tensor(answer: bytes) -> Any:
    content = torch.frombuffer(bytearray(answer), dtype=torch.uint8).reshape(1, -1)
    return pb_utils.Tensor.from_dlpack(ANSWER.name, torch.to_dlpack(content))


class _Metric:
    """One custom metric; it is touched only when it changes, since that is a trip to the server's process."""

    def __init__(self, family: Any, labels: dict[str, str], *, counts: bool) -> None:
        self._metric = family.Metric(labels=labels)
        self._counts = counts
        self._shown = 0

    def show(self, value: int) -> None:
        """It is `value` now."""
        if value == self._shown:
            return
        if self._counts:
            self._metric.increment(value - self._shown)
        else:
            self._metric.set(value)
        self._shown = value


class _Metrics:
    """Custom metrics, on Triton's own metrics port."""

    def __init__(self, labels: dict[str, str]) -> None:
        self._labels = labels
        self._families: list[Any] = []  # Triton needs them to outlive their metrics
        self._sessions = self._gauge("masklet_triton_sessions", "Memory banks held.")
        self._limit = self._gauge("masklet_triton_sessions_limit", "Memory banks taken at most.")
        self._bytes = self._gauge("masklet_triton_bank_bytes", "Bytes of all memory banks.")
        reaped = self._counters("masklet_triton_reaped_sessions_total", "Sessions forgotten because idle.")
        self._reaped = _Metric(reaped, labels, counts=True)
        self._batches = self._counters("masklet_triton_batches_total", "Batches by number of streams in them.")
        self._by_size = {1: self._batches_of(1)}

    def show(self, model: TritonModel) -> None:
        """Set all to what the model says now."""
        stats = model.stats()
        self._sessions.show(stats.sessions)
        self._limit.show(model.max_sessions)
        self._bytes.show(stats.bank_bytes)
        self._reaped.show(model.reaped)
        for size, count in model.batch_sizes.items():
            if size not in self._by_size:
                self._by_size[size] = self._batches_of(size)
            self._by_size[size].show(count)

    def _gauge(self, name: str, text: str) -> _Metric:
        return _Metric(self._family(name, text, pb_utils.MetricFamily.GAUGE), self._labels, counts=False)

    def _counters(self, name: str, text: str) -> Any:
        return self._family(name, text, pb_utils.MetricFamily.COUNTER)

    def _batches_of(self, size: int) -> _Metric:
        return _Metric(self._batches, {**self._labels, "streams": str(size)}, counts=True)

    def _family(self, name: str, text: str, kind: Any) -> Any:
        self._families.append(pb_utils.MetricFamily(name=name, description=text, kind=kind))
        return self._families[-1]
