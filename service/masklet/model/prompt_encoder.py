"""The prompt encoder: clicks and boxes become tokens, mask inputs become a map."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from masklet.model.config import SAM2Config
from masklet.model.layers import Derived, LayerNorm2d

PADDING, EXCLUDE, INCLUDE, BOX_MIN, BOX_MAX = -1, 0, 1, 2, 3


class PromptEncoder(nn.Module):
    """SAM's prompt encoder (Kirillov et al. 2023, appendix A)."""

    def __init__(self, config: SAM2Config) -> None:
        super().__init__()
        self.set_input_size(config)
        self.pe_layer = RandomFourierPosition(config.dim)
        self._grid_position = Derived(self._position_of, self._position_weights)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, config.dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, config.dim)
        self.no_mask_embed = nn.Embedding(1, config.dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, 2, stride=2),
            LayerNorm2d(4),
            nn.GELU(),
            nn.Conv2d(4, 16, 2, stride=2),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, config.dim, 1),
        )

    def set_input_size(self, config: SAM2Config) -> None:
        """Take points in pixels of the configuration's input from now on."""
        self.input_size = config.input_size
        self.grid = config.grid

    def tokens(self, points: Tensor, labels: Tensor) -> Tensor:
        """[B, P, 2] (x, y) pixels of the model input and [B, P] labels -> [B, P + 1, C].

        Labels: 1 include, 0 exclude, 2 and 3 the corners of a box, -1 padding. One padding token is appended.
        """
        position = self.pe_layer((points + 0.5) / self.input_size)
        position = torch.cat((position, torch.zeros_like(position[:, :1])), dim=1)
        labels = torch.cat((labels, torch.full_like(labels[:, :1], PADDING)), dim=1)
        kinds = torch.cat([self.not_a_point_embed.weight, *(e.weight for e in self.point_embeddings)])  # type: ignore[list-item]
        return position * (labels != PADDING)[..., None] + kinds[labels + 1]

    def mask_map(self, logits: Tensor) -> Tensor:
        """[B, 1, 4h, 4w] logits -> [B, C, h, w]."""
        out: Tensor = self.mask_downscaling(logits.to(self.mask_downscaling[0].weight.dtype))  # type: ignore[arg-type]
        return out

    def no_mask_map(self) -> Tensor:
        """[1, C, 1, 1]: stands for "no mask input"."""
        return self.no_mask_embed.weight[:, :, None, None]

    def grid_position(self) -> Tensor:
        """[h * w, C] position encoding of the feature map."""
        return self._grid_position.get(self.grid)

    def _position_weights(self) -> tuple[Tensor, ...]:
        return (self.pe_layer.frequencies,)

    def _position_of(self, grid: int) -> Tensor:
        line = (torch.arange(grid, device=self.no_mask_embed.weight.device) + 0.5) / grid
        y, x = torch.meshgrid(line, line, indexing="ij")
        position: Tensor = self.pe_layer(torch.stack((x, y), dim=-1).flatten(0, 1))
        return position


class RandomFourierPosition(nn.Module):
    """Positions in [0, 1] through fixed random frequencies (Tancik et al. 2020)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.zeros(2, dim // 2))

    @property
    def frequencies(self) -> Tensor:
        """[2, C / 2]."""
        return self.get_buffer("positional_encoding_gaussian_matrix")

    def forward(self, points: Tensor) -> Tensor:
        """[..., 2] (x, y) in [0, 1] -> [..., C], float32."""
        angle = 2 * math.pi * ((2 * points.float() - 1) @ self.frequencies.float())
        return torch.cat((angle.sin(), angle.cos()), dim=-1)
