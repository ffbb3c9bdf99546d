"""What runs inside Triton: the sessions of one engine, their owners, and a reaper. `model_repo` wraps it.

Triton hands over what is waiting, at most one request per sequence; all steps of it become one batch of the engine.
A request that fails answers with its error and disturbs nobody.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from masklet.backends.admission import Admission, needs_measuring
from masklet.backends.embedded import calibrate, failed, step_together, warm_up
from masklet.backends.ownership import Owners
from masklet.backends.triton_frames import is_visible, received
from masklet.backends.triton_messages import Answer, Call, ModelFacts
from masklet.backends.triton_tensors import Operation
from masklet.config import Config
from masklet.config_file import config_keys, load_config
from masklet.engine import Engine
from masklet.engine.load import load_engine
from masklet.errors import AdmissionRefused, BackendError, MaskletError
from masklet.types import BackendStats, BankSummary, ModelDescription, StepRequest, StepResult

_RETRY_AFTER_S = 2.0
_REAP_SHARE = 10  # looks so often per idle timeout
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a Triton batch: correlation id, and the contents of the CALL tensor."""

    session_id: str
    call: bytes | memoryview


def model_config(parameters: Mapping[str, str], environ: Mapping[str, str], instance_kind: str) -> Config:
    """The configuration in force: what config.pbtxt says, overruled by the environment.

    Args:
        parameters: of config.pbtxt; those named like a configuration key ("model.variant") are ours.
        environ: the environment of Triton, MASKLET_*.
        instance_kind: "CPU" or "GPU_0" and the like: the device, unless `model.device` says otherwise.

    Raises:
        ConfigError: an unknown key or a bad value.
    """
    keys = config_keys()
    ours = {key: value for key, value in parameters.items() if "." in key}
    as_variables = {keys[key].variable if key in keys else f"MASKLET_{key}": value for key, value in ours.items()}
    config = load_config(None, {**as_variables, **environ}, {})
    if config.model.device != "auto":
        return config
    kind, _, number = instance_kind.rpartition("_")
    device = f"cuda:{number}" if kind == "GPU" else "cpu"
    return replace(config, model=replace(config.model, device=device))


def load_model(config: Config, *, clock: Callable[[], float] = time.monotonic) -> TritonModel:
    """Load the weights, run two frames, and measure what it makes. Raises ConfigError or WeightsError."""
    engine, description = load_engine(config.model)
    warm_up(engine)
    capacity = calibrate(engine, config.model) if needs_measuring(config.routing) else 0.0
    model = TritonModel(engine, replace(description, backend="triton"), config, clock=clock)
    model.capacity = capacity
    return model


class TritonModel:
    """The sessions of one Triton model instance.

    Args:
        engine: runs them; nobody else calls it.
        description: what it runs.
        config: limits.
        clock: seconds, for the reaper.

    Attributes:
        capacity: objects times frames per second it was measured to make; 0: not measured.
        batch_sizes: how many engine batches there were of each size.
        reaped: sessions forgotten because nobody asked for them for `triton.idle_timeout_s`.
    """

    def __init__(
        self, engine: Engine, description: ModelDescription, config: Config, *, clock: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._facts = ModelFacts(description, config.triton.max_sessions, config.triton.idle_timeout_s)
        self._clock = clock
        self._owners = Owners()
        self._admission = Admission(  # only counts: its clients refuse
            replace(config.routing, admit_by_load=False),
            forgotten_after_s=config.session.idle_timeout_s + config.session.resume_ttl_s,  # no front has it any more
            clock=clock,
        )
        self.capacity = 0.0
        self._asked_s: dict[str, float] = {}
        self._engine_lock = threading.Lock()
        self._stopping = threading.Event()
        self._reaper: threading.Thread | None = None
        self._changed: Callable[[TritonModel], None] | None = None
        self.batch_sizes: Counter[int] = Counter()
        self.reaped = 0

    def tell(self, changed: Callable[[TritonModel], None]) -> None:
        """Have `changed` called after each batch and when sessions were reaped, with nothing else going on."""
        self._changed = changed

    def start_reaper(self) -> None:
        """Forget idle sessions from time to time, until `close`."""
        self._reaper = threading.Thread(target=self._reap_forever, name="masklet-reaper", daemon=True)
        self._reaper.start()

    def close(self) -> None:
        """Stop the reaper and forget all sessions."""
        self._stopping.set()
        if self._reaper is not None:
            self._reaper.join()
        with self._engine_lock:
            for session_id in list(self._asked_s):
                self._forget(session_id)

    def execute(self, arrivals: Sequence[Arrival]) -> list[bytes]:
        """The answers to one Triton batch, in its order."""
        with self._engine_lock:
            answers: list[bytes | None] = [None] * len(arrivals)
            steps: dict[int, tuple[str, StepRequest]] = {}
            for index, arrival in enumerate(arrivals):
                if any(session_id == arrival.session_id for session_id, _ in steps.values()):
                    self._run_steps(steps, answers)  # a second request of one session: Triton restarted its sequence
                self._take(index, arrival, steps=steps, answers=answers)
            self._run_steps(steps, answers)
            self._tell()
        assert all(answer is not None for answer in answers)
        return [answer for answer in answers if answer is not None]

    @property
    def max_sessions(self) -> int:
        """Memory banks it takes."""
        return self._facts.max_sessions

    def stats(self) -> BackendStats:
        """What is held, and what was done."""
        steps = sum(size * count for size, count in self.batch_sizes.items())
        return BackendStats(
            len(self._asked_s),
            self._engine.bank_bytes,
            self.batch_sizes.total(),
            steps,
            load=self._admission.load,
            capacity=self.capacity,
        )

    def reap(self) -> int:
        """Forget sessions nobody has asked for in `triton.idle_timeout_s`; how many."""
        with self._engine_lock:
            oldest_s = self._clock() - self._facts.idle_timeout_s
            idle = [session_id for session_id, asked_s in self._asked_s.items() if asked_s < oldest_s]
            for session_id in idle:
                self._forget(session_id)
            self.reaped += len(idle)
            if idle:
                self._tell()
        return len(idle)

    def _reap_forever(self) -> None:
        while not self._stopping.wait(self._facts.idle_timeout_s / _REAP_SHARE):
            if count := self.reap():
                _LOG.warning("forgot %d sessions idle for %g s", count, self._facts.idle_timeout_s)

    def _tell(self) -> None:
        if self._changed is None:
            return
        try:
            self._changed(self)
        except Exception:  # neither answers nor the reaper depend on who listens
            _LOG.exception("a change could not be shown")

    def _take(
        self,
        index: int,
        arrival: Arrival,
        *,
        steps: dict[int, tuple[str, StepRequest]],
        answers: list[bytes | None],
    ) -> None:
        """A step is put off, for the batch; anything else is done."""
        try:
            call = Call.from_bytes(arrival.call)
            if call.operation is Operation.STEP:
                self._owners.check(arrival.session_id, call.epoch)
                steps[index] = (arrival.session_id, _step_request(call))
                return
            answer = self._perform(arrival.session_id, call)
        except MaskletError as error:
            answer = self._answer(error=error)
        except Exception as error:
            answer = self._answer(error=failed(error))
        if arrival.session_id in self._asked_s:
            self._asked_s[arrival.session_id] = self._clock()
        answers[index] = answer.to_bytes()

    def _perform(self, session_id: str, call: Call) -> Answer:
        match call.operation:
            case Operation.OPEN | Operation.IMPORT:
                self._begin(session_id, call)
            case Operation.ATTACH:
                self._owners.attach(session_id, call.epoch)
                return self._answer(bank=self._engine.summary(session_id))
            case Operation.EXPORT:
                self._owners.check(session_id, call.epoch)
                return self._answer(state=self._engine.export_state(session_id))
            case Operation.CLOSE:
                self._owners.check(session_id, call.epoch)
                self._forget(session_id)
            case Operation.STAT:
                seen = is_visible(call.probe)
                return self._answer(facts=replace(self._facts, sees_probe=seen, capacity=self.capacity))
        return self._answer()

    def _begin(self, session_id: str, call: Call) -> None:
        if session_id in self._asked_s:
            raise BackendError(f"session {session_id} is already open")
        if len(self._asked_s) >= self._facts.max_sessions:
            message = f"Triton's model holds {len(self._asked_s)} sessions, the limit is {self._facts.max_sessions}"
            raise AdmissionRefused(message, retry_after_s=_RETRY_AFTER_S)
        if call.settings is not None:
            self._engine.open(session_id, call.settings)
        else:
            self._engine.import_state(session_id, call.state)
        self._owners.add(session_id, call.epoch)
        session = self._engine.sessions[session_id]
        self._admission.take(session_id, session.settings, len(session.objects))
        self._asked_s[session_id] = self._clock()

    def _run_steps(self, steps: dict[int, tuple[str, StepRequest]], answers: list[bytes | None]) -> None:
        """Run what was put off as one batch."""
        if not steps:
            return
        self.batch_sizes[len(steps)] += 1
        outcomes = step_together(self._engine, list(steps.values()))
        for index, outcome in zip(steps, outcomes, strict=True):
            error, result = (outcome, None) if isinstance(outcome, MaskletError) else (None, outcome)
            if result is not None:
                self._admission.note(steps[index][0], result)
            self._asked_s[steps[index][0]] = self._clock()
            answers[index] = self._answer(error=error, result=result).to_bytes()
        steps.clear()

    def _forget(self, session_id: str) -> None:
        self._engine.close(session_id)
        self._owners.remove(session_id)
        self._admission.remove(session_id)
        self._asked_s.pop(session_id, None)

    def _answer(
        self,
        *,
        error: MaskletError | None = None,
        result: StepResult | None = None,
        state: bytes | None = None,
        facts: ModelFacts | None = None,
        bank: BankSummary | None = None,
    ) -> Answer:
        return Answer(self.stats(), error, result, state, facts, bank)


def _step_request(call: Call) -> StepRequest:
    """The request with its frame. Raises BackendError or InvalidFrame."""
    assert call.step is not None
    return replace(call.step, image=received(call.frame)) if call.frame else call.step


def parameters_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Of a model configuration as Triton hands it over, parsed from JSON."""
    return {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
