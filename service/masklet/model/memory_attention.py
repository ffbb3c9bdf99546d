"""Memory attention: the features of a frame look at what is remembered of an object."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masklet.model.config import SAM2Config
from masklet.model.layers import attend, weighted_average
from masklet.model.position import rotate


class MemoryAttention(nn.Module):
    """Transformer layers of rotary self-attention, rotary cross-attention to memories, and an MLP (section 4)."""

    def __init__(self, config: SAM2Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            MemoryAttentionLayer(config.dim, config.memory_dim) for _ in range(config.memory_layers)
        )
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, features: Tensor, frame_of_row: Tensor, memory: MemoryTokens, rotary: Tensor) -> Tensor:
        """Condition the features of each row's frame on the row's memory.

        Args:
            features: [F, N, C] frame features with position added.
            frame_of_row: [B] index into the frames.
            memory: what each of the B rows remembers.
            rotary: [N, C / 2, 2] cosine and sine.

        Returns:
            [B, N, C].
        """
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, MemoryAttentionLayer)
            features = layer.attend_self(features, rotary)
            if index == 0:  # until here a row knows nothing but its frame: done once a frame
                features = features[frame_of_row]
            features = layer.attend_memory(features, memory, rotary)
        out: Tensor = self.norm(features)
        return out


class MemoryTokens:
    """Keys and values of B rows.

    Attributes:
        keys: [B, L, M] memories and pointers with their positions added.
        values: [B, L, M] the same without positions.
        spatial: how many of the L tokens are cells of memories; the rest are pointer tokens without rotary position.
    """

    __slots__ = ("keys", "spatial", "values")

    def __init__(self, keys: Tensor, values: Tensor, spatial: int) -> None:
        self.keys = keys
        self.values = values
        self.spatial = spatial


class MemoryAttentionLayer(nn.Module):
    """One layer.

    Attributes:
        dropout: of what is added to the features and of the MLP's inner ones, while training; see `set_dropout`.
    """

    def __init__(self, dim: int, memory_dim: int) -> None:
        super().__init__()
        self.self_attn = RotaryAttention(dim, dim)
        self.cross_attn_image = RotaryAttention(dim, memory_dim)
        self.linear1 = nn.Linear(dim, 8 * dim)
        self.linear2 = nn.Linear(8 * dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(0.0)

    def set_dropout(self, rate: float) -> None:
        """Drop this share, of attention weights too, while training."""
        self.dropout.p = self.self_attn.dropout = self.cross_attn_image.dropout = rate

    def widened(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, 8 C]: the MLP's inner features."""
        return F.relu(self.linear1(x))

    def attend_self(self, x: Tensor, rotary: Tensor) -> Tensor:
        """[F, N, C] -> [F, N, C]."""
        out: Tensor = x + self.dropout(self.self_attn.to_itself(self.norm1(x), rotary))
        return out

    def attend_memory(self, x: Tensor, memory: MemoryTokens, rotary: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C], the MLP included."""
        x = x + self.dropout(self.cross_attn_image.to_memory(self.norm2(x), memory, rotary))
        inner = self.dropout(self.widened(self.norm3(x)))
        out: Tensor = x + self.dropout(self.linear2(inner))
        return out


class RotaryAttention(nn.Module):
    """One-head attention with axial rotary positions (SAM 2, appendix D.1).

    Attributes:
        dropout: share of the attention weights that is dropped while training.
    """

    def __init__(self, dim: int, key_dim: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(key_dim, dim)
        self.v_proj = nn.Linear(key_dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.dropout = 0.0

    def to_itself(self, x: Tensor, rotary: Tensor) -> Tensor:
        """[F, N, C] -> [F, N, C]."""
        q = rotate(self.q_proj(x), rotary)
        k = rotate(self.k_proj(x), rotary)
        return self._project(q, k, self.v_proj(x))

    def to_memory(self, x: Tensor, memory: MemoryTokens, rotary: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C].

        Attention weights sum to one, unless some are dropped, so the values are averaged in the memories' few channels
        and projected after; both projections that follow are one matrix.
        """
        q = rotate(self.q_proj(x), rotary)
        k = self.k_proj(memory.keys)
        cells = k[:, : memory.spatial].unflatten(1, (-1, x.shape[1]))
        k = torch.cat((rotate(cells, rotary).flatten(1, 2), k[:, memory.spatial :]), dim=1)
        values = memory.values.to(q.dtype)
        if self._drops:
            return self._project(q, k, self.v_proj(values))
        averaged = weighted_average(q, k, values)
        weight = self.out_proj.weight @ self.v_proj.weight
        bias = F.linear(self.v_proj.bias, self.out_proj.weight, self.out_proj.bias)
        return F.linear(averaged, weight, bias)

    @property
    def _drops(self) -> bool:
        return self.training and self.dropout > 0

    def _project(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Average the projected values [B, L, C] for each query [B, N, C]."""
        q, k, v = q[:, None], k[:, None], v[:, None]
        rate = self.dropout if self._drops else 0.0
        averaged = F.scaled_dot_product_attention(q, k, v, dropout_p=rate) if rate else attend(q, k, v)
        out: Tensor = self.out_proj(averaged[:, 0])
        return out
