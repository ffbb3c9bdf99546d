"""What crosses the wire to the Triton model: tensors, operations, and the envelope inside them. numpy and stdlib only.

Each request has one tensor and so has each answer, both plain bytes, UINT8 [-1]. Inside is an envelope:

    magic (4 bytes) | length of the header (uint32) | length of everything (uint64) | header (JSON) | arrays | padding

    header = {"version": 1, "fields": {...}, "arrays": [[name, type, shape], ...]}

Numbers are little endian, arrays follow one another. Triton batches only requests of equal shape, hence the padding:
requests come in few sizes. (TYPE_STRING would need none, but Python stubs older than numpy 2 cannot read it.)

Neither end believes the other: whatever does not fit is a BackendError that names it.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from masklet.errors import BackendError

MODEL = "sam2_track"
PROTOCOL_VERSION = 1
MAX_HEADER_BYTES = 8 * 1024 * 1024
_MAGIC = b"mskl"
_START = struct.Struct("<4sIQ")
_SMALLEST_CALL = 1024
_LARGEST = 1e300  # of numbers; JSON knows larger ones that are no float
_LARGE_CALL = 1024 * 1024
_MAX_DIMENSIONS = 4
_TYPES: dict[str, npt.DTypeLike] = {"float32": "<f4", "int32": "<i4", "uint8": "u1"}
_BITS = "bool"  # packed, eight to a byte, the first in the highest bit

AnyArray = npt.NDArray[Any]
_Choice = TypeVar("_Choice", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the model, as config.pbtxt declares it (the batch dimension is left out)."""

    name: str
    kind: str = "TYPE_UINT8"
    dims: tuple[int, ...] = (-1,)


CALL = TensorSpec("CALL")
ANSWER = TensorSpec("ANSWER")
INPUTS = (CALL,)
OUTPUTS = (ANSWER,)


class Operation(StrEnum):
    """What is asked of the model. All but STAT speak of the session whose id is the request's correlation id."""

    OPEN = "open"
    ATTACH = "attach"
    STEP = "step"
    EXPORT = "export"
    IMPORT = "import"
    CLOSE = "close"
    STAT = "stat"


def pack(fields: Mapping[str, object], arrays: Mapping[str, AnyArray] | None = None, *, padded: bool = False) -> bytes:
    """One envelope. Arrays are float32, int32, uint8 or bool.

    Args:
        fields: anything that JSON holds.
        arrays: by name.
        padded: bring it to one of few lengths, as calls are: a power of two from 1 KiB to 1 MiB, or whole MiB.
    """
    described, blobs = [], []
    for name, array in (arrays or {}).items():
        kind = array.dtype.name
        described.append([name, kind, list(array.shape)])
        stored = np.packbits(array) if kind == _BITS else np.ascontiguousarray(array, _TYPES[kind])
        blobs.append(stored.reshape(-1).view(np.uint8).data)  # joined without a copy in between: states are large
    header = {"version": PROTOCOL_VERSION, "fields": fields, "arrays": described}
    text = json.dumps(header, separators=(",", ":")).encode()
    total = _START.size + len(text) + sum(map(len, blobs))
    padding = bytes(_padded_bytes(total) - total) if padded else b""
    return b"".join([_START.pack(_MAGIC, len(text), total), text, *blobs, padding])


def _padded_bytes(size: int) -> int:
    if size <= _LARGE_CALL:
        return max(_SMALLEST_CALL, 1 << (size - 1).bit_length())
    return -(-size // _LARGE_CALL) * _LARGE_CALL


def unpack(envelope: bytes | memoryview) -> tuple[Fields, dict[str, AnyArray]]:
    """What was packed; arrays may be views of `envelope`.

    Raises:
        BackendError: not an envelope, of another version, or damaged.
    """
    header, start, total = _header(envelope)
    if header.get("version") != PROTOCOL_VERSION:
        raise BackendError(f"Triton protocol version is {header.get('version')!r:.40}, this is {PROTOCOL_VERSION}")
    fields, listed = header.get("fields"), header.get("arrays")
    if not isinstance(fields, dict) or not isinstance(listed, list):
        raise BackendError("Triton message header has no fields or no arrays")
    arrays: dict[str, AnyArray] = {}
    for entry in listed:
        name, kind, shape = _described(entry)
        size = _stored_bytes(kind, shape)
        if name in arrays or start + size > total:
            raise BackendError(f"array {name!r:.40} of {size} bytes is listed twice or runs past the message's end")
        arrays[name] = _array(memoryview(envelope)[start : start + size], kind, shape)
        start += size
    if start != total:
        raise BackendError(f"Triton message is {total} bytes, its header describes {start}")
    return Fields(fields, "message"), arrays


def _header(envelope: bytes | memoryview) -> tuple[dict[str, Any], int, int]:
    """The parsed header, where it ends, and where the message ends."""
    if len(envelope) < _START.size:
        raise BackendError(f"Triton message of {len(envelope)} bytes is too short to be one")
    magic, length, total = _START.unpack_from(envelope)
    end = _START.size + length
    if magic != _MAGIC or length > MAX_HEADER_BYTES or not end <= total <= len(envelope):
        begin = bytes(envelope[: _START.size])
        raise BackendError(f"Triton message begins with {begin!r}, which is no header of {len(envelope)} bytes")
    try:
        header = json.loads(bytes(envelope[_START.size : end]))
    except (ValueError, RecursionError) as error:
        raise BackendError(f"Triton message header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise BackendError(f"Triton message header is a {type(header).__name__}, must be an object")
    return header, end, total


def _described(entry: object) -> tuple[str, str, tuple[int, ...]]:
    match entry:
        case [str(name), str(kind), list(shape)] if kind in (*_TYPES, _BITS) and len(shape) <= _MAX_DIMENSIONS:
            if all(type(side) is int and 0 <= side < 2**31 for side in shape):
                return name, kind, tuple(shape)
    raise BackendError(f"Triton message describes an array as {entry!r:.80}, must be [name, type, shape]")


def _stored_bytes(kind: str, shape: tuple[int, ...]) -> int:
    count = math.prod(shape)
    return -(-count // 8) if kind == _BITS else count * np.dtype(_TYPES[kind]).itemsize


def _array(blob: memoryview, kind: str, shape: tuple[int, ...]) -> AnyArray:
    if kind != _BITS:
        return np.frombuffer(blob, _TYPES[kind]).reshape(shape)
    bits = np.unpackbits(np.frombuffer(blob, np.uint8), count=math.prod(shape))
    return bits.view(np.bool_).reshape(shape)


class Fields:
    """A JSON object that is read field by field; each reader raises BackendError if the value is not as asked."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        self._values = values
        self._place = place

    def integer(self, name: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self._values.get(name)
        if type(value) is not int or not low <= value <= high:
            raise self._wrong(name, f"a whole number from {low} to {high}")
        return value

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number from `low` to `high`, or null."""
        return None if self._values.get(name) is None else self.integer(name, low, high)

    def number(self, name: str) -> float:
        """A finite number."""
        value: Any = self._values.get(name)
        if type(value) not in (int, float) or not abs(value) < _LARGEST:
            raise self._wrong(name, "a finite number")
        return float(value)

    def optional_number(self, name: str) -> float | None:
        """A finite number, or null."""
        return None if self._values.get(name) is None else self.number(name)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._values.get(name)
        if type(value) is not bool:
            raise self._wrong(name, "true or false")
        return value

    def text(self, name: str) -> str:
        """A string."""
        value = self._values.get(name)
        if not isinstance(value, str):
            raise self._wrong(name, "text")
        return value

    def optional_text(self, name: str) -> str | None:
        """A string, or null."""
        return None if self._values.get(name) is None else self.text(name)

    def choice(self, name: str, kind: type[_Choice]) -> _Choice:
        """A member of an enumeration, by value."""
        value = self._values.get(name)
        if not isinstance(value, str) or value not in list(kind):
            raise self._wrong(name, "one of " + ", ".join(kind))
        return kind(value)

    def inner(self, name: str) -> Fields | None:
        """An object, or None if there is none."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(name, "an object")
        return Fields(value, f"{self._place}.{name}")

    def needed(self, name: str) -> Fields:
        """An object."""
        found = self.inner(name)
        if found is None:
            raise self._wrong(name, "an object")
        return found

    def many(self, name: str) -> list[Fields]:
        """A list of objects."""
        found = self._values.get(name)
        if not isinstance(found, list) or not all(isinstance(value, dict) for value in found):
            raise self._wrong(name, "a list of objects")
        return [Fields(value, f"{self._place}.{name}[{index}]") for index, value in enumerate(found)]

    def integers(self, name: str, low: int, high: int) -> tuple[int, ...]:
        """A list of whole numbers from `low` to `high`."""
        found = self._values.get(name)
        if not isinstance(found, list) or not all(type(value) is int and low <= value <= high for value in found):
            raise self._wrong(name, f"a list of whole numbers from {low} to {high}")
        return tuple(found)

    def _wrong(self, name: str, wanted: str) -> BackendError:
        return BackendError(f"{self._place}.{name} is {self._values.get(name)!r:.60}, must be {wanted}")
