"""bfloat16 on this CPU: fused attention against plain matrix products; whole frames with both, and with packed weights.

python loadtests/bench_attention.py [THREADS]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from masklet.config import ModelConfig
from masklet.engine.load import load_engine
from masklet.model import layers
from masklet.types import Prompt, StepRequest, TrackSettings

_ROUNDS = 15
_SHAPES = {  # [batch, heads, tokens, channels of a head]
    "windows of 8x8, 64 of them": (64, 1, 64, 48),
    "nano's trunk at 256 px": (1, 4, 256, 48),
    "nano's trunk at 288 px": (1, 4, 324, 48),
    "nano's trunk at 320 px": (1, 4, 400, 48),
    "tiny's trunk at 1024 px": (1, 4, 4096, 96),
}
_SIZES = (256, 288, 320)
_WARM_UP, _FRAMES = 18, 20  # with the memory bank full


def compare_kernels() -> None:
    """Fastest of some rounds in turns, without gradients and with."""
    for name, shape in _SHAPES.items():
        inputs = [torch.randn(shape, dtype=torch.bfloat16) for _ in range(3)]
        for gradients in (False, True):
            pairs = [(_seconds(_plain, inputs, gradients), _seconds(_fused, inputs, gradients)) for _ in range(_ROUNDS)]
            plain, fused = (min(column) for column in zip(*pairs, strict=True))
            kind = "forward and backward" if gradients else "forward"
            print(
                f"  {name:28} {kind:21} {1000 * plain:7.2f} and {1000 * fused:7.2f} ms:"
                f" the fused kernel is {plain / fused:.2f} times as fast"
            )


def _plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with patch.object(layers, "has_matrix_tiles", lambda: False):
        return layers.attend(q, k, v)


def _fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def _seconds(form: Callable[..., Tensor], inputs: list[Tensor], gradients: bool) -> float:
    leaves = [x.clone().requires_grad_(gradients) for x in inputs]
    started = time.perf_counter()
    out = form(*leaves)
    if gradients:
        out.backward(torch.ones_like(out))
    return time.perf_counter() - started


def compare_frames() -> None:
    """Median ms per frame of the engine, one object, in turns: neither of both, and what is chosen here."""
    image = np.random.default_rng(0).integers(0, 255, (360, 640, 3), dtype=np.uint8)
    for size in _SIZES:
        config = ModelConfig(device="cpu", precision="bfloat16", input_size=size)
        with patch("masklet.engine.engine.pack_linear_layers"):
            plain, _ = load_engine(config)
        chosen, _ = load_engine(config)
        times: dict[str, list[float]] = {"plain": [], "chosen": []}
        for engine in (plain, chosen):
            engine.open("bench", TrackSettings())
        for seq in range(1, _WARM_UP + _FRAMES + 1):
            request = StepRequest(seq, image, (Prompt.clicks(1, [(300, 80)]),) if seq == 1 else ())
            started = time.perf_counter()
            with patch.object(layers, "has_matrix_tiles", lambda: False):
                plain.step([("bench", request)])
            times["plain"].append(time.perf_counter() - started)
            started = time.perf_counter()
            chosen.step([("bench", request)])
            times["chosen"].append(time.perf_counter() - started)
        before, after = (1000 * float(np.median(times[side][_WARM_UP:])) for side in ("plain", "chosen"))
        print(f"  nano at {size} px: {before:.1f} and {after:.1f} ms per frame, {before / after:.2f} times as fast")


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    print(f"matrix tiles (AMX): {'yes' if layers.has_matrix_tiles() else 'no'}; plain products and the fused kernel:")
    compare_kernels()
    print("whole frames: plain products and weights as they are, and what is chosen here:")
    compare_frames()
