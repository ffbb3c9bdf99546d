"""Networks with random weights, for tests, benchmarks and for seeing the service run before weights are at hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from masklet.model.config import variant_config
from masklet.model.sam2 import SAM2


def build(variant: str, *, input_size: int = 0, seed: int | None = 0) -> SAM2:
    """A network in evaluation mode with weights drawn from `seed`; None leaves them as they come, for loading.

    Raises:
        ConfigError: unknown variant or bad input size.
    """
    network = SAM2(variant_config(variant, input_size=input_size))
    if seed is not None:
        draw(network, seed)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def draw(network: SAM2, seed: int) -> None:
    """Draw all weights so that activations keep their scale and masks vary from frame to frame."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(network.state_dict().items()):
        noise = torch.randn(tensor.shape, generator=generator)
        tensor.copy_(noise * _scale(name, tensor) + (1.0 if _is_gain(name, tensor) else 0.0))


def _is_gain(name: str, tensor: Tensor) -> bool:
    return tensor.ndim == 1 and name.endswith("weight")


def _scale(name: str, tensor: Tensor) -> float:
    if name.endswith("gaussian_matrix"):
        return 1.0
    if tensor.ndim == 1:
        return 0.3 if name.endswith("gamma") else 0.1
    if (
        "embed" in name.rsplit(".", 2)[-2 if "." in name else 0]
        or "token" in name
        or name.startswith(("no_", "maskmem"))
    ):
        return 0.5
    return 1.4 / math.sqrt(tensor[0].numel())
