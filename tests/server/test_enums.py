from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import EnumDescriptor

from masklet.errors import InvalidOpen
from masklet.server import enums
from masklet.server.enums import EnumTable
from masklet.server.operator import SESSION_STATES
from masklet.session.registry import SessionState
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
from masklet.v1 import mask_pb2, prompt_pb2, segmentation_pb2, session_pb2

TABLES: list[tuple[EnumTable[Any, Any], Any, Any]] = [
    (enums.FRAME_CODECS, FrameCodec, segmentation_pb2.FrameCodec),
    (enums.MASK_ENCODINGS, MaskEncoding, mask_pb2.MaskEncoding),
    (enums.DROP_POLICIES, DropPolicy, segmentation_pb2.DropPolicy),
    (enums.PROFILES, Profile, segmentation_pb2.Profile),
    (enums.PROMPT_MODES, PromptMode, prompt_pb2.PromptMode),
    (enums.STATE_ORIGINS, StateOrigin, segmentation_pb2.StateOrigin),
    (enums.OBJECT_STATES, ObjectState, segmentation_pb2.ObjectState),
    (enums.DROP_REASONS, DropReason, segmentation_pb2.DropReason),
    (SESSION_STATES, SessionState, session_pb2.SessionState),
]


@pytest.mark.parametrize(("table", "native", "wire"), TABLES)
def test_every_member_of_both_sides_has_its_namesake(table: EnumTable[Any, Any], native: Any, wire: Any) -> None:
    names = {wire.Name(table.to_wire(member)).endswith(f"_{member.name}") for member in native}
    assert names == {True}
    numbers = [number for number in wire.values() if number]
    assert [table.to_wire(table.from_wire(number, "x", error=InvalidOpen)) for number in numbers] == numbers
    assert len(numbers) == len(native)


def test_every_wire_enum_but_point_labels_has_a_table() -> None:
    files = [mask_pb2, prompt_pb2, segmentation_pb2, session_pb2]
    found: set[EnumDescriptor] = {enum for file in files for enum in file.DESCRIPTOR.enum_types_by_name.values()}
    assert {enum.name for enum in found} - {wire.DESCRIPTOR.name for _, _, wire in TABLES} == {"PointLabel"}


def test_unset_takes_the_given_member_or_is_an_error() -> None:
    assert enums.DROP_POLICIES.from_wire(0, "p", error=InvalidOpen, unset=DropPolicy.BLOCK) is DropPolicy.BLOCK
    with pytest.raises(InvalidOpen, match="codec is not set; must be one of jpeg, png") as caught:
        enums.FRAME_CODECS.from_wire(0, "codec", error=InvalidOpen)
    assert caught.value.field == "codec"


def test_a_number_of_a_newer_client_is_an_error_even_with_a_default() -> None:
    with pytest.raises(InvalidOpen, match="policy is 99, which is unknown"):
        enums.DROP_POLICIES.from_wire(99, "policy", error=InvalidOpen, unset=DropPolicy.LATEST)
