"""The model repository agrees with what both ends of the wire believe."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from google.protobuf import text_format
from tests.backends.contract import SETTINGS
from tests.backends.triton_process import CONFIG
from tritonclient.grpc import model_config_pb2

from masklet.backends import triton_parent
from masklet.backends.triton_messages import Call
from masklet.backends.triton_model import model_config, parameters_of
from masklet.backends.triton_server import model_environment
from masklet.backends.triton_tensors import INPUTS, MODEL, OUTPUTS, Operation
from masklet.config import ModelConfig, TritonConfig

FOLDER = Path(__file__).parents[1] / "model_repo"
MOST_LINES = 120


@pytest.fixture(scope="module")
def config() -> Any:
    return text_format.Parse((FOLDER / MODEL / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def test_the_folder_is_named_like_the_model(config):
    assert (config.name, config.backend) == (MODEL, "python")
    assert (FOLDER / MODEL / "1" / "model.py").is_file()


@pytest.mark.parametrize(("side", "specs"), [("input", INPUTS), ("output", OUTPUTS)])
def test_the_tensors_are_those_of_the_schema(config, side, specs):
    kinds = model_config_pb2.DataType
    found = [(one.name, kinds.Name(one.data_type), tuple(one.dims)) for one in getattr(config, side)]
    assert found == [(spec.name, spec.kind, spec.dims) for spec in specs]
    assert not [one for one in config.input if one.optional]


def test_sequences_are_batched_together_and_their_id_is_no_tensor(config):
    batching = config.sequence_batching
    assert batching.WhichOneof("strategy_choice") == "oldest"
    assert not batching.control_input
    assert batching.max_sequence_idle_microseconds / 1e6 >= TritonConfig().idle_timeout_s
    assert batching.oldest.max_candidate_sequences > TritonConfig().max_sessions


def test_the_batch_is_as_large_as_the_engine_s_default(config):
    assert config.max_batch_size == ModelConfig().max_batch


def test_there_is_one_instance_on_the_cpu(config):
    (group,) = config.instance_group
    assert (group.count, model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind)) == (1, "KIND_CPU")


def test_the_parameters_are_keys_of_our_configuration(config):
    parameters = {name: {"string_value": value.string_value} for name, value in config.parameters.items()}
    assert model_config(parameters_of({"parameters": parameters}), {}, "CPU").model.device == "cpu"


def test_the_model_is_thin():
    assert len((FOLDER / MODEL / "1" / "model.py").read_text().splitlines()) < MOST_LINES


class Family:
    """A family of custom metrics; what they show is in `SHOWN`, under the name and what tells its metrics apart."""

    GAUGE, COUNTER = "gauge", "counter"

    def __init__(self, name: str, description: str, kind: str) -> None:
        self._name = name

    def Metric(self, labels: dict[str, str]) -> Any:
        key = self._name + labels.get("streams", "")
        SHOWN[key] = 0.0
        return SimpleNamespace(
            set=lambda value: SHOWN.update({key: value}), increment=lambda by: SHOWN.update({key: SHOWN[key] + by})
        )


SHOWN: dict[str, float] = {}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The model as Triton makes it, in this process, over a stand-in for what only Triton's stub has."""
    utils = ModuleType("triton_python_backend_utils")
    utils.__dict__.update(
        MetricFamily=Family,
        Tensor=SimpleNamespace(from_dlpack=lambda name, content: content),
        InferenceResponse=list,
        TritonModelException=RuntimeError,
        get_input_tensor_by_name=lambda request, name: request,
    )
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    monkeypatch.setattr(triton_parent, "end_with_server", lambda: 0)
    for variable, value in model_environment(CONFIG).items():
        monkeypatch.setenv(variable, value)
    spec = importlib.util.spec_from_file_location("sam2_track_model", FOLDER / MODEL / "1" / "model.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    described = {"model_instance_kind": "CPU", "model_name": MODEL, "model_version": "1"}
    model.initialize({**described, "model_config": json.dumps({})})
    yield model
    model.finalize()


def request(session_id: str, call: Call) -> Any:
    content = torch.frombuffer(bytearray(call.to_bytes()), dtype=torch.uint8)
    return SimpleNamespace(correlation_id=lambda: session_id, to_dlpack=content.__dlpack__)


def test_its_metrics_fall_when_sessions_are_reaped_though_nothing_is_asked(loaded):
    loaded.execute([request(name, Call(Operation.OPEN, settings=SETTINGS)) for name in "ab"])
    assert (SHOWN["masklet_triton_sessions"], SHOWN["masklet_triton_reaped_sessions_total"]) == (2, 0)
    loaded._model._clock = lambda: time.monotonic() + 2 * TritonConfig().idle_timeout_s
    loaded._model.reap()
    assert (SHOWN["masklet_triton_sessions"], SHOWN["masklet_triton_reaped_sessions_total"]) == (0, 2)
