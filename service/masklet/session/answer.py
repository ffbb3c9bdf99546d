"""The backend's masks as they go to the client: encoded, with box, area and state. Belongs in an executor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from masklet.codecs.masks import encode_mask, mask_box
from masklet.session.messages import ObjectResult
from masklet.types import MaskEncoding, ObjectMask, ObjectState


def encode_objects(
    objects: Iterable[ObjectMask], states: Mapping[int, ObjectState], encoding: MaskEncoding
) -> tuple[ObjectResult, ...]:
    """One result per object, in the order given; `states` by object id. With encoding NONE masks are b""."""
    return tuple(_encode(found, states[found.object_id], encoding) for found in objects)


def _encode(found: ObjectMask, state: ObjectState, encoding: MaskEncoding) -> ObjectResult:
    height, width = found.mask.shape
    return ObjectResult(
        object_id=found.object_id,
        state=state,
        mask_encoding=encoding,
        mask_size=(height, width),
        mask=encode_mask(found.mask, encoding),
        box=mask_box(found.mask),
        area_px=int(found.mask.sum()),
        object_score=found.object_score,
        predicted_iou=found.predicted_iou,
        logits=found.logits,
    )
