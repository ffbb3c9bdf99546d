"""Linear layers of a network that only answers, with their weights laid out once as oneDNN wants them.

In bfloat16 on a CPU the library lays them out anew at every call. The operators are those its compiler emits for frozen
weights; they are not public, so they are tried first, and without them everything stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from masklet.model.layers import MLP
from masklet.model.memory_attention import MemoryAttentionLayer

_Form = Callable[[Tensor], Tensor]
_ACTIVATIONS: dict[type[nn.Module], str] = {nn.GELU: "gelu", nn.ReLU: "relu"}


def pack_linear_layers(network: nn.Module) -> int:
    """Give the bfloat16 linear layers of a network on a CPU, and activations after them, their packed form.

    Later changes of these weights are not seen. The network keeps its weights as they are beside the packed ones.

    Returns:
        How many layers were packed: 0 where the library cannot.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Linear) and _fits(m)]
    if not layers or not can_pack():
        return 0
    mlps = [m for m in network.modules() if isinstance(m, MLP) and type(m.activation) in _ACTIVATIONS]
    mlps = [mlp for mlp in mlps if all(_fits(layer) for layer in mlp.layers)]
    within = {id(layer) for mlp in mlps for layer in mlp.layers}
    for mlp in mlps:
        _replace(mlp, _packed_mlp(mlp))
    for layer in layers:
        if id(layer) not in within:
            _replace(layer, _packed(layer, "none"))
    for module in network.modules():
        if isinstance(module, MemoryAttentionLayer) and _fits(module.linear1):
            _replace(module, _packed(module.linear1, "relu"), method="widened")
    return len(layers)


@lru_cache(maxsize=1)
def can_pack() -> bool:
    """Whether the operators are there and right on this CPU."""
    layer = nn.utils.skip_init(nn.Linear, 64, 64, dtype=torch.bfloat16).requires_grad_(False)  # draws no random numbers
    layer.weight.copy_(torch.linspace(-1, 1, 64 * 64).view(64, 64))
    layer.bias.copy_(torch.linspace(-1, 1, 64))
    x = torch.linspace(-0.1, 0.1, 128).view(2, 64).bfloat16()
    try:
        found = _packed(layer, "gelu")(x)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(found, nn.functional.gelu(layer(x)), atol=0.02)


def _fits(layer: nn.Module) -> bool:
    weight = layer.weight
    return isinstance(weight, Tensor) and weight.dtype is torch.bfloat16 and weight.device.type == "cpu"


def _packed(layer: nn.Module, activation: str) -> _Form:
    """The layer and, unless it is "none", the activation after it, as one operator."""
    operators = torch.ops.mkldnn
    assert isinstance(layer, nn.Linear)
    bias = None if layer.bias is None else layer.bias.detach()
    weight = operators._reorder_linear_weight(layer.weight.detach(), None)
    algorithm = "none" if activation == "gelu" else ""  # of the GELU: the exact one

    def form(x: Tensor) -> Tensor:
        out: Tensor = operators._linear_pointwise(x, weight, bias, activation, [], algorithm)
        return out

    return form


def _packed_mlp(mlp: MLP) -> _Form:
    activation = _ACTIVATIONS[type(mlp.activation)]
    forms = [_packed(layer, activation) for layer, _ in pairwise(mlp.layers)] + [_packed(mlp.layers[-1], "none")]

    def form(x: Tensor) -> Tensor:
        for one in forms:
            x = one(x)
        return x

    return form


def _replace(module: nn.Module, form: _Form, *, method: str = "forward") -> None:
    vars(module)[method] = form
