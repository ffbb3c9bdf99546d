"""From gradients to weights: parameter groups, the learning rate's course, clipping, averaged weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from masklet.errors import ConfigError
from masklet.training.recipe import OptimiserSettings, Recipe

_BLOCK = re.compile(r"image_encoder\.trunk\.blocks\.(\d+)\.")
_ENCODER = "image_encoder."
_TRUNK = f"{_ENCODER}trunk."
_THIN = 32


class MuonAndAdamW:
    """Two optimisers that step as one; what AdamW trains comes first in `param_groups`."""

    def __init__(self, adamw: torch.optim.AdamW, muon: torch.optim.Optimizer) -> None:
        self._parts = {"adamw": adamw, "muon": muon}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both."""
        return [group for part in self._parts.values() for group in part.param_groups]

    def step(self) -> None:
        """Apply the gradients."""
        for part in self._parts.values():
            part.step()

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self._parts.values():
            part.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The states of both by name."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises KeyError or ValueError if the state is of another optimiser."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])


Optimiser = torch.optim.AdamW | MuonAndAdamW


def make_optimiser(network: nn.Module, settings: OptimiserSettings) -> Optimiser:
    """AdamW, or Muon beside it, with layer-wise decay of the trunk's learning rate.

    Each group has `share`, its part of the rate. Muon's steps are scaled to the size that AdamW's have (Liu et al.
    2025, "Muon is Scalable for LLM Training"), so one rate suits both.

    Raises:
        ConfigError: Muon is wanted, but this torch has none.
    """
    depth = 1 + max((int(m.group(1)) for n, _ in network.named_parameters() if (m := _BLOCK.match(n))), default=0)
    matrices = _matrices(network) if settings.muon else frozenset[int]()
    groups: dict[tuple[bool, float, float], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        share = settings.layer_decay ** _layers_above(name, depth)
        if name.startswith(_ENCODER):
            share *= settings.encoder_share
        decay = settings.weight_decay if parameter.ndim >= 2 and "embed" not in name else 0.0
        groups.setdefault((id(parameter) in matrices, share, decay), []).append(parameter)
    tables: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for (by_muon, share, decay), params in groups.items():
        tables[by_muon].append({"params": params, "share": share, "weight_decay": decay})
    adamw = torch.optim.AdamW(tables[False], lr=0.0, betas=(0.9, settings.beta2))
    return MuonAndAdamW(adamw, _muon(tables[True])) if settings.muon else adamw


def _matrices(network: nn.Module) -> frozenset[int]:
    """Ids of the weights of linear maps that are no thin slices."""
    linear = (module.weight for module in network.modules() if isinstance(module, nn.Linear))
    return frozenset(id(weight) for weight in linear if min(weight.shape) >= _THIN)


def _muon(tables: list[dict[str, Any]]) -> torch.optim.Optimizer:
    kind = getattr(torch.optim, "Muon", None)
    if kind is None:
        raise ConfigError(f"optimiser.muon needs torch 2.9, this is {torch.__version__}", field="optimiser.muon")
    muon: torch.optim.Optimizer = kind(tables, lr=0.0, adjust_lr_fn="match_rms_adamw")
    return muon


def _layers_above(name: str, depth: int) -> int:
    """How many trunk blocks lie between a parameter and the neck; 0 outside the trunk, and for its positions."""
    if not name.startswith(_TRUNK) or "pos_embed" in name:
        return 0
    block = _BLOCK.match(name)
    return depth - int(block.group(1)) if block else depth + 1


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up of the run; in each stage a cosine from its peak down."""
    settings = recipe.optimiser
    index, stage = recipe.stage_at(step)
    within = step - sum(before.steps for before in recipe.stages[:index])
    rise = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, within / stage.steps)))
    return stage.learning_rate * rise * (settings.final_share + (1 - settings.final_share) * cosine)


def restore_optimiser(optimiser: Optimiser, state: Mapping[str, Any]) -> None:
    """Take over a state's moments; rates, decay and betas stay as they were set.

    Raises:
        KeyError, ValueError: the state is of another optimiser.
    """
    kept = [{k: v for k, v in group.items() if k != "params"} for group in optimiser.param_groups]
    optimiser.load_state_dict(dict(state))
    for group, settings in zip(optimiser.param_groups, kept, strict=True):
        group.update(settings)


def set_learning_rate(optimiser: Optimiser, rate: float) -> None:
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


@torch.no_grad()
def drop_zero_gradients(parameters: Iterable[Tensor]) -> None:
    """Let what no loss depended on take no step: a gradient that is zero throughout becomes None.

    A step of Muon is of full size however small the gradient. Of averaged gradients, so that all processes skip alike.
    """
    given = [(parameter, grad) for parameter in parameters if (grad := parameter.grad) is not None]
    if not given:
        return
    used = torch.stack([grad.any() for _, grad in given]).tolist()
    for (parameter, _), any_used in zip(given, used, strict=True):
        if not any_used:
            parameter.grad = None


def clip_gradients(parameters: Iterable[Tensor], norm: float) -> Tensor:
    """Scale gradients down to `norm`; returns the norm they had, a scalar."""
    return torch.nn.utils.clip_grad_norm_(parameters, norm)
