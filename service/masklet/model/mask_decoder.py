"""The mask decoder: tokens and an image embedding become masks, their predicted IoU, and an object score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masklet.model.config import SAM2Config
from masklet.model.layers import MLP, LayerNorm2d, attend

HEADS = 8
MASK_TOKENS = 4
STABILITY_DELTA = 0.05
STABILITY_THRESHOLD = 0.98


@dataclass(frozen=True, slots=True)
class DecodedMasks:
    """Everything the decoder says.

    Attributes:
        logits: [B, 4, 4h, 4w] float32; 0 is the single mask, 1 to 3 the candidates.
        predicted_iou: [B, 4] float32, 0 to 1.
        tokens: [B, 4, C] mask tokens.
        object_score: [B] float32 logit.
    """

    logits: Tensor
    predicted_iou: Tensor
    tokens: Tensor
    object_score: Tensor


class MaskDecoder(nn.Module):
    """SAM's mask decoder with SAM 2's skip connections and object score (SAM 2, figure 9)."""

    def __init__(self, config: SAM2Config) -> None:
        super().__init__()
        dim = config.dim
        self.smooth_logits = config.smooth_logits
        self.transformer = TwoWayTransformer(dim)
        self.obj_score_token = nn.Embedding(1, dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(MASK_TOKENS, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        self.conv_s0 = nn.Conv2d(dim, dim // 8, 1)
        self.conv_s1 = nn.Conv2d(dim, dim // 4, 1)
        self.output_hypernetworks_mlps = nn.ModuleList(MLP((dim, dim, dim, dim // 8)) for _ in range(MASK_TOKENS))
        self.iou_prediction_head = MLP((dim, dim, dim, MASK_TOKENS))
        self.pred_obj_score_head = MLP((dim, dim, dim, 1))

    def forward(
        self, embedding: Tensor, position: Tensor, prompt_tokens: Tensor, skips: tuple[Tensor, Tensor]
    ) -> DecodedMasks:
        """Decode B prompted maps.

        Args:
            embedding: [B, h, w, C] image embedding plus dense prompt.
            position: [h * w, C] position encoding of the map.
            prompt_tokens: [B, P, C].
            skips: [B, 4h, 4w, C/8] and [B, 2h, 2w, C/4] features of strides 4 and 8.
        """
        batch, h, w, _ = embedding.shape
        own = torch.cat((self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight))
        tokens = torch.cat((own.expand(batch, -1, -1), prompt_tokens.to(own.dtype)), dim=1)
        tokens, pixels = self.transformer(tokens, embedding.flatten(1, 2), position.to(own.dtype))
        mask_tokens = tokens[:, 2 : 2 + MASK_TOKENS]
        fine = self._upscale(pixels.unflatten(1, (h, w)), skips)
        weights = torch.stack([m(mask_tokens[:, i]) for i, m in enumerate(self.output_hypernetworks_mlps)], dim=1)
        logits = (weights @ fine.flatten(1, 2).transpose(1, 2)).unflatten(2, (4 * h, 4 * w)).float()
        return DecodedMasks(
            logits=_smooth(logits) if self.smooth_logits else logits,
            predicted_iou=self.iou_prediction_head(tokens[:, 1]).float().sigmoid(),
            tokens=mask_tokens,
            object_score=self.pred_obj_score_head(tokens[:, 0])[:, 0].float(),
        )

    def _upscale(self, x: Tensor, skips: tuple[Tensor, Tensor]) -> Tensor:
        """[B, h, w, C] -> [B, 4h, 4w, C/8]."""
        first, norm, act, second, _ = self.output_upscaling
        x = act(F.layer_norm(_double(x, first) + skips[1], (first.out_channels,), norm.weight, norm.bias, 1e-6))  # type: ignore[arg-type]
        return F.gelu(_double(x, second) + skips[0])  # type: ignore[arg-type]


def _double(x: Tensor, conv: nn.ConvTranspose2d) -> Tensor:
    """A 2x2 transposed convolution of stride 2 as one matrix product: [B, h, w, C] -> [B, 2h, 2w, D]."""
    batch, h, w, _ = x.shape
    weight = conv.weight.permute(2, 3, 1, 0).flatten(0, 2)
    assert conv.bias is not None
    y = F.linear(x, weight, conv.bias.repeat(4)).view(batch, h, w, 2, 2, -1)
    return y.transpose(2, 3).reshape(batch, 2 * h, 2 * w, -1)


def _smooth(logits: Tensor) -> Tensor:
    """Binomial average over 3x3 cells, [B, M, H, W]; cells from a transposed convolution differ by their phase."""
    return _average_neighbours(_average_neighbours(logits, 2), 3)


def _average_neighbours(x: Tensor, dim: int) -> Tensor:
    """Each cell weighs a half, its two neighbours a quarter each; beyond the edge the last cell is repeated."""
    side = x.shape[dim]
    before = torch.cat((x.narrow(dim, 0, 1), x.narrow(dim, 0, side - 1)), dim)
    after = torch.cat((x.narrow(dim, 1, side - 1), x.narrow(dim, side - 1, 1)), dim)
    return x / 2 + (before + after) / 4


class TwoWayTransformer(nn.Module):
    """Tokens attend to the image and the image to the tokens, twice."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(dim, first=i == 0) for i in range(2))
        self.final_attn_token_to_image = Attention(dim, dim // 2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, pixels: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, C] tokens, [B, N, C] pixels, [N, C] position -> tokens, pixels."""
        start = tokens
        for layer in self.layers:
            tokens, pixels = layer(tokens, pixels, start, position)
        tokens = tokens + self.final_attn_token_to_image(tokens + start, pixels + position, pixels)
        return self.norm_final_attn(tokens), pixels


class TwoWayBlock(nn.Module):
    """One layer; the first one's self-attention has no position and no residual."""

    def __init__(self, dim: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, dim // 2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP((dim, 8 * dim, dim))
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, dim // 2)

    def forward(self, tokens: Tensor, pixels: Tensor, start: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, pixels, the tokens' own position, the pixels' position -> tokens, pixels."""
        if self.first:
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            query = tokens + start
            tokens = self.norm1(tokens + self.self_attn(query, query, tokens))
        placed = pixels + position
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + start, placed, pixels))
        tokens = self.norm3(tokens + self.mlp(tokens))
        pixels = self.norm4(pixels + self.cross_attn_image_to_token(placed, tokens + start, tokens))
        return tokens, pixels


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, Nq, C], [B, Nk, C], [B, Nk, C] -> [B, Nq, C]."""
        parts = (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        q, k, v = (t.unflatten(2, (HEADS, -1)).transpose(1, 2) for t in parts)
        out: Tensor = self.out_proj(attend(q, k, v).transpose(1, 2).flatten(2))
        return out


@dataclass(frozen=True, slots=True)
class ChosenMask:
    """One mask per row: [B, 4h, 4w] logits, [B] predicted IoU, [B, C] token of the object pointer."""

    logits: Tensor
    predicted_iou: Tensor
    token: Tensor


def choose_best(decoded: DecodedMasks) -> ChosenMask:
    """The candidate of the best predicted IoU; the pointer comes from its token."""
    best = decoded.predicted_iou[:, 1:].argmax(dim=1) + 1
    rows = torch.arange(len(best), device=best.device)
    return ChosenMask(decoded.logits[rows, best], decoded.predicted_iou[rows, best], decoded.tokens[rows, best])


def choose_single(decoded: DecodedMasks, *, by_stability: bool) -> ChosenMask:
    """The single mask; `by_stability`: the best candidate where the single mask is unstable. Pointer from token 0."""
    token = decoded.tokens[:, 0]
    single, iou = decoded.logits[:, 0], decoded.predicted_iou[:, 0]
    if not by_stability:
        return ChosenMask(single, iou, token)
    best = choose_best(decoded)
    stable = stability(single) >= STABILITY_THRESHOLD
    logits = torch.where(stable[:, None, None], single, best.logits)
    return ChosenMask(logits, torch.where(stable, iou, best.predicted_iou), token)


def stability(logits: Tensor) -> Tensor:
    """[B, H, W] -> [B]: area above +0.05 over area above -0.05; 1 where the latter is empty."""
    inner = (logits > STABILITY_DELTA).flatten(1).sum(dim=1)
    outer = (logits > -STABILITY_DELTA).flatten(1).sum(dim=1)
    return torch.where(outer > 0, inner / outer.clamp(min=1), 1.0)
