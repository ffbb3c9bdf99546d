"""A batch of clips through the network, frame after frame, the way the engine does it, with gradients."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from masklet.engine.bank import BankRules, Entry, MemoryBank
from masklet.engine.pixels import normalise
from masklet.model import SAM2, FrameFeatures, MemoryBatch, ObjectOutput, PromptBatch
from masklet.model.config import RECENT_POINTERS
from masklet.model.layers import resize
from masklet.model.mask_decoder import DecodedMasks
from masklet.model.prompt_encoder import PADDING
from masklet.model.sam2 import PREVIOUS_LOGITS_LIMIT
from masklet.training.batch import TrainingBatch
from masklet.training.interaction import (
    FirstPrompt,
    InteractionSettings,
    Plan,
    Points,
    corrective_clicks,
    first_points,
)
from masklet.training.losses import Prediction


@dataclass(slots=True)
class _Memory:
    """What all targets remember. All of them take the same steps, so one bank's bookkeeping serves them all."""

    bank: MemoryBank
    memories: list[Tensor] = field(default_factory=list)
    pointers: list[Tensor] = field(default_factory=list)

    def write(self, index: int, memory: Tensor, pointer: Tensor, *, conditioning: bool) -> None:
        self.memories.append(memory)
        self.pointers.append(pointer)
        page = len(self.memories) - 1
        self.bank.write(index, Entry(page, page), conditioning=conditioning)

    def read(self, index: int) -> MemoryBatch:
        read = self.bank.read(index)
        device, rows = self.pointers[0].device, len(self.pointers[0])
        return MemoryBatch(
            memories=torch.stack([self.memories[page] for page in read.memories], dim=1),
            slots=torch.tensor([read.slots], device=device).expand(rows, -1),
            pointers=torch.stack([self.pointers[page] for page in read.pointers], dim=1),
            distances=torch.tensor([read.distances], device=device).expand(rows, -1) / RECENT_POINTERS,
        )


class Unroll(nn.Module):
    """The network over whole clips; a module so that its weights can be swapped for those in another precision."""

    def __init__(self, network: SAM2, settings: InteractionSettings, *, freeze_image_encoder: bool = False) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.freeze_image_encoder = freeze_image_encoder

    def forward(self, batch: TrainingBatch, plan: Plan, random: torch.Generator) -> list[Prediction]:
        """Track all targets of the batch through all frames.

        Args:
            batch: frames and truth.
            plan: the simulated user.
            random: where the user clicks.

        Returns:
            Everything the decoder was asked, in order: one item per frame after the burn-in and per correction of it.
        """
        length = len(batch.frames)
        memory = _Memory(MemoryBank(BankRules(None, length)))
        with torch.no_grad():
            self._follow(batch, range(plan.burn_in), plan, memory, random)
        return self._follow(batch, range(plan.burn_in, length), plan, memory, random)

    def _follow(
        self, batch: TrainingBatch, indices: range, plan: Plan, memory: _Memory, random: torch.Generator
    ) -> list[Prediction]:
        """Some frames, one after the other; all of them are encoded together."""
        if not indices:
            return []
        clips = batch.frames.shape[1]
        with torch.no_grad() if self.freeze_image_encoder else nullcontext():
            features = self.network.encode_image(normalise(batch.frames[indices.start : indices.stop].flatten(0, 1)))
        predictions: list[Prediction] = []
        for place, index in enumerate(indices):
            here = _slice(features, slice(place * clips, (place + 1) * clips))
            step = _FrameStep(self.network, self.settings, here, batch, index)
            output = step.start(plan, random) if index == 0 else step.track(memory)
            output = step.correct(output, plan.corrections.get(index, 0), random)
            predictions += step.predictions
            if index + 1 < len(batch.frames):
                encoded = step.memorise(output)
                memory.write(index, encoded, output.pointer, conditioning=index == 0 or index in plan.corrections)
        return predictions


class _FrameStep:
    """One frame of all clips."""

    def __init__(
        self, network: SAM2, settings: InteractionSettings, features: FrameFeatures, batch: TrainingBatch, index: int
    ) -> None:
        self.network = network
        self.settings = settings
        self.features = features
        self.truth = batch.masks[index]
        self.clip_of_row = batch.clip_of_row
        self.skips = (features.skips[0][self.clip_of_row], features.skips[1][self.clip_of_row])
        self.predictions: list[Prediction] = []
        self.said: Points | None = None
        self.embedding: Tensor

    def start(self, plan: Plan, random: torch.Generator) -> ObjectOutput:
        """The first prompt, without memory."""
        self.embedding = self.network.without_memory(self.features, self.clip_of_row)
        if plan.first is FirstPrompt.MASK:
            raw = self.features.embedding[self.clip_of_row]
            return self.network.adopt_mask(raw, self.skips, self.truth.float())
        self.said = first_points(plan.first, self.truth, self.settings, random)
        return self._answer(self.said, previous=None)

    def track(self, memory: _Memory) -> ObjectOutput:
        """Nothing is said; memory finds the targets."""
        self.embedding = self.network.condition(self.features, self.clip_of_row, memory.read(len(memory.memories)))
        rows, device = len(self.clip_of_row), self.truth.device
        nothing = Points(torch.zeros(rows, 1, 2, device=device), torch.full((rows, 1), PADDING, device=device))
        return self._answer(nothing, previous=None)

    def correct(self, output: ObjectOutput, clicks: int, random: torch.Generator) -> ObjectOutput:
        """Click after click on what is wrong, each refining the last answer."""
        for _ in range(clicks):
            logits = output.logits.detach()
            large = resize(logits[:, None], self.truth.shape[-1])[:, 0]
            click = corrective_clicks(large, self.truth, random, from_truth=self.settings.from_truth)
            self.said = self.said.joined(click) if self.said else click
            output = self._answer(self.said, previous=logits.clamp(-PREVIOUS_LOGITS_LIMIT, PREVIOUS_LOGITS_LIMIT))
        return output

    def memorise(self, output: ObjectOutput) -> Tensor:
        """[R, h * w, M]."""
        soft = torch.zeros(len(self.clip_of_row), dtype=torch.bool, device=self.truth.device)
        return self.network.encode_memory(self.features, self.clip_of_row, output, soft)

    def _answer(self, said: Points, *, previous: Tensor | None) -> ObjectOutput:
        decoded = self.network.candidates(self.embedding, self.skips, PromptBatch(said.at, said.labels, previous))
        multimask = said.labels.shape[1] <= 1
        self.predictions.append(_prediction(decoded, self.truth, multimask=multimask))
        return self.network.answer(decoded, multimask=multimask)


def _prediction(decoded: DecodedMasks, truth: Tensor, *, multimask: bool) -> Prediction:
    used = slice(1, None) if multimask else slice(0, 1)
    return Prediction(decoded.logits[:, used], decoded.predicted_iou[:, used], decoded.object_score, truth)


def _slice(features: FrameFeatures, part: slice) -> FrameFeatures:
    return FrameFeatures(features.embedding[part], (features.skips[0][part], features.skips[1][part]))
