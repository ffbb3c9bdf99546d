"""The peer of the benchmarks: `transformers`' Sam2VideoModel, streaming, on the same official weights.

Settings that make it a fair and fast peer, found by reading and measuring it:

- attention "sdpa" for every part of the network (the default where available, set here explicitly);
- its `forward` runs under `torch.inference_mode` by itself;
- frames are normalised outside the timing and masks are left at low resolution: neither the resizing of the processor
  nor the upsampling of masks counts against it;
- one session per stream, prompts put straight into it, everything on the inference device (no copies to the CPU);
- the image embedding is computed once per frame and shared by the objects of a session, but objects run one after the
  other, and sessions cannot be batched;
- memories are rounded to bfloat16 whatever the precision; with that rounding lifted it agrees with the reference to
  0.001 in the logits over 24 frames, so it is the same computation;
- its state grows: it keeps every frame (12 MiB at 1024 px in float32), every full-size mask and every memory. `trim`
  drops what is never read again, as a careful user would.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import Sam2VideoConfig, Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession
from transformers.utils import logging as transformers_logging

from masklet.model.config import HieraConfig, variant_config
from masklet.model.transformers_naming import to_transformers

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_READ_AGAIN_FRAMES = 16


def peer_config(variant: str, image_size: int) -> Sam2VideoConfig:
    """The `transformers` configuration of a published variant at `image_size` pixels."""
    ours = variant_config(variant, input_size=image_size)
    return Sam2VideoConfig(
        vision_config=_vision_config(ours.trunk, image_size),
        prompt_encoder_config={"image_size": image_size},
        image_size=image_size,
        memory_attention_rope_feat_sizes=[image_size // 16, image_size // 16],
        enable_occlusion_spatial_embedding=ours.occlusion_embedding,
        enable_temporal_pos_encoding_for_object_pointers=ours.pointer_positions,
    )


def _vision_config(trunk: HieraConfig, image_size: int) -> dict[str, Any]:
    widths = list(trunk.stage_dims)
    return {
        "model_type": "sam2_vision_model",
        "backbone_channel_list": widths[::-1],
        "backbone_feature_sizes": [[image_size // stride] * 2 for stride in (4, 8, 16)],
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": trunk.embed_dim,
            "num_attention_heads": trunk.num_heads,
            "image_size": [image_size, image_size],
            "blocks_per_stage": list(trunk.blocks),
            "embed_dim_per_stage": widths,
            "num_attention_heads_per_stage": [trunk.num_heads * 2**stage for stage in range(4)],
            "window_size_per_stage": list(trunk.windows),
            "global_attention_blocks": list(trunk.global_blocks),
            "window_positional_embedding_background_size": [trunk.background_size, trunk.background_size],
        },
    }


def build_peer(
    variant: str,
    state: dict[str, torch.Tensor],
    *,
    image_size: int,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Sam2VideoModel:
    """`Sam2VideoModel` with official weights `state`, ready to run."""
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    config = peer_config(variant, image_size)
    config._attn_implementation = "sdpa"
    model: Sam2VideoModel = Sam2VideoModel(config)
    model.train(False)
    model.load_state_dict(to_transformers(state), strict=True)
    model.to(device=device, dtype=dtype)  # type: ignore[call-arg]
    return model


def normalise(image: npt.NDArray[np.uint8], *, dtype: torch.dtype, device: str) -> torch.Tensor:
    """[S, S, 3] uint8 RGB to [3, S, S] of `dtype` on `device`, as the network wants it."""
    scaled = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    mean, std = torch.tensor(_MEAN).view(3, 1, 1), torch.tensor(_STD).view(3, 1, 1)
    return ((scaled - mean) / std).to(device=device, dtype=dtype)


class PeerStream:
    """One stream tracked by the peer."""

    def __init__(self, model: Sam2VideoModel, *, image_size: int) -> None:
        self._model = model
        self._dtype = next(model.parameters()).dtype
        self._device = next(model.parameters()).device
        self._session = Sam2VideoInferenceSession(
            video_height=image_size,
            video_width=image_size,
            inference_device=self._device,
            inference_state_device=self._device,
            video_storage_device=self._device,
            dtype=self._dtype,
        )
        self._frames = 0

    def click(self, object_id: int, point: tuple[float, float]) -> None:
        """An including click for the next frame, (x, y) in pixels of the model's input."""
        index = self._session.obj_id_to_idx(object_id)
        coords = torch.tensor(point, dtype=self._dtype).view(1, 1, 1, 2)
        labels = torch.ones(1, 1, 1, dtype=torch.int32)
        self._session.add_point_inputs(index, self._frames, {"point_coords": coords, "point_labels": labels})
        self._session.obj_with_new_inputs.append(object_id)

    def step(self, frame: torch.Tensor) -> torch.Tensor:
        """Track one normalised frame [3, S, S]; low-resolution logits [objects, S/4, S/4], still on the device."""
        answer = self._model(inference_session=self._session, frame=frame, frame_idx=self._frames)
        self._frames += 1
        logits: torch.Tensor = answer.pred_masks[:, 0]
        return logits

    def trim(self) -> None:
        """Drop what the peer never reads again: old pixels, old tracked outputs, full-size masks."""
        oldest = self._frames - _READ_AGAIN_FRAMES
        pixels = self._session.processed_frames or {}
        for old in [frame for frame in pixels if frame < oldest]:
            del pixels[old]
        for outputs in self._session.output_dict_per_obj.values():
            tracked = outputs["non_cond_frame_outputs"]
            for old in [frame for frame in tracked if frame < oldest]:
                del tracked[old]
            for kept in (*tracked.values(), *outputs["cond_frame_outputs"].values()):
                kept.pop("high_res_masks", None)

    def state_bytes(self) -> int:
        """What the session holds, in bytes."""
        held = list((self._session.processed_frames or {}).values())
        for outputs in self._session.output_dict_per_obj.values():
            for frames in outputs.values():
                held += [value for frame in frames.values() for value in frame.values() if torch.is_tensor(value)]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
        return sum(storages.values())
