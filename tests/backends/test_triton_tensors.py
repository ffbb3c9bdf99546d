from __future__ import annotations

import json
import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from masklet.backends.triton_tensors import PROTOCOL_VERSION, Fields, pack, unpack
from masklet.errors import BackendError
from masklet.types import Profile

DTYPES = st.sampled_from([np.float32, np.int32, np.uint8, np.bool_])
ARRAYS = arrays_of.arrays(DTYPES, arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
FIELDS = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()))


def envelope(header: object, rest: bytes = b"", *, total: int | None = None, magic: bytes = b"mskl") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = 16 + len(text) + len(rest) if total is None else total
    return struct.pack("<4sIQ", magic, len(text), length) + text + rest


def header(*arrays: object, **changes: object) -> dict[str, object]:
    return {"version": PROTOCOL_VERSION, "fields": {}, "arrays": list(arrays)} | changes


@given(st.dictionaries(st.text(), ARRAYS, max_size=3), FIELDS)
def test_what_is_packed_is_unpacked(arrays, fields):
    found_fields, found = unpack(pack(fields, arrays, padded=True))
    assert found_fields._values == fields
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].tobytes()) == (array.dtype, array.tobytes())
        assert found[name].shape == array.shape


@pytest.mark.parametrize(
    ("size", "becomes"), [(100, 1024), (1024, 1024), (1025, 2048), (2**20, 2**20), (2**20 + 1, 2**21)]
)
def test_calls_come_in_few_lengths(size, becomes):
    fields = {"text": "x" * (size - len(pack({"text": ""})))}
    plain = pack(fields)
    assert len(plain) == size
    assert pack(fields, padded=True) == plain.ljust(becomes, b"\0")


@given(st.binary(max_size=200))
def test_noise_is_refused(noise):
    with pytest.raises(BackendError):
        unpack(noise)


@given(st.data())
def test_a_damaged_envelope_is_refused_or_read_but_never_breaks(data):
    good = pack({"n": 1, "text": "word"}, {"a": np.arange(6, dtype=np.int32)})
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]
    try:
        fields, arrays = unpack(bad[: data.draw(st.integers(at, len(bad)))])
    except BackendError:
        return
    assert pack(fields._values, arrays)  # what was read is something that could have been sent


BAD = [
    (b"", "0 bytes is too short"),
    (envelope(header(), magic=b"XXXX"), "no header"),
    (envelope(header(), total=5), "no header"),
    (envelope(header(), total=10**6), "no header"),
    (struct.pack("<4sIQ", b"mskl", 2**31, 2**32), "no header"),
    (envelope(b"{"), "not JSON"),
    (envelope(b"[" * 100_000), "not JSON"),
    (envelope([]), "is a list"),
    (envelope(header(version=2)), "version is 2, this is 1"),
    (envelope(header(fields=3)), "no fields"),
    (envelope(header(["a", "float64", [1]])), "describes an array"),
    (envelope(header(["a", "uint8", [-1]])), "describes an array"),
    (envelope(header(["a", "uint8", [True]])), "describes an array"),
    (envelope(header(["a", "uint8", [1] * 5])), "describes an array"),
    (envelope(header(["a", "uint8", [2**30] * 4])), "runs past"),
    (envelope(header(["a", "uint8", [2]]), b"x"), "runs past"),
    (envelope(header(["a", "uint8", [1]], ["a", "uint8", [1]]), b"xy"), "twice"),
    (envelope(header(["a", "uint8", [1]]), b"xyz"), "header describes"),
]


@pytest.mark.parametrize(("bad", "said"), BAD, ids=[said for _, said in BAD])
def test_what_is_wrong_is_said(bad, said):
    with pytest.raises(BackendError, match=said):
        unpack(bad)


WRONG: list[tuple[Callable[[Fields], object], list[object]]] = [
    (lambda f: f.integer("v", 1, 9), [0, 10, 2.0, True, "3", None]),
    (lambda f: f.number("v"), [float("nan"), float("inf"), 10**400, "1", True, None]),
    (lambda f: f.flag("v"), [1, 0, "true", None]),
    (lambda f: f.text("v"), [1, None, []]),
    (lambda f: f.choice("v", Profile), ["nobody", 1, None]),
    (lambda f: f.needed("v"), [None, [], 1]),
    (lambda f: f.many("v"), [None, {}, [1]]),
    (lambda f: f.integers("v", 0, 9), [None, [10], [True], [0.0], 3]),
    (lambda f: f.optional_integer("v", 1, 9), [0, "1"]),
    (lambda f: f.optional_number("v"), ["1"]),
    (lambda f: f.optional_text("v"), [1]),
]


@pytest.mark.parametrize(("read", "value"), [(read, value) for read, values in WRONG for value in values])
def test_a_field_that_is_not_as_asked_is_named(read, value):
    with pytest.raises(BackendError, match=r"answer\.v is"):
        read(Fields({"v": value}, "answer"))
