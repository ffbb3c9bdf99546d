from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from masklet.backends.triton_messages import Answer, Call, ModelFacts, SentFrame, check_result
from masklet.backends.triton_tensors import Operation, pack, unpack
from masklet.errors import AdmissionRefused, BackendError, InvalidPrompt, MaskletError, error_classes
from masklet.types import (
    BackendStats,
    FrameCodec,
    ModelDescription,
    ObjectMask,
    Profile,
    Prompt,
    PromptMode,
    StepRequest,
    StepResult,
    TrackSettings,
)

STATS = BackendStats(1, 2, 3, 4)
FACTS = ModelFacts(ModelDescription("tiny", "ab", True, 64, "triton", "cpu", "float32"), 5, 600.0, True)
SIZE = (6, 9)
FLOATS = st.floats(-1e6, 1e6, width=32)
IDS = st.integers(1, 2**31 - 1)


def same(one, other) -> bool:
    """Equal field by field, arrays by their values."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other) and one.dtype == other.dtype
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    names = getattr(type(one), "__dataclass_fields__", None)
    return one == other if names is None else all(same(getattr(one, n), getattr(other, n)) for n in names)


@st.composite
def prompts(draw):
    count = draw(st.integers(0, 4))
    points = draw(arrays_of.arrays(np.float32, (count, 2), elements=FLOATS))
    labels = draw(arrays_of.arrays(np.int32, count, elements=st.integers(0, 1)))
    box = draw(st.none() | arrays_of.arrays(np.float32, 4, elements=FLOATS))
    mask = draw(st.none() | arrays_of.arrays(np.bool_, SIZE))
    return Prompt(draw(IDS), points, labels, box, mask, draw(st.booleans()), draw(st.sampled_from(PromptMode)))


STEPS = st.builds(
    StepRequest,
    st.integers(0, 2**40),
    st.none(),
    st.lists(prompts(), max_size=3).map(tuple),
    st.lists(IDS, max_size=3).map(tuple),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
SETTINGS = st.builds(
    TrackSettings,
    st.sampled_from(Profile),
    st.booleans(),
    st.none() | st.integers(0, 99),
    st.integers(0, 99),
    st.integers(0, 99),
    st.none() | st.integers(1, 99),
)


@st.composite
def results(draw):
    ids = sorted(draw(st.sets(IDS, max_size=3)))
    logits, pointers = draw(st.booleans()), draw(st.booleans())
    objects = [
        ObjectMask(
            number,
            draw(arrays_of.arrays(np.bool_, SIZE)),
            draw(st.floats(-100, 100)),
            draw(st.floats(0, 1)),
            draw(arrays_of.arrays(np.float32, (4, 4), elements=FLOATS)) if logits else None,
            draw(arrays_of.arrays(np.float32, 8, elements=FLOATS)) if pointers else None,
        )
        for number in ids
    ]
    return StepResult(draw(st.integers(0, 2**40)), tuple(objects), draw(st.booleans()))


@settings(max_examples=50)
@given(STEPS, st.integers(1, 2**40))
def test_a_step_is_read_as_it_was_written(step, epoch):
    frame = SentFrame(FrameCodec.RGB8, (2, 2), np.arange(12, dtype=np.uint8))
    call = Call(Operation.STEP, epoch, step=step, frame=frame)
    assert same(Call.from_bytes(call.to_bytes()), call)


@given(SETTINGS)
def test_an_opening_is_read_as_it_was_written(settings):
    call = Call(Operation.OPEN, 3, settings=settings)
    assert same(Call.from_bytes(call.to_bytes()), call)


@pytest.mark.parametrize(
    "call",
    [
        Call(Operation.ATTACH, 2),
        Call(Operation.IMPORT, state=b"state"),
        Call(Operation.IMPORT, state=b""),
        Call(Operation.EXPORT, 9),
        Call(Operation.CLOSE),
        Call(Operation.STAT, probe="name"),
        Call(Operation.STEP, step=StepRequest(3, None), frame=SentFrame(FrameCodec.RGB8, (2, 2), shared="name")),
    ],
)
def test_other_calls_are_read_as_they_were_written(call):
    assert same(Call.from_bytes(call.to_bytes()), call)


@settings(max_examples=50)
@given(results())
def test_a_result_is_read_as_it_was_written(result):
    answer = Answer(STATS, result=result)
    assert same(Answer.from_bytes(answer.to_bytes()), answer)


@pytest.mark.parametrize("answer", [Answer(STATS), Answer(STATS, state=b"state"), Answer(STATS, facts=FACTS)])
def test_other_answers_are_read_as_they_were_written(answer):
    assert same(Answer.from_bytes(answer.to_bytes()), answer)


@pytest.mark.parametrize("kind", error_classes().values(), ids=error_classes())
def test_every_error_arrives_as_the_same_leaf(kind: type[MaskletError]):
    sent = kind("value 3, limit 2", retry_after_s=1.5, field="prompts")
    found = Answer.from_bytes(Answer(STATS, error=sent).to_bytes()).error
    assert found is not None
    assert (type(found), str(found), found.retry_after_s, found.field) == (kind, "value 3, limit 2", 1.5, "prompts")


def changed(message: bytes, path: str, value: object) -> bytes:
    """The message with one field of its header replaced."""
    fields, arrays = unpack(message)
    values = json.loads(json.dumps(fields._values))
    inner, names = values, path.split(".")
    for name in names[:-1]:
        inner = inner[int(name)] if isinstance(inner, list) else inner[name]
    inner[names[-1]] = value
    return pack(values, arrays)


MASK = np.zeros(SIZE, bool)
RESULT = StepResult(5, (ObjectMask(1, MASK, 0.5, 0.5), ObjectMask(4, MASK, 0.5, 0.5)))
LIES: list[tuple[str, object]] = [
    ("stats", None), ("stats.sessions", -1), ("stats.bank_bytes", 1.5), ("error", "no"), ("error", {}),
    ("result", []), ("result.frame_seq", "5"), ("result.revised", 0), ("result.objects", None),
    ("result.objects", [{}]), ("result.objects.0.object_id", 4), ("result.objects.1.object_id", 0.5),
    ("result.objects.0.object_score", float("nan")), ("result.objects.0.predicted_iou", None), ("facts", 3),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), LIES)
def test_an_answer_with_one_wrong_field_is_refused(path, value):
    good = Answer(STATS, result=RESULT, error=None).to_bytes()
    with pytest.raises(BackendError):
        Answer.from_bytes(changed(good, path, value))


def test_an_error_of_an_unknown_reason_is_the_backend_s():
    good = Answer(STATS, error=AdmissionRefused("full")).to_bytes()
    found = Answer.from_bytes(changed(good, "error.reason", "NEW")).error
    assert (type(found), str(found)) == (BackendError, "full")


@pytest.mark.parametrize("kind", ["masks", "logits", "pointers"])
def test_arrays_of_the_wrong_shape_are_named(kind):
    fields, arrays = unpack(Answer(STATS, result=RESULT).to_bytes())
    wrong = np.zeros((3, 2, 2), bool if kind == "masks" else np.float32)
    with pytest.raises(BackendError, match=f"array '{kind}' is .* must be"):
        Answer.from_bytes(pack(fields._values, {**arrays, kind: wrong}))


def test_a_call_that_lacks_an_array_is_refused():
    fields, _ = unpack(Call(Operation.IMPORT, state=b"x").to_bytes())
    with pytest.raises(BackendError, match="lacks the array 'state'"):
        Call.from_bytes(pack(fields._values))


IMAGE = np.zeros((*SIZE, 3), np.uint8)
REQUEST = StepRequest(5, IMAGE)
UNFIT = [
    (replace(REQUEST, frame_seq=6), RESULT, "frame 6 was asked for"),
    (replace(REQUEST, image=None), RESULT, "frame 5 was asked for"),
    (replace(REQUEST, image=np.zeros((9, 6, 3), np.uint8)), RESULT, "masks are"),
    (replace(REQUEST, with_logits=True), RESULT, "lacks the logits"),
]


@pytest.mark.parametrize(("request_", "result", "said"), UNFIT)
def test_a_result_that_does_not_answer_the_request_is_refused(request_, result, said):
    with pytest.raises(BackendError, match=said):
        check_result(result, request_, input_size=64)


def test_logits_must_be_of_the_model_s_size():
    found = ObjectMask(1, MASK, 0.5, 0.5, logits=np.zeros((8, 8), np.float32))
    with pytest.raises(BackendError, match=r"logits are \(8, 8\), must be \(16, 16\)"):
        check_result(StepResult(5, (found,)), replace(REQUEST, with_logits=True), input_size=64)


@pytest.mark.parametrize("found", [RESULT, StepResult(5, ())], ids=["an object", "none"])
def test_a_fitting_result_is_accepted_for_its_own_frame_only(found):
    check_result(found, REQUEST, input_size=64)
    with pytest.raises(BackendError, match="frame 4 was asked for"):
        check_result(found, replace(REQUEST, frame_seq=4), input_size=64)


def test_the_model_s_error_keeps_its_field():
    found = Answer.from_bytes(Answer(STATS, error=InvalidPrompt("off", field="point")).to_bytes()).error
    assert found is not None
    assert found.field == "point"
