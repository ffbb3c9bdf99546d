"""Weights to start training from."""

from __future__ import annotations

import torch
from torch import nn

from masklet.model import SAM2


@torch.no_grad()
def initialise(network: SAM2, seed: int) -> SAM2:
    """Draw all weights from `seed`: linear maps by fan-in, learnt positions small, convolutions as torch does.

    The layer scale of the memory encoder starts at 0.1 instead of the ConvNeXt paper's 1e-6: two blocks need no taming.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            _draw(module)
        for name, parameter in network.named_parameters():
            if name.rsplit(".", 1)[-1].startswith(("pos_embed", "no_", "maskmem")):
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.endswith("gamma"):
                nn.init.constant_(parameter, 0.1)
        network.sam_prompt_encoder.pe_layer.get_buffer("positional_encoding_gaussian_matrix").normal_()
    return network


def _draw(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=min(0.05, module.in_features**-0.5))
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
        module.reset_parameters()
