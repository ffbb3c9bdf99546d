"""The engine: one frame each from many sessions in one batch.

    step = collate (requests -> rows) -> forward (rows -> answers and memories) -> commit (banks, results)

`collate` and `forward` change nothing: a request that fails leaves its session as it was. Not thread-safe: one thread
calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from masklet.engine.bank import Entry, MemoryBank
from masklet.engine.collate import EncodedFrame, Job, Row, collate
from masklet.engine.denormals import denormals_are_zero
from masklet.engine.forward import Forward, Outcome, Pools
from masklet.engine.listing import listed_masks
from masklet.engine.packing import pack_linear_layers
from masklet.engine.pixels import fit_frame, normalise
from masklet.engine.pool import Pool, write_all
from masklet.engine.portable import dump_session, load_session
from masklet.engine.settings import EngineSettings, keep_full_float32
from masklet.engine.track import Answer, ObjectTrack, SessionState
from masklet.errors import BackendError, MaskletError, SessionStateLost
from masklet.model import SAM2
from masklet.types import BankSummary, FloatArray, ImageArray, ObjectMask, StepRequest, StepResult, TrackSettings


class Engine:
    """Tracks objects in many sessions with one network."""

    def __init__(self, network: SAM2, settings: EngineSettings | None = None, *, weights: str = "") -> None:
        """Takes the network over: moves it to the device and precision of `settings`.

        Args:
            network: what runs.
            settings: how.
            weights: names the network's weights, so that a session tracked with others is not imported; empty: any is.

        Raises:
            ConfigError: the device is not there, or the precision unknown.
        """
        self.settings = settings or EngineSettings()
        self.weights = weights
        self.device, precision = self.settings.torch_device(), self.settings.dtype()
        keep_full_float32(self.device, precision)
        self.network = network.eval().requires_grad_(False).to(self.device).to_precision(precision)
        pack_linear_layers(self.network)
        config, kept = network.config, self.settings.memory_dtype()
        self.pools = Pools(
            memories=Pool((config.grid**2, config.memory_dim), kept, self.device),
            pointers=Pool((config.dim,), torch.float32, self.device),
        )
        self.sessions: dict[str, SessionState] = {}

    @property
    def bank_bytes(self) -> int:
        """Bytes that sessions hold: pages of memory banks, and frames and answers of their history windows.

        Other threads may ask, so it counts and does not look into what this one changes.
        """
        pages = sum(pool.used * pool.page_bytes for pool in (self.pools.memories, self.pools.pointers))
        sessions = list(self.sessions.values())
        frames = sum(len(session.past) for session in sessions)
        answers = sum(len(track.answers) for session in sessions for track in list(session.objects.values()))
        config = self.network.config
        return pages + frames * 3 * config.input_size**2 + answers * 4 * config.logits_size**2

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
    @denormals_are_zero()
    def encode(self, image: ImageArray) -> EncodedFrame:
        """Begin on a frame before its turn: what no session's state is needed for. Any thread may call it.

        Args:
            image: [H, W, 3] uint8 RGB.
        """
        pixels = fit_frame(image, self.network.config.input_size, self.device)
        return EncodedFrame(pixels, self.network.encode_image(normalise(pixels[None])))

    @torch.inference_mode()
    @denormals_are_zero()
    def step(
        self, requests: Sequence[tuple[str, StepRequest]], encoded: Sequence[EncodedFrame | None] = ()
    ) -> list[StepResult | MaskletError]:
        """Run one request each of several sessions as one batch.

        Args:
            requests: (session id, request); a session may occur once.
            encoded: what `encode` made of the requests' frames, where it was asked; empty: of none.

        Returns:
            Per request its result or its error (SessionStateLost, UnknownFrame, UnknownObject, InvalidPrompt).

        Raises:
            ValueError: a session occurs twice.
        """
        if len({session_id for session_id, _ in requests}) < len(requests):
            raise ValueError("a session occurs twice in one batch")
        begun = encoded or [None] * len(requests)
        planned = [self._collate(*request, ahead) for request, ahead in zip(requests, begun, strict=True)]
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
        return dump_session(self._session(session_id), self.pools, self.network.config, weights=self.weights)

    @torch.inference_mode()
    def import_state(self, session_id: str, state: bytes) -> None:
        """Open a session with an exported state. Raises BackendError if the id is taken or the state does not fit."""
        if session_id in self.sessions:
            raise BackendError(f"session {session_id} is already open")
        config = self.network.config
        self._add(session_id, load_session(state, self.pools, config, weights=self.weights, device=self.device))

    def _add(self, session_id: str, state: SessionState) -> None:
        if session_id in self.sessions:
            raise BackendError(f"session {session_id} is already open")
        self.sessions[session_id] = state

    def _session(self, session_id: str) -> SessionState:
        if session_id not in self.sessions:
            raise SessionStateLost(f"session {session_id} is not open here")
        return self.sessions[session_id]

    def _collate(self, session_id: str, request: StepRequest, encoded: EncodedFrame | None) -> Job | MaskletError:
        try:
            session = self._session(session_id)
            size = self.network.config.input_size
            return collate(session, request, size=size, device=self.device, encoded=encoded)
        except MaskletError as error:
            return error

    def _commit(self, jobs: list[Job], outcome: Outcome) -> list[StepResult]:
        """Make results, then write memories and drop what is no longer reachable.

        In this order because full-size masks can exhaust memory: whatever fails must fail before any session changes.
        """
        ends = list(accumulate(len(job.rows) for job in jobs))
        spans = [slice(end - len(job.rows), end) for job, end in zip(jobs, ends, strict=True)]
        answers = _answers([row for job in jobs for row in job.rows], outcome)
        said = outcome.output.pointer
        results = [self._result(job, answers[rows], said[rows]) for job, rows in zip(jobs, spans, strict=True)]
        pages = write_all((self.pools.memories, outcome.memories), (self.pools.pointers, said))
        entries = [Entry(memory, pointer) for memory, pointer in zip(*pages, strict=True)]
        for job, rows in zip(jobs, spans, strict=True):
            self._remember(job, entries[rows], answers[rows])
        return results

    def _remember(self, job: Job, entries: list[Entry], answers: list[Answer]) -> None:
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
        for row, entry, answer in zip(job.rows, entries, answers, strict=True):
            stays = row.initial or (bool(row.prompts) and session.settings.corrections_as_conditioning)
            self._free(row.track.bank.write(row.index, entry, conditioning=stays))
            row.track.answers[row.index] = answer
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

    def _result(self, job: Job, answers: list[Answer], pointers: Tensor) -> StepResult:
        rows = {row.object_id: i for i, row in enumerate(job.rows)}
        objects = []
        for object_id, mask in listed_masks(job, answers).items():
            track, i = job.objects[object_id], rows.get(object_id)
            answer = track.answers[job.index] if i is None else answers[i]
            found = ObjectMask(object_id, mask, answer.object_score, answer.predicted_iou)
            if job.request.with_logits:
                found = replace(found, logits=_copied(answer.logits))
            if job.request.with_pointers:
                found = replace(found, pointer=_copied(self._pointer(track, job.index) if i is None else pointers[i]))
            objects.append(found)
        return StepResult(job.request.frame_seq, tuple(objects), revised=job.is_correction)

    def _pointer(self, track: ObjectTrack, index: int) -> Tensor:
        return self.pools.pointers.read([[track.bank.entry(index).pointer]])[0, 0]


def _answers(rows: Sequence[Row], outcome: Outcome) -> list[Answer]:
    output = outcome.output
    numbers = zip(rows, outcome.said, output.object_score.tolist(), output.predicted_iou.tolist(), strict=True)
    return [
        Answer(output.logits[i].clone(), said, row.initial, score, iou)  # not a view, which would keep the whole batch
        for i, (row, said, score, iou) in enumerate(numbers)
    ]


def _copied(kept: Tensor) -> FloatArray:
    """An array that is the caller's to change."""
    array: FloatArray = kept.cpu().numpy().copy()
    return array
