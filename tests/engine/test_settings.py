from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from masklet.config import ModelConfig
from masklet.engine import EngineSettings
from masklet.engine.load import load_engine
from masklet.engine.settings import has_fast_bfloat16, keep_full_float32
from masklet.errors import ConfigError, WeightsError
from masklet.model import HieraConfig, SAM2Config, build
from masklet.model.checkpoint import save_checkpoint
from masklet.model.config import VARIANTS


@pytest.mark.parametrize("device", ["meta", "mps", "abacus", "", "cpu:x", "cuda:", "cuda:77"])
def test_devices_that_are_not_there_are_refused_by_name(device):
    with pytest.raises(ConfigError, match=f"device '{device}'") as caught:
        EngineSettings(device).torch_device()
    assert caught.value.field == "model.device"


def test_auto_is_cuda_if_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert EngineSettings("auto").torch_device().type == expected
    assert EngineSettings("cpu").torch_device().type == "cpu"


@pytest.mark.parametrize("field", ["precision", "memory_precision"])
def test_precisions_that_do_not_exist_are_refused_by_name(field):
    settings = replace(EngineSettings("cpu", "float32", "float32"), **{field: "float8"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'float8' is not one of float32, bfloat16") as caught:
        settings.dtype() if field == "precision" else settings.memory_dtype()
    assert caught.value.field == f"model.{field}"


def test_precisions_are_those_asked_for():
    assert EngineSettings("cpu", "bfloat16").dtype() is torch.bfloat16
    assert EngineSettings("cpu", "float32", "bfloat16").memory_dtype() is torch.bfloat16
    assert EngineSettings("cpu", "auto").dtype() in (torch.float32, torch.bfloat16)


@pytest.fixture
def mini(monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    trunk = HieraConfig(16, 1, (1, 1, 1, 1), (2,))
    monkeypatch.setitem(VARIANTS, "mini", SAM2Config("mini", trunk, input_size=64, dim=64, memory_dim=16))
    return ModelConfig(variant="mini", device="cpu", precision="float32")


def test_an_engine_is_loaded_as_configured(mini):
    engine, described = load_engine(mini)
    assert (described.model, described.input_size, described.precision) == ("mini", 64, "float32")
    assert (described.trained, described.weights_sha256, described.device) == (False, "", "cpu")
    assert engine.network.dtype is torch.float32


def test_an_engine_knows_its_weights_by_their_checksum_or_their_seed(mini, tmp_path):
    path = tmp_path / "mini.safetensors"
    save_checkpoint(build("mini", seed=1).state_dict(), path)
    engine, described = load_engine(replace(mini, weights=str(path)))
    assert engine.weights == described.weights_sha256 != ""
    assert load_engine(replace(mini, seed=7))[0].weights == "random, seed 7"


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_threads_are_those_configured_and_otherwise_left_to_torch(mini, threads):
    before = torch.get_num_threads()
    try:
        load_engine(ModelConfig("mini", device="cpu", precision="float32", threads=threads))
        assert torch.get_num_threads() == (threads or before)
    finally:
        torch.set_num_threads(before)


def test_missing_weights_are_an_error(mini, tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pt"):
        load_engine(ModelConfig("mini", weights=str(tmp_path / "none.pt"), device="cpu"))


@pytest.mark.parametrize(("capability", "expected"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bfloat16_is_for_gpus_that_have_it_in_hardware(monkeypatch, capability, expected):
    of = {torch.device("cuda:1"): capability}
    monkeypatch.setattr("torch.cuda.get_device_capability", of.__getitem__)
    assert has_fast_bfloat16(torch.device("cuda:1")) is expected


@pytest.fixture
def tf32_allowed() -> Iterator[None]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = True
    yield
    cudnn.allow_tf32, matmul.allow_tf32 = before


@pytest.mark.parametrize(
    ("device", "precision", "rounded"),
    [
        ("cuda", torch.float32, False),
        ("cuda:1", torch.float32, False),
        ("cuda", torch.bfloat16, True),
        ("cpu", torch.float32, True),
    ],
)
def test_float32_on_cuda_is_not_rounded_to_tf32(tf32_allowed, device, precision, rounded):
    keep_full_float32(torch.device(device), precision)
    assert torch.backends.cudnn.allow_tf32 is rounded
    assert torch.backends.cuda.matmul.allow_tf32 is rounded


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_engine_asks_for_full_float32_where_it_runs(mini, monkeypatch, precision):
    asked: list[tuple[torch.device, torch.dtype]] = []
    monkeypatch.setattr("masklet.engine.engine.keep_full_float32", lambda *where: asked.append(where))
    load_engine(replace(mini, precision=precision))
    assert asked == [(torch.device("cpu"), getattr(torch, precision))]
