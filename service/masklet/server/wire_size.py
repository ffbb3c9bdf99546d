"""How much of a request is not picture: to parse many small parts takes long, and holds up everyone else meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from masklet.v1 import mask_pb2, prompt_pb2
from masklet.v1 import segmentation_pb2 as pb

Bulk: TypeAlias = Mapping[int, "Bulk | None"]
"""By field number: a message that holds bulk somewhere, or, None, bytes that are."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_FIELDS = 4096


def _field(message: type, name: str) -> int:
    return int(message.DESCRIPTOR.fields_by_name[name].number)  # type: ignore[attr-defined]


_IN_PROMPT: Bulk = {_field(prompt_pb2.Prompt, "mask"): {_field(mask_pb2.Mask, "data"): None}}
BULK: Mapping[str, Bulk] = {
    "/masklet.v1.SegmentationService/Track": {
        _field(pb.TrackRequest, "frame"): {_field(pb.Frame, "payload"): None},
        _field(pb.TrackRequest, "prompt"): _IN_PROMPT,
    },
    "/masklet.v1.SegmentationService/SegmentImage": {
        _field(pb.SegmentImageRequest, "payload"): None,
        _field(pb.SegmentImageRequest, "prompts"): _IN_PROMPT,
    },
}
"""What pictures and masks are, by method."""


def small_bytes(request: bytes, bulk: Bulk) -> int:
    """Bytes of a request that are no bulk; of one that is cut off, or has thousands of parts, all of them count.

    Args:
        request: a protobuf message on the wire (https://protobuf.dev/programming-guides/encoding).
        bulk: where its bulk is.
    """
    walk = _Walk(request)
    walk.through(bulk, len(request))
    return len(request) - walk.bulk_bytes


class _Walk:
    """Goes over the fields on the way to the bulk, and steps over all others."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._at = 0
        self._fields = 0
        self.bulk_bytes = 0

    def through(self, bulk: Bulk, end: int) -> None:
        """Up to `end`, or to where it makes no sense any more."""
        while self._at < end and self._fields < _MAX_FIELDS:
            self._fields += 1
            tag = self._varint(end)
            number, kind = tag >> 3, tag & 7
            if kind != _BYTES:
                self._step_over(kind, end)
                continue
            length = self._varint(end)
            if length > end - self._at:
                self._at = end
                return
            inner = bulk.get(number)
            if number not in bulk:
                self._at += length
            elif inner is None:
                self.bulk_bytes += length
                self._at += length
            else:
                self.through(inner, self._at + length)

    def _step_over(self, kind: int, end: int) -> None:
        if kind == _VARINT:
            self._varint(end)
        elif kind in (_FIXED64, _FIXED32):
            self._at += 8 if kind == _FIXED64 else 4
        else:
            self._at = end

    def _varint(self, end: int) -> int:
        value = shift = 0
        while self._at < end and shift < 70:
            byte = self._request[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        self._at = end
        return 0
