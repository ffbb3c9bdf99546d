"""What keeps a network from learning a few videos by heart: parts of it are left out at random while training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from masklet.model import SAM2
from masklet.model.image_encoder import Block
from masklet.model.memory_attention import MemoryAttentionLayer

_APART = 1 << 62
"""Added to the seed of a step's clicks, so that what is left out does not go along with where they are."""


@dataclass(frozen=True, slots=True)
class RegularisationSettings:
    """How much is left out; the published configuration has 0.1 of both.

    Attributes:
        drop_path: odds that the last trunk block's attention, or its MLP, is passed over for a frame; falls linearly to
            0 in the first block (Huang et al. 2016).
        dropout: in memory attention, of attention weights, of what is added to the features, and inside the MLP
            (Srivastava et al. 2014). The first layer's self-attention is the same for all objects of a frame, and so is
            what is dropped there.
    """

    drop_path: float = 0.0
    dropout: float = 0.0

    @property
    def any(self) -> bool:
        """Whether anything is left out."""
        return self.drop_path > 0 or self.dropout > 0


def regularise(network: SAM2, settings: RegularisationSettings) -> None:
    """Leave parts out from now on, while the network is in training mode."""
    blocks = [module for module in network.image_encoder.modules() if isinstance(module, Block)]
    for index, block in enumerate(blocks):
        block.drop_path.rate = settings.drop_path * index / max(1, len(blocks) - 1)
    for layer in network.memory_attention.modules():
        if isinstance(layer, MemoryAttentionLayer):
            layer.set_dropout(settings.dropout)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw what is left out from a step's seed; torch's own generators are afterwards as they were before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed + _APART)
        yield
