"""Official checkpoint keys <-> the names `transformers` gives the same tensors in `Sam2VideoModel`.

Every tensor has a counterpart of the same shape, with two exceptions: the four point embeddings are one [4, 256] tensor
over there, and the random matrix of the positional encoding is stored twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from masklet.errors import WeightsError

_TRUNK, _BACKBONE = "image_encoder.trunk", "vision_encoder.backbone"
_DECODER, _MASK_DECODER = "sam_mask_decoder", "mask_decoder"
_PROMPT, _PROMPT_ENCODER = "sam_prompt_encoder", "prompt_encoder"
_MEMORY, _DOWNSAMPLER = "memory_encoder", "memory_encoder.mask_downsampler"
_ATTENTION = "memory_attention.layers.#"
_TRANSFORMER = "transformer.layers.#"


def _three_layer_mlp(official: str, transformers: str) -> list[tuple[str, str]]:
    names = ("proj_in", "layers.0", "proj_out")
    return [(f"{official}.layers.{i}.*", f"{transformers}.{name}.*") for i, name in enumerate(names)]


# (official, transformers); `#` stands for a number, `*` for one word without dots. The first rule that matches holds.
RULES: tuple[tuple[str, str], ...] = (
    ("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    ("no_mem_embed", "no_memory_embedding"),
    ("no_mem_pos_enc", "no_memory_positional_encoding"),
    ("no_obj_ptr", "no_object_pointer"),
    ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
    ("obj_ptr_tpos_proj.*", "temporal_positional_encoding_projection_layer.*"),
    *_three_layer_mlp("obj_ptr_proj", "object_pointer_proj"),
    ("mask_downsample.*", "mask_downsample.*"),
    # image encoder
    (f"{_TRUNK}.patch_embed.proj.*", f"{_BACKBONE}.patch_embed.projection.*"),
    (f"{_TRUNK}.blocks.#.norm#.*", f"{_BACKBONE}.blocks.#.layer_norm#.*"),
    (f"{_TRUNK}.blocks.#.mlp.layers.0.*", f"{_BACKBONE}.blocks.#.mlp.proj_in.*"),
    (f"{_TRUNK}.blocks.#.mlp.layers.1.*", f"{_BACKBONE}.blocks.#.mlp.proj_out.*"),
    (f"{_TRUNK}.blocks.#.attn.*.*", f"{_BACKBONE}.blocks.#.attn.*.*"),
    (f"{_TRUNK}.blocks.#.proj.*", f"{_BACKBONE}.blocks.#.proj.*"),
    (f"{_TRUNK}.*", f"{_BACKBONE}.*"),
    ("image_encoder.neck.convs.#.conv.*", "vision_encoder.neck.convs.#.*"),
    # memory attention
    (f"{_ATTENTION}.norm#.*", f"{_ATTENTION}.layer_norm#.*"),
    (f"{_ATTENTION}.*.out_proj.*", f"{_ATTENTION}.*.o_proj.*"),
    (f"{_ATTENTION}.*.*.*", f"{_ATTENTION}.*.*.*"),
    (f"{_ATTENTION}.linear#.*", f"{_ATTENTION}.linear#.*"),
    ("memory_attention.norm.*", "memory_attention.layer_norm.*"),
    # memory encoder: convolution, norm and GELU four times, then one more convolution
    *((f"{_DOWNSAMPLER}.encoder.{3 * i}.*", f"{_DOWNSAMPLER}.layers.{i}.conv.*") for i in range(4)),
    *((f"{_DOWNSAMPLER}.encoder.{3 * i + 1}.*", f"{_DOWNSAMPLER}.layers.{i}.layer_norm.*") for i in range(4)),
    (f"{_DOWNSAMPLER}.encoder.12.*", f"{_DOWNSAMPLER}.final_conv.*"),
    (f"{_MEMORY}.pix_feat_proj.*", f"{_MEMORY}.feature_projection.*"),
    (f"{_MEMORY}.out_proj.*", f"{_MEMORY}.projection.*"),
    (f"{_MEMORY}.fuser.layers.#.gamma", f"{_MEMORY}.memory_fuser.layers.#.scale"),
    (f"{_MEMORY}.fuser.layers.#.norm.*", f"{_MEMORY}.memory_fuser.layers.#.layer_norm.*"),
    (f"{_MEMORY}.fuser.layers.#.dwconv.*", f"{_MEMORY}.memory_fuser.layers.#.depthwise_conv.*"),
    (f"{_MEMORY}.fuser.layers.#.pwconv#.*", f"{_MEMORY}.memory_fuser.layers.#.pointwise_conv#.*"),
    # prompt encoder
    (f"{_PROMPT}.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
    (f"{_PROMPT}.mask_downscaling.0.*", f"{_PROMPT_ENCODER}.mask_embed.conv1.*"),
    (f"{_PROMPT}.mask_downscaling.1.*", f"{_PROMPT_ENCODER}.mask_embed.layer_norm1.*"),
    (f"{_PROMPT}.mask_downscaling.3.*", f"{_PROMPT_ENCODER}.mask_embed.conv2.*"),
    (f"{_PROMPT}.mask_downscaling.4.*", f"{_PROMPT_ENCODER}.mask_embed.layer_norm2.*"),
    (f"{_PROMPT}.mask_downscaling.6.*", f"{_PROMPT_ENCODER}.mask_embed.conv3.*"),
    (f"{_PROMPT}.not_a_point_embed.*", f"{_PROMPT_ENCODER}.not_a_point_embed.*"),
    (f"{_PROMPT}.no_mask_embed.*", f"{_PROMPT_ENCODER}.no_mask_embed.*"),
    # mask decoder
    (f"{_DECODER}.{_TRANSFORMER}.mlp.layers.0.*", f"{_MASK_DECODER}.{_TRANSFORMER}.mlp.proj_in.*"),
    (f"{_DECODER}.{_TRANSFORMER}.mlp.layers.1.*", f"{_MASK_DECODER}.{_TRANSFORMER}.mlp.proj_out.*"),
    (f"{_DECODER}.{_TRANSFORMER}.norm#.*", f"{_MASK_DECODER}.{_TRANSFORMER}.layer_norm#.*"),
    (f"{_DECODER}.{_TRANSFORMER}.*.out_proj.*", f"{_MASK_DECODER}.{_TRANSFORMER}.*.o_proj.*"),
    (f"{_DECODER}.{_TRANSFORMER}.*.*.*", f"{_MASK_DECODER}.{_TRANSFORMER}.*.*.*"),
    (f"{_DECODER}.transformer.norm_final_attn.*", f"{_MASK_DECODER}.transformer.layer_norm_final_attn.*"),
    (f"{_DECODER}.transformer.*.out_proj.*", f"{_MASK_DECODER}.transformer.*.o_proj.*"),
    (f"{_DECODER}.transformer.*.*.*", f"{_MASK_DECODER}.transformer.*.*.*"),
    (f"{_DECODER}.output_upscaling.0.*", f"{_MASK_DECODER}.upscale_conv1.*"),
    (f"{_DECODER}.output_upscaling.1.*", f"{_MASK_DECODER}.upscale_layer_norm.*"),
    (f"{_DECODER}.output_upscaling.3.*", f"{_MASK_DECODER}.upscale_conv2.*"),
    *_three_layer_mlp(f"{_DECODER}.output_hypernetworks_mlps.#", f"{_MASK_DECODER}.output_hypernetworks_mlps.#"),
    *_three_layer_mlp(f"{_DECODER}.iou_prediction_head", f"{_MASK_DECODER}.iou_prediction_head"),
    *_three_layer_mlp(f"{_DECODER}.pred_obj_score_head", f"{_MASK_DECODER}.pred_obj_score_head"),
    (f"{_DECODER}.*.*", f"{_MASK_DECODER}.*.*"),
)

_POINTS = tuple(f"{_PROMPT}.point_embeddings.{i}.weight" for i in range(4))
_STACKED_POINTS = f"{_PROMPT_ENCODER}.point_embed.weight"
_MATRIX = "shared_image_embedding.positional_embedding"
_MATRIX_AGAIN = f"{_PROMPT_ENCODER}.shared_embedding.positional_embedding"


def is_transformers_naming(keys: Iterable[str]) -> bool:
    """Whether `keys` are those of `Sam2VideoModel` rather than of an official checkpoint."""
    return any(key.startswith("vision_encoder.") for key in keys)


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a `Sam2VideoModel` state dict to official keys.

    Raises:
        WeightsError: a key has no counterpart, or two keys have the same one, or the point embeddings are not four.
    """
    left = dict(state)
    matrix_again = left.pop(_MATRIX_AGAIN, None)
    if matrix_again is not None:
        left.setdefault(_MATRIX, matrix_again)
    points = left.pop(_STACKED_POINTS, None)
    renamed = _rename(left, from_column=1)
    if points is not None:
        if points.ndim != 2 or len(points) != len(_POINTS):
            raise WeightsError(f"{_STACKED_POINTS} is {list(points.shape)}, must be [{len(_POINTS)}, C]")
        renamed |= {key: row.unsqueeze(0) for key, row in zip(_POINTS, points, strict=True)}
    return renamed


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an official state dict to the keys of `Sam2VideoModel`.

    Raises:
        WeightsError: a key has no counterpart, or two keys have the same one.
    """
    left = dict(state)
    points = [left.pop(key) for key in _POINTS if key in left]
    renamed = _rename(left, from_column=0)
    if points:
        renamed[_STACKED_POINTS] = torch.cat(points)
    if _MATRIX in renamed:
        renamed[_MATRIX_AGAIN] = renamed[_MATRIX].clone()
    return renamed


def _rename(state: Mapping[str, Tensor], *, from_column: int) -> dict[str, Tensor]:
    patterns = [(_pattern(rule[from_column]), _replacement(rule[1 - from_column])) for rule in RULES]
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, tensor in state.items():
        new = _first_match(key, patterns)
        if new is None or new in renamed:
            unknown.append(key)
        else:
            renamed[new] = tensor
    if unknown:
        raise WeightsError(f"{len(unknown)} keys are not SAM 2's, among them {', '.join(sorted(unknown)[:10])}")
    return renamed


def _first_match(key: str, patterns: Iterable[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, replacement in patterns:
        match = pattern.fullmatch(key)
        if match:
            return match.expand(replacement)
    return None


def _pattern(rule: str) -> re.Pattern[str]:
    return re.compile(re.escape(rule).replace(r"\#", r"(\d+)").replace(r"\*", r"([^.]+)"))


def _replacement(rule: str) -> str:
    parts = re.split(r"[#*]", rule)
    return "".join(part + (rf"\g<{i}>" if i < len(parts) else "") for i, part in enumerate(parts, start=1))
