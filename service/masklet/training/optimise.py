"""From gradients to weights: parameter groups, the learning rate's course, clipping, averaged weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from masklet.training.recipe import OptimiserSettings, Recipe

_BLOCK = re.compile(r"image_encoder\.trunk\.blocks\.(\d+)\.")
_TRUNK = "image_encoder.trunk."


def make_optimiser(network: nn.Module, settings: OptimiserSettings) -> torch.optim.AdamW:
    """AdamW with layer-wise decay of the trunk's learning rate; each group has `share`, its part of the rate."""
    depth = 1 + max((int(m.group(1)) for n, _ in network.named_parameters() if (m := _BLOCK.match(n))), default=0)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        share = settings.layer_decay ** _layers_above(name, depth)
        decay = settings.weight_decay if parameter.ndim >= 2 and "embed" not in name else 0.0
        groups.setdefault((share, decay), []).append(parameter)
    tables = [{"params": params, "share": share, "weight_decay": decay} for (share, decay), params in groups.items()]
    return torch.optim.AdamW(tables, lr=0.0, betas=(0.9, settings.beta2))


def _layers_above(name: str, depth: int) -> int:
    """How many trunk blocks lie between a parameter and the neck; 0 outside the trunk."""
    if not name.startswith(_TRUNK):
        return 0
    block = _BLOCK.match(name)
    return depth - int(block.group(1)) if block else depth + 1


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine over the whole run, times the peak of the step's stage."""
    settings = recipe.optimiser
    _, stage = recipe.stage_at(step)
    rise = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, recipe.steps))))
    return stage.learning_rate * rise * (settings.final_share + (1 - settings.final_share) * cosine)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Each group gets its share."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["share"]


class AveragedWeights:
    """Exponential moving average of the weights; early on the average is over fewer steps."""

    def __init__(self, state: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.state = {name: tensor.detach().clone() for name, tensor in state.items()}

    @torch.no_grad()
    def update(self, state: Mapping[str, Tensor], step: int) -> None:
        """Move towards `state`; `step` counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, average in self.state.items():
            average.lerp_(state[name].to(average.dtype), 1 - decay)


def clip_gradients(parameters: Iterable[Tensor], norm: float) -> Tensor:
    """Scale gradients down to `norm`; returns the norm they had, a scalar."""
    return torch.nn.utils.clip_grad_norm_(parameters, norm)
