"""SAM 2: Segment Anything in Images and Videos (Ravi et al. 2024), one frame of many objects at a time.

The network holds no state: what is remembered comes in, what is to be remembered goes out. A step of a tracker is

    encode_image -> condition (or without_memory) -> decode (or adopt_mask) -> encode_memory

Module names are those of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from masklet.model.config import MEMORY_SLOTS, SAM2Config
from masklet.model.image_encoder import ImageEncoder, project_twice
from masklet.model.layers import MLP, resize
from masklet.model.mask_decoder import DecodedMasks, MaskDecoder, choose_best, choose_single
from masklet.model.memory_attention import MemoryAttention, MemoryTokens
from masklet.model.memory_encoder import MemoryEncoder
from masklet.model.position import axial_rotary, sine_distance, sine_map
from masklet.model.prompt_encoder import PADDING, PromptEncoder

ABSENT_LOGIT = -1024.0
PREVIOUS_LOGITS_LIMIT = 32.0
MEMORY_MASK_SCALE, MEMORY_MASK_BIAS = 20.0, -10.0
HEAVY_PARTS = (
    "image_encoder",
    "memory_attention",
    "memory_encoder",
    "sam_mask_decoder",
    "sam_prompt_encoder.mask_downscaling",
)


@dataclass(frozen=True, slots=True)
class FrameFeatures:
    """F encoded frames: [F, h, w, C] embedding of stride 16; skips [F, 4h, 4w, C/8] and [F, 2h, 2w, C/4]."""

    embedding: Tensor
    skips: tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class MemoryBatch:
    """What B rows remember; every row as much as the others.

    Attributes:
        memories: [B, K, h * w, M].
        slots: [B, K] temporal index: 0 for the frame before, ..., 5; 6 for conditioning frames.
        pointers: [B, P, C] object pointers.
        distances: [B, P] frames between each pointer's frame and this one, over the span they are normalised by.
    """

    memories: Tensor
    slots: Tensor
    pointers: Tensor
    distances: Tensor


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """What is said about B rows, each as much as the others.

    Attributes:
        points: [B, P, 2] float (x, y) in pixels of the model input.
        labels: [B, P] long; 1 include, 0 exclude, 2 and 3 the corners of a box, -1 padding.
        previous: [B, 4h, 4w] logits of the answer to be refined, within +-PREVIOUS_LOGITS_LIMIT, or None.
    """

    points: Tensor
    labels: Tensor
    previous: Tensor | None = None


@dataclass(frozen=True, slots=True)
class ObjectOutput:
    """The answer for B rows.

    Attributes:
        logits: [B, 4h, 4w] float32, -1024 where the object is absent.
        predicted_iou: [B] float32, 0 to 1.
        object_score: [B] float32 logit; above 0 the object is present.
        pointer: [B, C] float32.
    """

    logits: Tensor
    predicted_iou: Tensor
    object_score: Tensor
    pointer: Tensor


class SAM2(nn.Module):
    """The whole network."""

    def __init__(self, config: SAM2Config) -> None:
        super().__init__()
        self.config = config
        dim, memory_dim = config.dim, config.memory_dim
        self.image_encoder = ImageEncoder(config)
        self.memory_attention = MemoryAttention(config)
        self.memory_encoder = MemoryEncoder(config)
        self.sam_prompt_encoder = PromptEncoder(config)
        self.sam_mask_decoder = MaskDecoder(config)
        self.mask_downsample = nn.Conv2d(1, 1, 4, stride=4)
        self.obj_ptr_proj = MLP((dim, dim, dim, dim))
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(MEMORY_SLOTS, 1, 1, memory_dim))
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, dim))
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, dim))
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, dim))
        if config.occlusion_embedding:
            self.no_obj_embed_spatial = nn.Parameter(torch.zeros(1, memory_dim))
        if config.pointer_positions:
            self.obj_ptr_tpos_proj = nn.Linear(dim, memory_dim)
        for name, table in self._tables().items():
            self.register_buffer(name, table, persistent=False)

    def _tables(self) -> dict[str, Tensor]:
        """Positions, which follow from the input size."""
        grid, dim = self.config.grid, self.config.dim
        return {
            "rotary": axial_rotary(grid, dim),
            "image_position": sine_map(grid, dim),
            "memory_position": sine_map(grid, self.config.memory_dim),
        }

    def set_input_size(self, size: int) -> SAM2:
        """Take inputs of another size in pixels, a multiple of 32, from now on; no weight changes."""
        self.config = replace(self.config, input_size=size)
        self.sam_prompt_encoder.set_input_size(self.config)
        for name, table in self._tables().items():
            setattr(self, name, table.to(self.get_buffer(name).device))
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the heavy parts."""
        return self.memory_attention.norm.weight.dtype

    def to_precision(self, dtype: torch.dtype) -> SAM2:
        """Run the encoder, the memory modules and the decoder in `dtype`; prompts, scores and pointers stay float32."""
        for name in HEAVY_PARTS:
            self.get_submodule(name).to(dtype)
        return self

    def parameters_in(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """All parameters by name, the heavy parts' as `to_precision` would convert them; gradients reach the originals.

        For `torch.func.functional_call`: training keeps float32 weights and runs in `dtype`.
        """
        heavy = tuple(f"{name}." for name in HEAVY_PARTS)
        return {k: p.to(dtype) if k.startswith(heavy) else p for k, p in self.named_parameters()}

    def encode_image(self, images: Tensor) -> FrameFeatures:
        """[F, 3, S, S] normalised images -> features."""
        stride4, stride8, embedding = self.image_encoder(images.to(self.dtype, memory_format=torch.channels_last))
        neck, decoder = self.image_encoder.neck, self.sam_mask_decoder
        fine = project_twice(stride4, neck.lateral(0), decoder.conv_s0)
        middle = project_twice(stride8, neck.lateral(1), decoder.conv_s1)
        return FrameFeatures(embedding, (fine, middle))

    def without_memory(self, features: FrameFeatures, frame_of_row: Tensor) -> Tensor:
        """[B, h, w, C] embeddings of rows that have no memory, or ignore it."""
        return features.embedding[frame_of_row] + self.no_mem_embed.to(self.dtype)

    def condition(self, features: FrameFeatures, frame_of_row: Tensor, memory: MemoryBatch) -> Tensor:
        """[B, h, w, C] embeddings of rows, conditioned on what each remembers."""
        x = features.embedding.flatten(1, 2) + 0.1 * self.get_buffer("image_position").to(self.dtype)
        y = self.memory_attention(x, frame_of_row, self.memory_tokens(memory), self.get_buffer("rotary"))
        out: Tensor = y.unflatten(1, (self.config.grid, self.config.grid))
        return out

    def memory_tokens(self, memory: MemoryBatch) -> MemoryTokens:
        """Memories first, pointers after, each pointer cut into tokens of M channels."""
        width = self.config.memory_dim
        memories = memory.memories.to(self.dtype)
        time = self.maskmem_tpos_enc[memory.slots, 0]
        placed = memories + (self.get_buffer("memory_position") + time).to(self.dtype)
        pointers = memory.pointers.unflatten(2, (-1, width)).flatten(1, 2)
        positions = self.pointer_positions(memory.distances).repeat_interleave(self.config.dim // width, dim=1)
        return MemoryTokens(
            keys=torch.cat((placed.flatten(1, 2), (pointers + positions).to(self.dtype)), dim=1),
            values=torch.cat((memories.flatten(1, 2), pointers.to(self.dtype)), dim=1),
            spatial=memories.shape[1] * memories.shape[2],
        )

    def pointer_positions(self, distances: Tensor) -> Tensor:
        """[B, P] normalised distances -> [B, P, M]; zero in 2.0."""
        if not self.config.pointer_positions:
            return torch.zeros((*distances.shape, self.config.memory_dim), device=distances.device)
        out: Tensor = self.obj_ptr_tpos_proj(sine_distance(distances, self.config.dim))
        return out

    def decode(
        self,
        embedding: Tensor,
        skips: tuple[Tensor, Tensor],
        prompts: PromptBatch,
        *,
        multimask: bool,
        by_stability: bool = False,
    ) -> ObjectOutput:
        """Masks for B rows.

        Args:
            embedding: [B, h, w, C] from `condition` or `without_memory`.
            skips: of the rows' frames, [B, ...].
            prompts: what is said; one padding point per row if nothing.
            multimask: take the best of three candidates (0 or 1 points), else the single mask.
            by_stability: replace an unstable single mask by the best candidate.
        """
        return self.answer(self.candidates(embedding, skips, prompts), multimask=multimask, by_stability=by_stability)

    def candidates(self, embedding: Tensor, skips: tuple[Tensor, Tensor], prompts: PromptBatch) -> DecodedMasks:
        """Everything the decoder says, before one mask is chosen; arguments as for `decode`."""
        decoded: DecodedMasks = self.sam_mask_decoder(
            embedding + self._dense_prompt(prompts.previous),
            self.sam_prompt_encoder.grid_position(),
            self.sam_prompt_encoder.tokens(prompts.points, prompts.labels),
            skips,
        )
        return decoded

    def answer(self, decoded: DecodedMasks, *, multimask: bool, by_stability: bool = False) -> ObjectOutput:
        """Choose one mask per row, gate it by the object score, and make its pointer."""
        chosen = choose_best(decoded) if multimask else choose_single(decoded, by_stability=by_stability)
        present = decoded.object_score > 0
        pointer = self.obj_ptr_proj(chosen.token.float())
        return ObjectOutput(
            logits=torch.where(present[:, None, None], chosen.logits, ABSENT_LOGIT),
            predicted_iou=chosen.predicted_iou,
            object_score=decoded.object_score,
            pointer=torch.where(present[:, None], pointer, self.no_obj_ptr),
        )

    def _dense_prompt(self, previous: Tensor | None) -> Tensor:
        """[B, h, w, C] or [1, 1, 1, C]."""
        if previous is None:
            return self.sam_prompt_encoder.no_mask_map().permute(0, 2, 3, 1).to(self.dtype)
        return self.sam_prompt_encoder.mask_map(previous[:, None]).permute(0, 2, 3, 1)

    def adopt_mask(self, embedding: Tensor, skips: tuple[Tensor, Tensor], masks: Tensor) -> ObjectOutput:
        """Take given masks as the answer; only the pointer comes from the decoder.

        Args:
            embedding: [B, h, w, C] raw frame embedding, without memory.
            skips: of the rows' frames.
            masks: [B, S, S] float, 0 or 1.
        """
        device, rows = masks.device, len(masks)
        padding = PromptBatch(
            points=torch.zeros(rows, 1, 2, device=device),
            labels=torch.full((rows, 1), PADDING, device=device),
            previous=self.mask_downsample(masks[:, None])[:, 0],
        )
        decoded = self.decode(embedding, skips, padding, multimask=False)
        present = masks.flatten(1).amax(dim=1) > 0
        scaled = MEMORY_MASK_SCALE * masks[:, None] + MEMORY_MASK_BIAS
        return ObjectOutput(
            logits=resize(scaled, self.config.logits_size, antialias=True)[:, 0],
            predicted_iou=torch.ones(rows, device=device),
            object_score=torch.where(present, 10.0, -10.0),
            pointer=torch.where(present[:, None], decoded.pointer, self.no_obj_ptr),
        )

    def encode_memory(
        self, features: FrameFeatures, frame_of_row: Tensor, output: ObjectOutput, binarise: Tensor
    ) -> Tensor:
        """[B, h * w, M] memories of the answers; `binarise` [B] bool: threshold the mask instead of the sigmoid."""
        logits = resize(output.logits[:, None], self.config.input_size)
        masks = torch.where(binarise[:, None, None, None], (logits > 0).float(), logits.sigmoid())
        masks = (MEMORY_MASK_SCALE * masks + MEMORY_MASK_BIAS).to(self.dtype)
        memory: Tensor = self.memory_encoder(features.embedding.permute(0, 3, 1, 2), frame_of_row, masks)
        memory = memory.flatten(2).transpose(1, 2)
        if self.config.occlusion_embedding:
            absent = (output.object_score <= 0).to(memory.dtype)[:, None, None]
            memory = memory + absent * self.no_obj_embed_spatial.to(memory.dtype)
        return memory
