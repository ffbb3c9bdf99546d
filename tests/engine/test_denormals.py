from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from masklet.engine import Engine, EngineSettings
from masklet.engine.denormals import denormals_are_zero, denormals_are_zero_here
from masklet.model import HieraConfig, SAM2Config, build
from masklet.model.config import VARIANTS
from masklet.types import Prompt, StepRequest, StepResult, TrackSettings

TINY = 1e-39  # below float32's smallest normal number, 1.2e-38
CAN = torch.set_flush_denormal(False)


@pytest.mark.skipif(not CAN, reason="this processor cannot take denormals for zero")
class TestDenormals:
    def test_are_zero_within_and_numbers_outside(self):
        tiny = torch.full((4,), TINY)
        with denormals_are_zero():
            assert denormals_are_zero_here()
            assert not (tiny * 1).any()
        assert not denormals_are_zero_here()
        assert (tiny * 1).all()

    def test_stay_zero_where_they_were_before(self):
        with denormals_are_zero():
            with denormals_are_zero():
                pass
            assert denormals_are_zero_here()

    def test_are_numbers_again_after_an_error(self):
        with pytest.raises(ZeroDivisionError), denormals_are_zero():
            raise ZeroDivisionError
        assert not denormals_are_zero_here()

    def test_are_zero_to_the_network_while_it_steps_and_not_to_who_calls_it(self, monkeypatch):
        trunk = HieraConfig(16, 1, (1, 1, 1, 1), (2,))
        monkeypatch.setitem(VARIANTS, "mini", SAM2Config("mini", trunk, input_size=64, dim=64, memory_dim=16))
        engine = Engine(build("mini", seed=0), EngineSettings("cpu", "float32"))
        seen = []
        engine.network.image_encoder.register_forward_pre_hook(lambda *_: seen.append(denormals_are_zero_here()))
        engine.open("s", TrackSettings())
        frame = np.zeros((48, 64, 3), np.uint8)
        [result] = engine.step([("s", StepRequest(1, frame, (Prompt.clicks(1, [(9.0, 9.0)], [1]),)))])
        assert isinstance(result, StepResult)
        assert seen == [True]
        assert not denormals_are_zero_here()

    def test_are_zero_in_torch_s_own_threads_too(self):
        """They are started by the first large operation, which is one of loading an engine."""
        script = (
            "import torch\n"
            "from masklet.engine.denormals import denormals_are_zero\n"
            "torch.set_num_threads(2)\n"
            "with denormals_are_zero():\n"
            "    tiny = torch.full((4_000_000,), 1e-39)\n"
            "    print(int((tiny * 1 != 0).sum()))\n"
        )
        answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
        assert answer.stdout.split() == ["0"]
