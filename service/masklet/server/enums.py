"""Enums of `masklet.types` <-> enums of `masklet.v1`. The wire name is a prefix and the member's own name."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from masklet.errors import MaskletError
from masklet.types import (
    DropPolicy,
    DropReason,
    FrameCodec,
    MaskEncoding,
    ObjectState,
    Profile,
    PromptMode,
    StateOrigin,
)
from masklet.v1 import mask_pb2, prompt_pb2, segmentation_pb2

Wire = TypeVar("Wire", bound=int)
WireCo = TypeVar("WireCo", bound=int, covariant=True)
Native = TypeVar("Native", bound=StrEnum)


class _WireEnum(Protocol[WireCo]):
    def Value(self, name: str, /) -> WireCo: ...


class EnumTable(Generic[Wire, Native]):
    """One enum, both ways."""

    def __init__(self, wire: _WireEnum[Wire], members: Iterable[Native], prefix: str) -> None:
        """Pair every member with the wire value named `prefix`_NAME."""
        self._to_wire = {member: wire.Value(f"{prefix}_{member.name}") for member in members}
        self._from_wire: dict[int, Native] = {number: member for member, number in self._to_wire.items()}

    def to_wire(self, member: Native) -> Wire:
        """The wire value of `member`."""
        return self._to_wire[member]

    def from_wire(self, number: int, field: str, *, error: type[MaskletError], unset: Native | None = None) -> Native:
        """The member for a wire value; 0 stands for `unset`.

        Raises:
            error: the value is not one of ours, or 0 where `unset` is None.
        """
        member = self._from_wire.get(number) if number else unset
        if member is None:
            said = f"{number}, which is unknown" if number else "not set"
            raise error(f"{field} is {said}; must be one of {', '.join(self._to_wire)}", field=field)
        return member


FRAME_CODECS = EnumTable(segmentation_pb2.FrameCodec, FrameCodec, "FRAME_CODEC")
MASK_ENCODINGS = EnumTable(mask_pb2.MaskEncoding, MaskEncoding, "MASK_ENCODING")
DROP_POLICIES = EnumTable(segmentation_pb2.DropPolicy, DropPolicy, "DROP_POLICY")
PROFILES = EnumTable(segmentation_pb2.Profile, Profile, "PROFILE")
PROMPT_MODES = EnumTable(prompt_pb2.PromptMode, PromptMode, "PROMPT_MODE")
STATE_ORIGINS = EnumTable(segmentation_pb2.StateOrigin, StateOrigin, "STATE_ORIGIN")
OBJECT_STATES = EnumTable(segmentation_pb2.ObjectState, ObjectState, "OBJECT_STATE")
DROP_REASONS = EnumTable(segmentation_pb2.DropReason, DropReason, "DROP_REASON")
