"""Position encodings: sine maps, sine of a distance, axial rotary. All computed, none learnt."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0


def _frequencies(dim: int, device: torch.device | None) -> Tensor:
    """[dim] divisors, each twice: T^(0/dim), T^(0/dim), T^(2/dim), T^(2/dim), ..."""
    index = torch.arange(dim, dtype=torch.float32, device=device)
    return TEMPERATURE ** (2 * (index // 2) / dim)


def sine_map(side: int, dim: int, *, device: torch.device | None = None) -> Tensor:
    """[side * side, dim] row-major sine encoding: half of the channels for y, half for x (DETR, section 3.1)."""
    line = torch.arange(1, side + 1, dtype=torch.float32, device=device)
    angle = (line / (side + 1e-6) * 2 * math.pi)[:, None] / _frequencies(dim // 2, device)
    axis = torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)
    y = axis[:, None].expand(side, side, dim // 2)
    x = axis[None, :].expand(side, side, dim // 2)
    return torch.cat((y, x), dim=2).reshape(side * side, dim)


def sine_distance(distance: Tensor, dim: int) -> Tensor:
    """[...] distances -> [..., dim] sines, then cosines."""
    angle = distance.float()[..., None] / _frequencies(dim // 2, distance.device)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def axial_rotary(side: int, dim: int, *, device: torch.device | None = None) -> Tensor:
    """[side * side, dim / 2, 2] cosine and sine of the axial rotary encoding: x on the first half, then y.

    RoFormer (Su et al. 2021) in two dimensions, theta 10000, positions in tokens.
    """
    frequency = 1.0 / TEMPERATURE ** (torch.arange(0, dim, 4, dtype=torch.float32, device=device) / dim)
    token = torch.arange(side * side, device=device)
    x, y = (token % side).float(), (token // side).float()
    angle = torch.cat((x[:, None] * frequency, y[:, None] * frequency), dim=1)
    return torch.stack((angle.cos(), angle.sin()), dim=-1)


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate [..., N, 2 * D], whose neighbouring channels are the two coordinates of a plane, by angles [N, D, 2]."""
    planes = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(planes * torch.view_as_complex(rotary)).flatten(-2).to(x.dtype)
