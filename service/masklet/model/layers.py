"""Small parts that several modules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with an activation between them; `layers.0`, `layers.1`, ... as the checkpoints name them."""

    def __init__(self, widths: tuple[int, ...], *, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """[..., widths[0]] -> [..., widths[-1]]."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


class DropPath(nn.Module):
    """Leaves a residual branch out for some items of a batch, and scales it up for the others (Huang et al. 2016).

    Attributes:
        rate: odds of being left out, 0 to below 1; only while training.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rate = 0.0

    def forward(self, branch: Tensor) -> Tensor:
        """[B, ...] -> [B, ...]."""
        if not self.training or not self.rate:
            return branch
        kept = torch.rand(len(branch), *[1] * (branch.dim() - 1), device=branch.device) >= self.rate
        return branch * (kept / (1 - self.rate)).to(branch.dtype)


FEW_CHANNELS = 8


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of a map, eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]; a channels-last map stays one, unless it has few channels.

        Over few channels the library's takes several times as long (loadtests/bench_training.py).
        """
        if x.device.type == "cpu" and x.shape[1] <= FEW_CHANNELS and (x.requires_grad or x.dtype is torch.bfloat16):
            apart = x.float() - x.float().mean(dim=1, keepdim=True)
            scale = (apart.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()
            return (apart * scale * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6)
        return y.permute(0, 3, 1, 2)


def resize(x: Tensor, size: int, *, antialias: bool = False) -> Tensor:
    """Bilinear resize of [B, C, H, W] to [B, C, size, size], in float32, pixel centres at half integers.

    With gradients on a CPU as matrix products: the library's gradient is slower (loadtests/bench_training.py).
    """
    if x.requires_grad and x.device.type == "cpu" and not antialias:
        down, across = (resize_matrix(side, size) for side in x.shape[2:])
        return down @ x.float() @ across.transpose(0, 1)
    return F.interpolate(x.float(), (size, size), mode="bilinear", align_corners=False, antialias=antialias)


@lru_cache(maxsize=16)
def resize_matrix(side: int, size: int) -> Tensor:
    """[size, side]: what each of `size` cells takes of `side` ones in a bilinear resize."""
    eye = torch.eye(side)[None, :, :, None]
    return F.interpolate(eye, (size, 1), mode="bilinear", align_corners=False)[0, :, :, 0].transpose(0, 1).contiguous()


FEW_KEYS = 512
FEWEST_FUSED = 64
QUERY_CHUNK = 256


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention: [B, H, Nq, D], [B, H, Nk, D], [B, H, Nk, D] -> [B, H, Nq, D].

    On a CPU in bfloat16 the library's fused kernel takes up to twice as long as plain matrix products; with AMX a
    quarter to four fifths of it, unless many queries meet few keys. Its gradient is several times as slow there
    (loadtests/bench_attention.py).
    """
    if q.device.type != "cpu" or q.dtype is torch.float32 or _fuses_well(q, k):
        return F.scaled_dot_product_attention(q, k, v)
    scale = q.shape[-1] ** -0.5
    if k.shape[2] < min(FEWEST_FUSED, q.shape[2]):  # the library's softmax is slow over rows of a few
        return torch.softmax((k * scale) @ q.transpose(2, 3), dim=2).transpose(2, 3) @ v
    if k.shape[2] <= FEW_KEYS or q.shape[2] < FEWEST_FUSED:
        return torch.softmax((q * scale) @ k.transpose(2, 3), dim=-1) @ v
    rows: Tensor = weighted_average(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
    return rows.view(*q.shape[:3], v.shape[3])


@lru_cache(maxsize=1)
def has_matrix_tiles() -> bool:
    """Whether this CPU multiplies matrices in tiles (Intel AMX), as far as the library tells."""
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe()) if probe else False


def _fuses_well(q: Tensor, k: Tensor) -> bool:
    return k.shape[2] >= min(FEWEST_FUSED, q.shape[2]) and not q.requires_grad and has_matrix_tiles()


def weighted_average(q: Tensor, k: Tensor, values: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(C)) values: [B, N, C], [B, L, C], [B, L, M] -> [B, N, M]; M may differ from C.

    On a CPU row by row and in chunks of queries, which bounds the scores that exist at a time and keeps them in the
    cache; elsewhere, and where it suits, in one fused kernel.
    """
    if q.device.type != "cpu" or (values.dtype is torch.bfloat16 and _fuses_well(q[:, None], k[:, None])):
        return _fused_average(q, k, values)
    q = q * q.shape[-1] ** -0.5
    return torch.stack([_average(a, b, c) for a, b, c in zip(q, k, values, strict=True)])


def _fused_average(q: Tensor, k: Tensor, values: Tensor) -> Tensor:
    """`weighted_average` by the library's kernel, which wants values as wide as keys."""
    padded = F.pad(values, (0, k.shape[2] - values.shape[2]))
    averages = F.scaled_dot_product_attention(q[:, None], k[:, None], padded[:, None])[:, 0, :, : values.shape[2]]
    return averages.contiguous()  # else what projects them adds its bias in a pass of its own


def _average(q: Tensor, k: Tensor, values: Tensor) -> Tensor:
    """[N, C] scaled, [L, C], [L, M] -> [N, M]."""
    return torch.cat([torch.softmax(chunk @ k.t(), dim=-1) @ values for chunk in q.split(QUERY_CHUNK)])


class Derived:
    """The newest result of a function of weights, computed again when a weight or an argument has changed.

    Under autograd nothing is kept, so that gradients flow.
    """

    def __init__(self, function: Callable[..., Tensor], weights: Callable[[], Sequence[Tensor]]) -> None:
        self._function = function
        self._weights = weights
        self._key: object = None
        self._value: Tensor | None = None

    def get(self, *arguments: Any) -> Tensor:
        """The function's value for these arguments."""
        weights = self._weights()
        if torch.is_grad_enabled() or any(weight.is_inference() for weight in weights):
            return self._function(*arguments)
        key = (arguments, [(w.data_ptr(), w._version, w.dtype, w.device) for w in weights])
        if self._value is None or key != self._key:
            self._key, self._value = key, self._function(*arguments)
        return self._value
