"""The image encoder: a Hiera trunk and a feature pyramid, once per frame."""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masklet.model.cell_order import from_nested, max_pool_nested, nested_run, to_nested
from masklet.model.config import HieraConfig, SAM2Config
from masklet.model.layers import MLP, Derived, DropPath, attend


class ImageEncoder(nn.Module):
    """Trunk and neck."""

    def __init__(self, config: SAM2Config) -> None:
        super().__init__()
        self.trunk = Hiera(config.trunk)
        self.neck = FpnNeck(config.trunk.stage_dims, config.dim)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[F, 3, S, S] normalised -> maps [F, H, W, C_i] of strides 4 and 8 (trunk channels) and [F, h, w, C] of 16."""
        stride4, stride8, stride16, stride32 = self.trunk(images)
        return [stride4, stride8, self.neck.top_down(stride16, stride32)]


class FpnNeck(nn.Module):
    """1x1 convolutions to `dim` channels; only stride 16 receives the level above it.

    Strides 4 and 8 are projected again, to fewer channels, by the mask decoder: `lateral` hands out the weights so that
    both linear maps run as one.
    """

    def __init__(self, stage_dims: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Lateral(channels, dim) for channels in reversed(stage_dims))

    def lateral(self, level: int) -> nn.Conv2d:
        """The projection of trunk stage `level`, 0 being stride 4."""
        conv: nn.Conv2d = self.convs[len(self.convs) - 1 - level].conv  # type: ignore[assignment]
        return conv

    def top_down(self, stride16: Tensor, stride32: Tensor) -> Tensor:
        """[F, h, w, C2], [F, h/2, w/2, C3] -> [F, h, w, dim]."""
        coarse = _project(stride32, self.lateral(3))
        up = coarse.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        return _project(stride16, self.lateral(2)) + up


class Lateral(nn.Module):
    """Holds one 1x1 convolution under the checkpoints' name, `conv`."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, dim, 1)


def _project(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution of a channels-last map [..., C] as a matrix product."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)


def project_twice(x: Tensor, first: nn.Conv2d, second: nn.Conv2d) -> Tensor:
    """Two 1x1 convolutions in a row of a channels-last map [..., C], as one: (W2 W1) x + (W2 b1 + b2)."""
    w1, w2 = first.weight.flatten(1), second.weight.flatten(1)
    assert first.bias is not None and second.bias is not None
    return F.linear(x, w2 @ w1, w2 @ first.bias + second.bias)


class Hiera(nn.Module):
    """A hierarchical vision transformer with windowed attention and a few global blocks."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, config.embed_dim, config.background_size, config.background_size))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, config.embed_dim, config.windows[0], config.windows[0]))
        self.patch_embed = PatchEmbed(config.embed_dim)
        blocks = _blocks(config)
        self.blocks = nn.ModuleList(blocks)
        self.stage_ends = tuple(end - 1 for end in accumulate(config.blocks))
        self.windows = tuple((block.attn.window, block.pool) for block in blocks)
        self._position = Derived(self.position, self._position_weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[F, 3, S, S] -> [F, S/4, S/4, C], [F, S/8, S/8, 2C], [F, S/16, S/16, 4C], [F, S/32, S/32, 8C]."""
        x = self.patch_embed(images)
        x = x + self._position.get(x.shape[1], x.dtype)
        side = x.shape[1]
        nested, nest = self._nested_run(x)
        stages = []
        if nested:
            x = to_nested(x, nest)
        for index, (block, (_, pools)) in enumerate(zip(self.blocks, self.windows, strict=True)):
            x = block(x)
            if pools:
                side, nest = side // 2, nest // 2
            rows = from_nested(x, nest, (side, side)) if index < nested else x
            if index + 1 == nested:
                x = rows
            if index in self.stage_ends:
                stages.append(rows)
        return stages

    def _nested_run(self, x: Tensor) -> tuple[int, int]:
        """How many blocks take their cells in nested order, and its blocks' side.

        In float32 none do: sums in another order would round differently from the reference's.
        """
        if x.dtype is torch.float32 or torch.is_grad_enabled():
            return 0, 1
        return nested_run(x.shape[1], self.windows)

    def _position_weights(self) -> tuple[Tensor, ...]:
        return self.pos_embed, self.pos_embed_window

    def position(self, side: int, dtype: torch.dtype) -> Tensor:
        """[1, side, side, C]: the background embedding interpolated, the window embedding tiled."""
        background = F.interpolate(self.pos_embed.float(), (side, side), mode="bicubic")
        tiles = side // self.pos_embed_window.shape[-1]
        position = background + self.pos_embed_window.tile(1, 1, tiles, tiles)
        return position.permute(0, 2, 3, 1).contiguous().to(dtype)


class PatchEmbed(nn.Module):
    """A 7x7 convolution of stride 4."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 7, stride=4, padding=3)

    def forward(self, images: Tensor) -> Tensor:
        """[F, 3, S, S] -> [F, S/4, S/4, C]."""
        out: Tensor = self.proj(images.contiguous(memory_format=torch.channels_last))
        return out.permute(0, 2, 3, 1)


def _blocks(config: HieraConfig) -> list[Block]:
    """The first block of a stage pools, doubles the channels, and still has the window of the stage before."""
    blocks: list[Block] = []
    dim, heads = config.embed_dim, config.num_heads
    for stage, count in enumerate(config.blocks):
        for position in range(count):
            pool = stage > 0 and position == 0
            window = config.windows[stage - 1 if pool else stage]
            if len(blocks) in config.global_blocks:
                window = 0
            dim_in = dim
            if pool:
                dim, heads = 2 * dim, 2 * heads
            blocks.append(Block(dim_in, dim, heads=heads, window=window, pool=pool))
    return blocks


class Block(nn.Module):
    """Pre-norm attention and MLP, with optional pooling of the queries."""

    def __init__(self, dim_in: int, dim: int, *, heads: int, window: int, pool: bool) -> None:
        super().__init__()
        self.pool = pool
        self.norm1 = nn.LayerNorm(dim_in, eps=1e-6)
        self.attn = MultiScaleAttention(dim_in, dim, heads=heads, window=window, pool=pool)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP((dim, 4 * dim, dim), activation=nn.GELU)
        self.drop_path = DropPath()
        if pool:
            self.proj = nn.Linear(dim_in, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[F, H, W, C_in] -> [F, H', W', C], H' = H / 2 if the block pools; or nested, [F, N, C_in] -> [F, N', C]."""
        normed = self.norm1(x)
        shortcut = max_pool(self.proj(normed)) if self.pool else x
        x = shortcut + self.drop_path(self.attn(normed))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class MultiScaleAttention(nn.Module):
    """Multi-head attention inside windows (`window` 0: the whole map); with `pool` the queries are max-pooled by 2.

    The reference pads the map with zeros to whole windows first, so padding cells have the projections' biases as keys
    and values. Here they get them without being projected: at small inputs most cells of a padded map are padding.
    """

    def __init__(self, dim_in: int, dim: int, *, heads: int, window: int, pool: bool) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.pool = pool
        self.qkv = nn.Linear(dim_in, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[F, H, W, C_in] -> [F, H', W', C]; or nested, [F, N, C_in] -> [F, N', C]."""
        if x.dim() == 3:
            return self._nested(x)
        side = self.window or x.shape[1]
        qkv = self.qkv(x)
        if self.pool:
            query, key_value = qkv.split((qkv.shape[-1] // 3, qkv.shape[-1] // 3 * 2), dim=-1)
            query = max_pool(query)
            size, side_out = query.shape[1:3], side // 2
            q = cut_windows(query, side_out, self.qkv.bias[: query.shape[-1]])
            kv = cut_windows(key_value, side, self.qkv.bias[query.shape[-1] :])
            k, v = kv.unflatten(2, (2, self.heads, -1)).unbind(2)
            q = q.unflatten(2, (self.heads, -1))
        else:
            size, side_out = x.shape[1:3], side
            q, k, v = cut_windows(qkv, side, self.qkv.bias).unflatten(2, (3, self.heads, -1)).unbind(2)
        y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2).flatten(2)
        if y.dtype is torch.float32:  # the reference's order: equal shapes give equal rounding
            return join_windows(self.proj(y), side_out, (size[0], size[1]))
        out: Tensor = self.proj(join_windows(y, side_out, (size[0], size[1])))
        return out

    def _nested(self, x: Tensor) -> Tensor:
        """[F, N, C_in] -> [F, N', C]: windows lie one after the other, none is padded."""
        windows = self.qkv(x).reshape(-1, self.window**2 or x.shape[1], self.qkv.out_features)
        q, k, v = windows.chunk(3, dim=-1)
        if self.pool:
            q = max_pool_nested(q)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        out: Tensor = self.proj(attend(q, k, v).transpose(1, 2).reshape(len(x), -1, self.proj.in_features))
        return out


def max_pool(x: Tensor) -> Tensor:
    """[B, H, W, C] -> [B, H/2, W/2, C], H and W even; or nested, [B, N, C] -> [B, N/4, C].

    The library's pooling remembers indices: slower to answer, but its gradient takes a fifth of the time.
    """
    if x.dim() == 3:
        return max_pool_nested(x)
    if torch.is_grad_enabled():
        return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    rows = torch.maximum(x[:, 0::2], x[:, 1::2])
    return torch.maximum(rows[:, :, 0::2], rows[:, :, 1::2])


def cut_windows(x: Tensor, side: int, padding: Tensor) -> Tensor:
    """[F, H, W, C] -> [F * windows, side * side, C]; cells beyond the right and the bottom edge are `padding` [C]."""
    frames, height, width, channels = x.shape
    rows, columns = -(-height // side), -(-width // side)
    if (rows * side, columns * side) != (height, width):
        padded = padding.expand(frames, rows * side, columns * side, channels).clone()
        padded[:, :height, :width] = x
        x = padded
    x = x.reshape(frames, rows, side, columns, side, channels).transpose(2, 3)
    return x.reshape(-1, side * side, channels)


def join_windows(windows: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """[F * windows, side * side, C] -> [F, H, W, C] of `size`; undoes `cut_windows`."""
    height, width = size
    rows, columns = -(-height // side), -(-width // side)
    x = windows.view(-1, rows, columns, side, side, windows.shape[-1]).transpose(2, 3)
    x = x.reshape(x.shape[0], rows * side, columns * side, -1)
    return x[:, :height, :width].contiguous()
