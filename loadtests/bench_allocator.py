"""What `masklet.engine.allocator` saves: CPU time and page faults per frame of `nano`, with and without in turns."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import numpy as np
import torch

from masklet.config import ModelConfig
from masklet.engine import load as loading
from masklet.types import Prompt, StepRequest, TrackSettings

_ROUNDS = 3
_WARM_UP = 10
_FRAMES = 60


def measure(*, keep: bool) -> None:
    """Print one side's numbers; each side has a process of its own, because the setting is the process's."""
    torch.set_num_threads(1)
    if not keep:
        vars(loading)["keep_freed_memory"] = lambda: False
    engine, _ = loading.load_engine(ModelConfig(device="cpu"))
    image = np.random.default_rng(0).integers(0, 255, (360, 640, 3), dtype=np.uint8)
    engine.open("bench", TrackSettings())
    for seq in range(1, _WARM_UP + _FRAMES + 1):
        if seq == _WARM_UP + 1:
            started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF)
        engine.step([("bench", StepRequest(seq, image, (Prompt.clicks(1, [(300, 80)]),) if seq == 1 else ()))])
    seconds, after = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF)
    faults = (after.ru_minflt - before.ru_minflt) / _FRAMES
    print(
        f"{'kept' if keep else 'returned'}: {1000 * seconds / _FRAMES:.1f} ms CPU, {faults:.0f} page faults per frame"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(keep=sys.argv[1] == "kept")
    else:
        for _ in range(_ROUNDS):
            for side in ("returned", "kept"):
                subprocess.run([sys.executable, __file__, side], check=True)
