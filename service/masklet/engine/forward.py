"""The network over a batch of rows: encode, track, apply prompts, encode memories. Reads the pools, changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from masklet.engine.bank import BankRead
from masklet.engine.collate import Job
from masklet.engine.pixels import fill_holes, normalise
from masklet.engine.pool import Pool
from masklet.engine.prompts import mask_prompt, said_by
from masklet.engine.track import Said
from masklet.model import SAM2, FrameFeatures, MemoryBatch, ObjectOutput, PromptBatch
from masklet.model.config import RECENT_POINTERS
from masklet.model.prompt_encoder import PADDING
from masklet.model.sam2 import PREVIOUS_LOGITS_LIMIT
from masklet.types import Profile, Prompt

K = TypeVar("K", bound=Hashable)
_USUAL_MEMORIES = 10  # four prompted frames and the six before


@dataclass(frozen=True, slots=True)
class Pools:
    """Where memories [h * w, M] and pointers [C] live."""

    memories: Pool
    pointers: Pool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is to be committed, for all rows of a batch: answers, what they answer, and memories [B, h * w, M]."""

    output: ObjectOutput
    said: list[Said | None]
    memories: Tensor


class Forward:
    """One pass over the rows of a batch."""

    def __init__(self, network: SAM2, pools: Pools, jobs: Sequence[Job], *, max_rows: int) -> None:
        self.network = network
        self.pools = pools
        self.jobs = jobs
        self.rows = [row for job in jobs for row in job.rows]
        self.max_rows = max_rows
        self.device = network.no_mem_embed.device
        self.said: list[Said | None] = [row.said for row in self.rows]

    def run(self) -> Outcome:
        """The steps of a frame, in order."""
        self.output = self._earlier_answers()
        if self.rows:
            self.features = self._encode_frames()
        self.conditioned = self._condition()
        self._track()
        for turn in range(max((len(row.prompts) for row in self.rows), default=0)):
            self._apply_prompts(turn)
        memories = self._encode_memories()
        self._fill([i for i, row in enumerate(self.rows) if row.tracked and not row.prompts])
        return Outcome(self.output, self.said, memories)

    def _encode_frames(self) -> FrameFeatures:
        """The features of all jobs' frames, in order; those encoded before their turn are not encoded again."""
        todo = [job.frame.pixels for job in self.jobs if job.features is None]
        encoded = _joined(self._encoded(todo)) if todo else None
        if len(todo) == len(self.jobs) and encoded is not None:
            return encoded
        fresh = iter(_singly(encoded) if encoded is not None else ())
        return _joined([next(fresh) if job.features is None else job.features for job in self.jobs])

    def _encoded(self, frames: list[Tensor]) -> list[FrameFeatures]:
        return [self.network.encode_image(normalise(part)) for part in torch.stack(frames).split(self.max_rows)]

    def _earlier_answers(self) -> ObjectOutput:
        """Room for all answers, holding those that corrections start from."""
        rows, side, dim = len(self.rows), self.network.config.logits_size, self.network.config.dim
        output = ObjectOutput(
            logits=torch.zeros(rows, side, side, device=self.device),
            predicted_iou=torch.zeros(rows, device=self.device),
            object_score=torch.zeros(rows, device=self.device),
            pointer=torch.zeros(rows, dim, device=self.device),
        )
        for i, row in enumerate(self.rows):
            if row.earlier is not None:
                output.logits[i] = row.earlier.logits
        return output

    def _condition(self) -> dict[int, Tensor]:
        """The embedding [h, w, C] of every row that reads memory; rows that read equally much share a batch."""
        reads = {i: row.track.bank.read(row.index) for i, row in enumerate(self.rows) if not row.initial}
        conditioned: dict[int, Tensor] = {}
        for group in self._groups(((i, read.shape) for i, read in reads.items()), rows_at_once=self._rows_reading):
            batch = self._memory_batch([reads[i] for i in group], [self._pointer_span(i) for i in group])
            embeddings = self.network.condition(*self._frames_of(group), batch)
            conditioned.update(zip(group, embeddings, strict=True))
        return conditioned

    def _pointer_span(self, i: int) -> int:
        """What pointer distances are normalised by: 15, less in a video known to be shorter (as the reference does)."""
        length = self.jobs[self.rows[i].job].session.settings.video_frames
        return max(1, min(RECENT_POINTERS, length - 1)) if length else RECENT_POINTERS

    def _memory_batch(self, reads: list[BankRead], spans: list[int]) -> MemoryBatch:
        return MemoryBatch(
            memories=self.pools.memories.read([read.memories for read in reads]),
            slots=torch.tensor([read.slots for read in reads], device=self.device),
            pointers=self.pools.pointers.read([read.pointers for read in reads]),
            distances=torch.tensor([read.distances for read in reads], device=self.device)
            / torch.tensor(spans, device=self.device)[:, None],
        )

    def _frames_of(self, group: list[int]) -> tuple[FrameFeatures, Tensor]:
        """The features of just the frames that the rows are on, and each row's index into them."""
        frames = sorted({self.rows[i].job for i in group})
        rows = torch.tensor([frames.index(self.rows[i].job) for i in group], device=self.device)
        if len(frames) == len(self.jobs):
            return self.features, rows
        keep = torch.tensor(frames, device=self.device)
        skips = (self.features.skips[0][keep], self.features.skips[1][keep])
        return FrameFeatures(self.features.embedding[keep], skips), rows

    def _track(self) -> None:
        """Masks of the objects that memory finds on the frame."""
        for group in self._groups((i, None) for i, row in enumerate(self.rows) if row.tracked):
            nothing = PromptBatch(
                points=torch.zeros(len(group), 1, 2, device=self.device),
                labels=torch.full((len(group), 1), PADDING, device=self.device),
            )
            self._put(group, self.network.decode(self._embedding(group), self._skips(group), nothing, multimask=True))

    def _apply_prompts(self, turn: int) -> None:
        """The `turn`-th prompt of every row that has so many."""
        todo = [(i, row.prompts[turn]) for i, row in enumerate(self.rows) if turn < len(row.prompts)]
        self._fill([i for i, _ in todo if turn == 0 and self.rows[i].tracked])
        masks = [(i, prompt) for i, prompt in todo if prompt.mask is not None]
        for group in self._groups((i, None) for i, _ in masks):
            self._adopt_masks(group, dict(masks))
        points = [(i, prompt) for i, prompt in todo if prompt.mask is None]
        for i, prompt in points:
            frame = self.jobs[self.rows[i].job].frame
            self.said[i] = said_by(prompt, frame.size, self.network.config.input_size, self.said[i], self.device)
        for group in self._groups((i, self._prompt_kind(i, turn)) for i, _ in points):
            self._answer_points(group, turn)

    def _prompt_kind(self, i: int, turn: int) -> tuple[int, bool, bool]:
        """Rows can share a decoder call if they have as many points, and alike previous logits and stability rule."""
        said = self.said[i]
        assert said is not None
        return said.count, self._has_previous(i, turn), self._profile(i) is Profile.INTERACTIVE

    def _has_previous(self, i: int, turn: int) -> bool:
        row = self.rows[i]
        return turn > 0 or row.tracked or row.earlier is not None

    def _previous(self, group: list[int]) -> Tensor:
        return self.output.logits[group].clamp(-PREVIOUS_LOGITS_LIMIT, PREVIOUS_LOGITS_LIMIT)

    def _adopt_masks(self, group: list[int], prompts: dict[int, Prompt]) -> None:
        size = self.network.config.input_size
        frames = [self.jobs[self.rows[i].job].frame for i in group]
        masks = [mask_prompt(prompts[i], frame.size, size, self.device) for i, frame in zip(group, frames, strict=True)]
        embedding = self.features.embedding[self._frame_index(group)]
        self._put(group, self.network.adopt_mask(embedding, self._skips(group), torch.stack(masks)))
        self._fill(group)
        for i in group:
            self.said[i] = None

    def _answer_points(self, group: list[int], turn: int) -> None:
        said = [s for i in group if (s := self.said[i]) is not None]
        prompts = PromptBatch(
            points=torch.stack([s.points for s in said]),
            labels=torch.stack([s.labels for s in said]),
            previous=self._previous(group) if self._has_previous(group[0], turn) else None,
        )
        output = self.network.decode(
            self._embedding(group),
            self._skips(group),
            prompts,
            multimask=said[0].count <= 1,
            by_stability=self._profile(group[0]) is Profile.INTERACTIVE,
        )
        self._put(group, output)
        self._fill(group)

    def _encode_memories(self) -> Tensor:
        """[B, h * w, M]; masks that answer a prompt are binarised in the interactive profile."""
        binarise = [bool(r.prompts) and self._profile(i) is Profile.INTERACTIVE for i, r in enumerate(self.rows)]
        flags = torch.tensor(binarise, device=self.device)
        parts = [self._memories_of(group, flags[group]) for group in self._groups((i, None) for i in range(len(flags)))]
        config = self.network.config
        return torch.cat(parts) if parts else torch.zeros(0, config.grid**2, config.memory_dim, device=self.device)

    def _memories_of(self, group: list[int], binarise: Tensor) -> Tensor:
        part = ObjectOutput(
            self.output.logits[group], self.output.predicted_iou[group], self.output.object_score[group],
            self.output.pointer[group],
        )  # fmt: skip
        return self.network.encode_memory(*self._frames_of(group), part, binarise)

    def _rows_reading(self, shape: tuple[int, int]) -> int:
        """How many rows read so many memories and pointers at a time: fewer, if they read more than is usual."""
        memories, _ = shape
        return max(1, min(self.max_rows, self.max_rows * _USUAL_MEMORIES // max(1, memories)))

    def _groups(
        self, keyed: Iterable[tuple[int, K]], *, rows_at_once: Callable[[K], int] | None = None
    ) -> list[list[int]]:
        """Rows of equal key, at most `max_rows` at a time or as many as `rows_at_once` says of their key, in order."""
        by_key: dict[K, list[int]] = {}
        for i, key in keyed:
            by_key.setdefault(key, []).append(i)
        groups = []
        for key, rows in by_key.items():
            n = rows_at_once(key) if rows_at_once else self.max_rows
            groups += [rows[at : at + n] for at in range(0, len(rows), n)]
        return groups

    def _embedding(self, group: list[int]) -> Tensor:
        """[b, h, w, C]: conditioned on memory, or marked as having none."""
        none = self.network.no_mem_embed[0, 0].to(self.features.embedding.dtype)
        return torch.stack(
            [
                self.features.embedding[self.rows[i].job] + none if self.rows[i].initial else self.conditioned[i]
                for i in group
            ]
        )

    def _skips(self, group: list[int]) -> tuple[Tensor, Tensor]:
        frames = self._frame_index(group)
        return self.features.skips[0][frames], self.features.skips[1][frames]

    def _frame_index(self, group: list[int]) -> Tensor:
        return torch.tensor([self.rows[i].job for i in group], device=self.device)

    def _profile(self, i: int) -> Profile:
        return self.jobs[self.rows[i].job].session.settings.profile

    def _put(self, group: list[int], answer: ObjectOutput) -> None:
        self.output.logits[group] = answer.logits
        self.output.predicted_iou[group] = answer.predicted_iou
        self.output.object_score[group] = answer.object_score
        self.output.pointer[group] = answer.pointer

    def _fill(self, rows: list[int]) -> None:
        """Fill small holes, in the sessions that want it."""
        wanted = ((i, self.jobs[self.rows[i].job].session.settings) for i in rows)
        keyed = ((i, s.fill_hole_area) for i, s in wanted if s.fill_hole_area and s.profile is Profile.INTERACTIVE)
        for group in self._groups(keyed):
            area = self.jobs[self.rows[group[0]].job].session.settings.fill_hole_area
            self.output.logits[group] = fill_holes(self.output.logits[group], area)


def _joined(parts: list[FrameFeatures]) -> FrameFeatures:
    if len(parts) == 1:
        return parts[0]
    skips = (torch.cat([part.skips[0] for part in parts]), torch.cat([part.skips[1] for part in parts]))
    return FrameFeatures(torch.cat([part.embedding for part in parts]), skips)


def _singly(features: FrameFeatures) -> list[FrameFeatures]:
    """Frame by frame, as views."""
    parts = (features.embedding.split(1), features.skips[0].split(1), features.skips[1].split(1))
    return [FrameFeatures(embedding, (fine, middle)) for embedding, fine, middle in zip(*parts, strict=True)]
