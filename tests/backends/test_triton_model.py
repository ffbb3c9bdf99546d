"""What runs inside Triton, without Triton: batches, owners, the reaper, garbage."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from tests.backends.contract import SETTINGS, click, frame

from masklet.backends.triton_frames import as_jpeg, as_raw
from masklet.backends.triton_messages import Answer, Call, SentFrame
from masklet.backends.triton_model import Arrival, TritonModel, load_model, model_config, parameters_of
from masklet.backends.triton_tensors import Operation
from masklet.config import Config, ModelConfig, TritonConfig
from masklet.errors import (
    AdmissionRefused,
    BackendError,
    ConfigError,
    InvalidFrame,
    SessionStateLost,
    SessionSuperseded,
    UnknownObject,
)
from masklet.types import FrameCodec, StepRequest

MINI = ModelConfig(variant="mini", device="cpu", precision="float32", threads=1, calibration_s=0)
IDLE_S = 600.0


class Hand:
    """A clock that is set by hand."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def model(clock: Hand) -> TritonModel:
    return load_model(Config(model=MINI, triton=TritonConfig(max_sessions=3, idle_timeout_s=IDLE_S)), clock=clock)


def step(request: StepRequest, epoch: int = 1, *, sent: SentFrame | None = None) -> Call:
    image = request.image
    return Call(Operation.STEP, epoch, step=request, frame=sent or (None if image is None else as_raw(image)))


OPEN = Call(Operation.OPEN, settings=SETTINGS)
CLOSE = Call(Operation.CLOSE)
EXPORT = Call(Operation.EXPORT)


def ask(model: TritonModel, *calls: tuple[str, Call]) -> list[Answer]:
    """One batch."""
    return [Answer.from_bytes(answer) for answer in model.execute([Arrival(name, c.to_bytes()) for name, c in calls])]


def error(model: TritonModel, name: str, call: Call) -> object:
    return ask(model, (name, call))[0].error


def test_steps_of_a_batch_share_a_batch_of_the_engine(model):
    ask(model, ("a", OPEN), ("b", OPEN))
    answers = ask(model, ("a", step(frame(1, click()))), ("b", step(frame(1))))
    assert [len(answer.result.objects) for answer in answers if answer.result] == [1, 0]
    assert model.batch_sizes == {2: 1}
    assert (model.stats().batches, model.stats().batched_steps) == (1, 2)


def test_errors_of_a_batch_are_per_request(model):
    ask(model, ("a", OPEN), ("b", OPEN))
    calls = [("a", step(frame(1, remove=(7,)))), ("b", step(frame(1))), ("c", step(frame(1))), ("a", OPEN)]
    answers = ask(model, *calls)
    assert [type(answer.error) for answer in answers] == [UnknownObject, type(None), SessionStateLost, BackendError]


def test_two_requests_of_one_session_in_a_batch_run_in_order(model):
    ask(model, ("a", OPEN))
    answers = ask(model, ("a", step(frame(1, click()))), ("a", step(frame(2))), ("a", CLOSE))
    assert [answer.error for answer in answers] == [None] * 3
    assert answers[2].stats.sessions == 0


def test_an_older_owner_is_refused_and_changes_nothing(model):
    ask(model, ("a", OPEN), ("a", Call(Operation.ATTACH, 2)))
    for call in (step(frame(1)), EXPORT, CLOSE, Call(Operation.ATTACH, 2)):
        assert type(error(model, "a", call)) is SessionSuperseded
    assert error(model, "a", step(frame(1), epoch=2)) is None


def test_an_owner_that_never_attached_is_refused(model):
    ask(model, ("a", OPEN))
    assert "epoch 5 never attached" in str(error(model, "a", step(frame(1), epoch=5)))


def test_an_exported_state_goes_on_under_another_id(model):
    ask(model, ("a", OPEN), ("a", step(frame(1, click()))))
    state = ask(model, ("a", EXPORT))[0].state
    assert state
    assert error(model, "b", Call(Operation.IMPORT, 4, state=state)) is None
    assert error(model, "b", step(frame(2), epoch=4)) is None


def test_an_imported_state_counts_with_all_its_objects(model):
    ask(model, ("a", Call(Operation.OPEN, settings=replace(SETTINGS, frame_rate_hz=30.0))))
    ask(model, ("a", step(frame(1, click(1), click(2), click(3), click(4)))))
    state = ask(model, ("a", EXPORT))[0].state
    assert state
    ask(model, ("a", CLOSE))
    assert ask(model, ("b", Call(Operation.IMPORT, state=state)))[0].stats.load == 4 * 30.0


def test_sessions_beyond_the_limit_are_refused(model):
    ask(model, *((name, OPEN) for name in "abc"))
    refused = error(model, "d", OPEN)
    assert isinstance(refused, AdmissionRefused)
    assert "3 sessions, the limit is 3" in str(refused)
    assert refused.retry_after_s
    ask(model, ("b", CLOSE))
    assert error(model, "d", OPEN) is None


def test_stat_says_what_runs_and_opens_nothing(model):
    (answer,) = ask(model, ("anybody", Call(Operation.STAT)))
    assert answer.facts is not None
    assert (answer.facts.description.model, answer.facts.description.backend) == ("mini", "triton")
    assert (answer.facts.max_sessions, answer.facts.idle_timeout_s, answer.facts.sees_probe) == (3, IDLE_S, False)
    assert answer.stats.sessions == 0


def test_sessions_idle_for_long_are_reaped_others_not(model, clock):
    ask(model, ("a", OPEN), ("b", OPEN), ("b", step(frame(1, click()))))
    clock.now_s = IDLE_S - 1
    ask(model, ("b", step(frame(2))))
    assert model.reap() == 0
    clock.now_s = IDLE_S + 1
    assert (model.reap(), model.reaped, model.stats().sessions) == (1, 1, 1)
    assert type(error(model, "a", step(frame(1)))) is SessionStateLost
    clock.now_s = 3 * IDLE_S
    assert model.reap() == 1
    assert (model.stats().sessions, model.stats().bank_bytes) == (0, 0)


def test_batches_and_reaped_sessions_are_told_without_being_asked(model, clock):
    told: list[tuple[int, int]] = []
    model.tell(lambda found: told.append((found.stats().sessions, found.reaped)))
    ask(model, ("a", OPEN), ("b", OPEN))
    assert model.reap() == 0
    clock.now_s = IDLE_S + 1
    assert model.reap() == 2
    assert told == [(2, 0), (0, 2)]


def test_a_listener_that_fails_costs_neither_answers_nor_the_reaper(model, clock, caplog):
    model.tell(lambda found: 1 / 0)
    assert error(model, "a", OPEN) is None
    clock.now_s = IDLE_S + 1
    assert model.reap() == 1
    assert caplog.text.count("a change could not be shown") == 2


def test_refused_calls_do_not_keep_a_session_from_being_reaped_for_strangers(model, clock):
    clock.now_s = IDLE_S * 2
    ask(model, ("nobody", step(frame(1))), ("nobody", CLOSE))
    assert (model.reap(), model.stats().sessions) == (0, 0)


def test_the_reaper_runs_by_itself_and_ends():
    model = load_model(Config(model=MINI, triton=TritonConfig(idle_timeout_s=0.05)))
    model.start_reaper()
    ask(model, ("a", OPEN))
    deadline = time.monotonic() + 20
    while model.stats().sessions and time.monotonic() < deadline:
        time.sleep(0.01)
    assert model.reaped == 1
    model.close()


def test_closing_forgets_everything(model):
    ask(model, ("a", OPEN), ("a", step(frame(1, click()))))
    model.close()
    assert (model.stats().sessions, model.stats().bank_bytes) == (0, 0)


def test_a_thousand_abandoned_sessions_leave_nothing(clock):
    model = load_model(Config(model=MINI, triton=TritonConfig(max_sessions=8, idle_timeout_s=1)), clock=clock)
    for number in range(1000):
        assert error(model, f"s{number}", OPEN) is None
        if number % 50 == 0:
            ask(model, (f"s{number}", step(frame(1, click()))))
        clock.now_s += 0.5
        model.reap()
    clock.now_s += 2
    model.reap()
    assert (model.stats().sessions, model.stats().bank_bytes, model.reaped) == (0, 0, 1000)
    assert not model._owners._epochs


@pytest.mark.parametrize(
    "bad", [b"", b"garbage" * 99, Call(Operation.STEP).to_bytes(), Call(Operation.OPEN).to_bytes()]
)
def test_garbage_is_answered_with_an_error_and_disturbs_nobody(model, bad):
    ask(model, ("a", OPEN), ("b", OPEN))
    good = Arrival("b", step(frame(1)).to_bytes())
    first, second = (Answer.from_bytes(answer) for answer in model.execute([Arrival("a", bad), good]))
    assert type(first.error) is BackendError
    assert second.error is None


SENT = {
    "short": SentFrame(FrameCodec.RGB8, (48, 64), np.zeros(5, np.uint8)),
    "no jpeg": SentFrame(FrameCodec.JPEG, (48, 64), np.zeros(50, np.uint8)),
    "another size": SentFrame(FrameCodec.JPEG, (48, 64), as_jpeg(np.zeros((8, 8, 3), np.uint8)).payload),
    "nowhere": SentFrame(FrameCodec.RGB8, (48, 64), shared="masklet-frame-" + "0" * 32),
    "elsewhere": SentFrame(FrameCodec.RGB8, (48, 64), shared="../../etc/passwd"),
}


@pytest.mark.parametrize("sent", SENT.values(), ids=SENT)
def test_frames_that_are_none_are_refused(model, sent):
    ask(model, ("a", OPEN))
    assert isinstance(error(model, "a", step(frame(1), sent=sent)), (InvalidFrame, BackendError))
    assert error(model, "a", step(frame(1))) is None


def test_the_environment_wins_over_the_repository():
    parameters = {"model.variant": "one", "model.threads": "3", "FORCE_CPU_ONLY_INPUT_TENSORS": "yes"}
    found = model_config(parameters, {"MASKLET_MODEL_VARIANT": "two", "PATH": "/"}, "CPU").model
    assert (found.variant, found.threads, found.device) == ("two", 3, "cpu")


@pytest.mark.parametrize(
    ("instance", "device", "runs_on"),
    [("CPU", "auto", "cpu"), ("GPU_1", "auto", "cuda:1"), ("CPU", "cuda:0", "cuda:0")],
)
def test_the_instance_says_the_device_unless_it_is_configured(instance, device, runs_on):
    assert model_config({"model.device": device}, {}, instance).model.device == runs_on


@pytest.mark.parametrize("bad", [{"model.wings": "2"}, {"model.threads": "many"}])
def test_a_wrong_parameter_is_an_error(bad):
    with pytest.raises(ConfigError):
        model_config(bad, {}, "CPU")


def test_parameters_are_read_from_triton_s_json():
    assert parameters_of({"parameters": {"a": {"string_value": "1"}}}) == {"a": "1"}
    assert parameters_of({}) == {}
