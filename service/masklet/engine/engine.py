"""The engine: one frame each from many sessions in one batch.

    step = collate (requests -> rows) -> forward (rows -> answers and memories) -> commit (banks, results)

`collate` and `forward` change nothing: a request that fails leaves its session as it was. Not thread-safe: one thread
calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from masklet.engine.bank import Entry, MemoryBank
from masklet.engine.collate import Job, collate
from masklet.engine.forward import Forward, Outcome, Pools
from masklet.engine.packing import pack_linear_layers
from masklet.engine.pixels import full_masks
from masklet.engine.pool import Pool
from masklet.engine.portable import dump_session, load_session
from masklet.engine.settings import EngineSettings
from masklet.engine.track import Answer, ObjectTrack, SessionState
from masklet.errors import BackendError, MaskletError, SessionStateLost
from masklet.model import SAM2
from masklet.types import BankSummary, FloatArray, ObjectMask, StepRequest, StepResult, TrackSettings


class Engine:
    """Tracks objects in many sessions with one network."""

    def __init__(self, network: SAM2, settings: EngineSettings | None = None) -> None:
        """Takes the network over: moves it to the device and precision of `settings`.

        Raises:
            ConfigError: the device is not there, or the precision unknown.
        """
        self.settings = settings or EngineSettings()
        self.device = self.settings.torch_device()
        self.network = network.eval().requires_grad_(False).to(self.device).to_precision(self.settings.dtype())
        pack_linear_layers(self.network)
        config, kept = network.config, self.settings.memory_dtype()
        self.pools = Pools(
            memories=Pool((config.grid**2, config.memory_dim), kept, self.device),
            pointers=Pool((config.dim,), torch.float32, self.device),
        )
        self.sessions: dict[str, SessionState] = {}

    @property
    def bank_bytes(self) -> int:
        """Bytes of all memory banks."""
        return sum(pool.used * pool.page_bytes for pool in (self.pools.memories, self.pools.pointers))

    def open(self, session_id: str, settings: TrackSettings) -> None:
        """Start an empty session. Raises BackendError if the id is taken."""
        self._add(session_id, SessionState(settings))

    def close(self, session_id: str) -> None:
        """Forget a session, if there is one."""
        state = self.sessions.pop(session_id, None)
        if state is not None:
            for track in state.objects.values():
                self._forget(track.bank)

    @torch.inference_mode()
    def step(self, requests: Sequence[tuple[str, StepRequest]]) -> list[StepResult | MaskletError]:
        """Run one request each of several sessions as one batch.

        Args:
            requests: (session id, request); a session may occur once.

        Returns:
            Per request its result or its error (SessionStateLost, UnknownFrame, UnknownObject, InvalidPrompt).
        """
        planned = [self._collate(session_id, request) for session_id, request in requests]
        jobs = [plan for plan in planned if isinstance(plan, Job)]
        tracking = [job for job in jobs if job.rows]  # frames without objects are only remembered
        for position, job in enumerate(tracking):
            for row in job.rows:
                row.job = position
        outcome = Forward(self.network, self.pools, tracking, max_rows=self.settings.max_rows).run()
        results = iter(self._commit(jobs, outcome))
        return [plan if isinstance(plan, MaskletError) else next(results) for plan in planned]

    def summary(self, session_id: str) -> BankSummary:
        """What a session holds. Raises SessionStateLost if it is not open."""
        state = self._session(session_id)
        history = tuple(frame.frame_seq for frame in state.past.values())
        last = history[-1] if history else 0
        return BankSummary(last, tuple(sorted(state.objects)), history, settings=state.settings)

    def export_state(self, session_id: str) -> bytes:
        """A session's whole state. Raises SessionStateLost if it is not open."""
        return dump_session(self._session(session_id), self.pools, self.network.config)

    @torch.inference_mode()
    def import_state(self, session_id: str, state: bytes) -> None:
        """Open a session with an exported state. Raises BackendError if the id is taken or the state does not fit."""
        if session_id in self.sessions:
            raise BackendError(f"session {session_id} is already open")
        self._add(session_id, load_session(state, self.pools, self.network.config, self.device))

    def _add(self, session_id: str, state: SessionState) -> None:
        if session_id in self.sessions:
            raise BackendError(f"session {session_id} is already open")
        self.sessions[session_id] = state

    def _session(self, session_id: str) -> SessionState:
        if session_id not in self.sessions:
            raise SessionStateLost(f"session {session_id} is not open here")
        return self.sessions[session_id]

    def _collate(self, session_id: str, request: StepRequest) -> Job | MaskletError:
        try:
            session = self._session(session_id)
            return collate(session, request, size=self.network.config.input_size, device=self.device)
        except MaskletError as error:
            return error

    def _commit(self, jobs: list[Job], outcome: Outcome) -> list[StepResult]:
        """Make results, then write memories and drop what is no longer reachable.

        In this order because full-size masks can exhaust memory: whatever fails must fail before any session changes.
        """
        ends = list(accumulate(len(job.rows) for job in jobs))
        spans = [slice(end - len(job.rows), end) for job, end in zip(jobs, ends, strict=True)]
        results = [self._result(job, outcome, rows) for job, rows in zip(jobs, spans, strict=True)]
        memories = self.pools.memories.write(outcome.memories)
        pointers = self.pools.pointers.write(outcome.output.pointer)
        entries = [Entry(memory, pointer) for memory, pointer in zip(memories, pointers, strict=True)]
        for job, rows in zip(jobs, spans, strict=True):
            self._remember(job, entries[rows], outcome, rows.start)
        return results

    def _remember(self, job: Job, entries: list[Entry], outcome: Outcome, start: int) -> None:
        session = job.session
        for object_id, track in session.objects.items():
            if job.objects.get(object_id) is not track:
                self._forget(track.bank)
        session.objects = job.objects
        if job.request.reset:
            session.past.clear()
        if not job.is_correction:
            session.past[job.index] = job.frame
            session.next_index = job.index + 1
        for offset, (row, entry) in enumerate(zip(job.rows, entries, strict=True)):
            stays = row.initial or (bool(row.prompts) and session.settings.corrections_as_conditioning)
            self._free(row.track.bank.write(row.index, entry, conditioning=stays))
            logits = outcome.output.logits[start + offset].clone()
            row.track.answers[row.index] = Answer(logits, outcome.said[start + offset], row.initial)
            self._prune(row.track, session.next_index - 1)
        session.forget_history()

    def _prune(self, track: ObjectTrack, latest: int) -> None:
        memories, pointers = track.bank.prune(latest)
        for page in memories:
            self.pools.memories.free(page)
        for page in pointers:
            self.pools.pointers.free(page)

    def _forget(self, bank: MemoryBank) -> None:
        for entry in bank.entries():
            self._free(entry)

    def _free(self, entry: Entry | None) -> None:
        if entry is None:
            return
        self.pools.pointers.free(entry.pointer)
        if entry.memory is not None:
            self.pools.memories.free(entry.memory)

    def _result(self, job: Job, outcome: Outcome, rows: slice) -> StepResult:
        output, request = outcome.output, job.request
        logits = output.logits[rows]
        masks = full_masks(logits, job.frame.size, job.session.settings.profile).cpu().numpy()
        scores, ious = output.object_score[rows].tolist(), output.predicted_iou[rows].tolist()
        kept = (
            _optional(logits, wanted=request.with_logits),
            _optional(output.pointer[rows], wanted=request.with_pointers),
        )
        objects = [
            ObjectMask(row.object_id, masks[i], scores[i], ious[i], logits=kept[0][i], pointer=kept[1][i])
            for i, row in enumerate(job.rows)
        ]
        return StepResult(request.frame_seq, tuple(objects), revised=job.is_correction)


def _optional(rows: Tensor, *, wanted: bool) -> Sequence[FloatArray | None]:
    return list(rows.cpu().numpy()) if wanted else [None] * len(rows)
