"""What a training step of `nano` takes on one CPU thread, part by part; and the gradients that are not the library's.

python loadtests/bench_training.py [STEPS]
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masklet.engine.allocator import keep_freed_memory
from masklet.model.layers import LayerNorm2d, resize
from masklet.model.memory_encoder import ConvNeXtBlock
from masklet.training.assets import AssetBank
from masklet.training.optimise import clip_gradients, set_learning_rate
from masklet.training.recipe import Recipe, read_recipe
from masklet.training.trainer import RunSettings, Trainer

_STAGE = 2  # three frames of 256 pixels, picked from eight
_WARM_UP = 2
_ROWS = 12  # targets of such a step
_RATE = 1e-9  # so that nothing changes


def measure_steps(steps: int) -> None:
    """Mean seconds per part, over the recipe's own steps."""
    recipe = _recipe()
    settings = RunSettings(Path("unused"), torch.device("cpu"), torch.bfloat16, workers=0)
    trainer = Trainer(recipe, settings, assets=AssetBank.procedural())
    trainer.network.set_input_size(recipe.stages[0].size)
    set_learning_rate(trainer.optimiser, _RATE)
    seconds: dict[str, float] = defaultdict(float)
    frames = 0
    for step in range(_WARM_UP + steps):
        parts = _one_step(trainer, step)
        if step >= _WARM_UP:
            frames += recipe.stages[0].clips * recipe.stages[0].frames
            for name, value in parts.items():
                seconds[name] += value
    total = sum(seconds.values())
    print(f"{steps} steps, {frames / total:.1f} frames/s on one thread, ms per step:")
    for name, value in seconds.items():
        print(f"  {name:12} {1000 * value / steps:7.0f}  {value / total:4.0%}")


def _recipe() -> Recipe:
    recipe = read_recipe(Path(str(files("masklet.training") / "recipes" / "nano.toml")))
    return replace(recipe, stages=(recipe.stages[_STAGE],))


def _one_step(trainer: Trainer, step: int) -> dict[str, float]:
    marks = [time.perf_counter()]
    step_input = trainer.source[step]
    marks.append(time.perf_counter())
    losses = trainer.losses(step_input)
    marks.append(time.perf_counter())
    losses.total(trainer.recipe.losses_at(0)).backward()
    marks.append(time.perf_counter())
    clip_gradients(trainer.network.parameters(), 1.0)
    trainer.optimiser.step()
    trainer.optimiser.zero_grad(set_to_none=True)
    trainer.average.update(trainer.network.state_dict(), step)
    marks.append(time.perf_counter())
    names = ("drawing", "forward", "backward", "optimiser")
    return {name: b - a for name, a, b in zip(names, marks, marks[1:], strict=False)}


def compare_gradients(rounds: int = 10) -> None:
    """The library's form against ours: forward and backward, the fastest of some rounds, in turns."""
    norm, mix = LayerNorm2d(4).bfloat16(), ConvNeXtBlock(128).bfloat16()
    logits, mask = torch.randn(_ROWS, 1, 64, 64), torch.randn(_ROWS, 4, 128, 128, dtype=torch.bfloat16)
    features = torch.randn(_ROWS, 128, 16, 16, dtype=torch.bfloat16)
    pairs: list[tuple[str, Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
        ("bilinear resize, 64 to 256", logits, _library_resize, lambda x: resize(x, 256)),
        ("norm over 4 channels, 128x128", mask, lambda x: _library_norm(norm, x), norm),
        ("depthwise 7x7, 128 channels, bfloat16", features, mix.dwconv, mix.mixed),
    ]
    for name, x, theirs, ours in pairs:
        times = [(_seconds(theirs, x), _seconds(ours, x)) for _ in range(rounds)]
        library, own = (min(column) for column in zip(*times, strict=True))
        print(f"  {name:40} {1000 * library:6.1f} and {1000 * own:5.1f} ms: {library / own:.1f} times as fast")


def _library_resize(x: Tensor) -> Tensor:
    return F.interpolate(x, (256, 256), mode="bilinear")


def _library_norm(norm: LayerNorm2d, x: Tensor) -> Tensor:
    return F.layer_norm(x.permute(0, 2, 3, 1), norm.weight.shape, norm.weight, norm.bias, 1e-6)


def _seconds(form: Callable[[Tensor], Tensor] | nn.Module, x: Tensor) -> float:
    leaf = x.clone().requires_grad_()
    started = time.perf_counter()
    form(leaf).sum().backward()
    return time.perf_counter() - started


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()
    measure_steps(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
    print(f"forward and backward of {_ROWS} rows, the library's and ours:")
    compare_gradients()
