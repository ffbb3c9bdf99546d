"""The memory encoder: a frame's features and an object's mask become a memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masklet.model.config import SAM2Config
from masklet.model.layers import LayerNorm2d


class MemoryEncoder(nn.Module):
    """Downsampled mask plus projected features, fused by two ConvNeXt blocks (SAM 2, section 4)."""

    def __init__(self, config: SAM2Config) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownsampler(config.dim)
        self.pix_feat_proj = nn.Conv2d(config.dim, config.dim, 1)
        self.fuser = Fuser(config.dim)
        self.out_proj = nn.Conv2d(config.dim, config.memory_dim, 1)

    def forward(self, features: Tensor, frame_of_row: Tensor, masks: Tensor) -> Tensor:
        """[F, C, h, w] features, [B] frame of each row, [B, 1, 16h, 16w] scaled masks -> [B, M, h, w]."""
        projected = self.pix_feat_proj(features)[frame_of_row]
        out: Tensor = self.out_proj(self.fuser(projected + self.mask_downsampler(masks)))
        return out


class MaskDownsampler(nn.Module):
    """Four 3x3 convolutions of stride 2, then 1x1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (1, 4, 16, 64):
            layers += [nn.Conv2d(channels, 4 * channels, 3, stride=2, padding=1), LayerNorm2d(4 * channels), nn.GELU()]
        self.encoder = nn.Sequential(*layers, nn.Conv2d(256, dim, 1))

    def forward(self, masks: Tensor) -> Tensor:
        """[B, 1, 16h, 16w] -> [B, C, h, w]."""
        out: Tensor = self.encoder(masks)
        return out


class Fuser(nn.Module):
    """Two ConvNeXt blocks."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNeXtBlock(dim) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]."""
        for layer in self.layers:
            x = layer(x)
        return x


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, norm, MLP, layer scale (Liu et al. 2022)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]."""
        y = self.norm(self.mixed(x)).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        out: Tensor = x + y.permute(0, 3, 1, 2)
        return out

    def mixed(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]: the depthwise convolution.

        On a CPU its gradient is faster in float32 (loadtests/bench_training.py).
        """
        if not (x.requires_grad and x.device.type == "cpu"):
            out: Tensor = self.dwconv(x)
            return out
        weight, bias, padding, groups = self.dwconv.weight, self.dwconv.bias, self.dwconv.padding, self.dwconv.groups
        assert bias is not None and isinstance(padding, tuple)
        return F.conv2d(x.float(), weight.float(), bias.float(), padding=padding, groups=groups).to(x.dtype)
