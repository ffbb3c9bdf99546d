"""Weights to start training from."""

from __future__ import annotations

import torch
from torch import nn

from masklet.model import SAM2
from masklet.model.mask_decoder import Attention
from masklet.model.memory_attention import MemoryAttentionLayer, RotaryAttention

_MEETING_GAIN = 3.0
_NEARNESS = 3.0
_FAST_PLANES = 16  # one in so many channels: per axis the fastest quarter of the planes


@torch.no_grad()
def initialise(network: SAM2, seed: int) -> SAM2:
    """Draw all weights from `seed`: linear maps by fan-in, learnt positions small, convolutions as torch does.

    Where clicks and pixels meet in the mask decoder, queries and keys start with the same projection. Their positions
    are encoded alike, so from the first step a click attends to the pixels around it; without this, hundreds of steps
    pass before anything is learnt from clicks. Attention to memories starts local for the same reason: a constant in
    queries and keys, which the rotary encoding turns by position, makes each cell look at its own place in the
    memories, so that there is a mask to copy before there is one to find. The layer scale of the memory encoder starts
    at 0.1 instead of the ConvNeXt paper's 1e-6: two blocks need no taming.
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
        for module in network.sam_mask_decoder.transformer.modules():
            if isinstance(module, Attention) and module.q_proj.out_features < module.q_proj.in_features:
                module.q_proj.weight.mul_(_MEETING_GAIN)
                module.k_proj.weight.copy_(module.q_proj.weight)
        for layer in network.memory_attention.layers:
            assert isinstance(layer, MemoryAttentionLayer)
            look_near(layer.cross_attn_image)
        network.sam_prompt_encoder.pe_layer.get_buffer("positional_encoding_gaussian_matrix").normal_()
    return network


@torch.no_grad()
def look_near(attention: RotaryAttention) -> None:
    """Favour keys a few cells around a query's own place: equal biases in the planes that turn fast enough."""
    dim = attention.q_proj.out_features
    bias = torch.zeros(2, dim // 4, 2)
    bias[:, : dim // _FAST_PLANES, 0] = _NEARNESS
    attention.q_proj.bias.copy_(bias.flatten())
    attention.k_proj.bias.copy_(bias.flatten())


def _draw(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=min(0.05, module.in_features**-0.5))
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
        module.reset_parameters()
