"""The model repository agrees with what both ends of the wire believe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from masklet.backends.triton_model import model_config, parameters_of
from masklet.backends.triton_tensors import INPUTS, MODEL, OUTPUTS
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
