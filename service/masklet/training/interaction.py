"""The simulated user of a training step: what is said on which frame (SAM 2, appendix D.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from masklet.model.prompt_encoder import BOX_MAX, BOX_MIN, EXCLUDE, INCLUDE

_CELL = 4
_BOX_NOISE_AT_MOST = 20 / 1024  # of the input's side


class FirstPrompt(StrEnum):
    """How a target is pointed at on the first frame."""

    CLICK = "click"
    BOX = "box"
    MASK = "mask"


@dataclass(frozen=True, slots=True)
class InteractionSettings:
    """Odds of the simulated user.

    Attributes:
        click: odds that the first prompt of a video is a click.
        box: odds that it is a box; the rest are masks. Images get no masks: a given mask leaves nothing to learn there.
        second_frame: odds that another frame is prompted.
        max_corrections: corrective clicks on a prompted frame at most.
        min_corrections: on the first frame of a video at least, unless a mask is given: what is remembered of a poor
            answer to one click teaches to distrust memory. Images may have none, so that one click is learnt.
        box_noise: box corners are off by this share of the side at most, and never by more than 20 pixels of 1024.
        from_truth: odds that a corrective click is drawn from the target as if nothing had been found of it yet.
    """

    click: float = 0.35
    box: float = 0.15
    second_frame: float = 0.5
    max_corrections: int = 4
    min_corrections: int = 0
    box_noise: float = 0.1
    from_truth: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """One step's interaction, the same for all targets.

    Attributes:
        first: how targets are pointed at on the first frame.
        corrections: corrective clicks by frame index.
        burn_in: so many frames at the start fill the memory and are not trained on.
    """

    first: FirstPrompt
    corrections: Mapping[int, int] = field(default_factory=dict)
    burn_in: int = 0


@dataclass(frozen=True, slots=True)
class Points:
    """Clicks and box corners of R targets: [R, P, 2] (x, y) pixels of the model input, [R, P] long labels."""

    at: Tensor
    labels: Tensor

    def joined(self, other: Points) -> Points:
        """These points, then the others."""
        return Points(torch.cat((self.at, other.at), dim=1), torch.cat((self.labels, other.labels), dim=1))


def draw_plan(random: np.random.Generator, frames: int, settings: InteractionSettings, *, burn_in: int = 0) -> Plan:
    """Draw a step's interaction for clips of `frames` frames; a second frame is prompted after the burn-in only."""
    odds = np.array([settings.click, settings.box, max(0.0, 1 - settings.click - settings.box)])
    if frames == 1:
        odds[2] = 0.0
    first = list(FirstPrompt)[random.choice(3, p=odds / odds.sum())]
    corrections = {}
    if first is not FirstPrompt.MASK:
        fewest = settings.min_corrections if frames > 1 else 0
        corrections[0] = int(random.integers(fewest, settings.max_corrections + 1))
    if frames > 1 and random.random() < settings.second_frame and settings.max_corrections:
        second = int(random.integers(max(1, burn_in), frames))
        corrections[second] = int(random.integers(1, settings.max_corrections + 1))
    return Plan(first, {frame: clicks for frame, clicks in corrections.items() if clicks}, burn_in)


def first_points(kind: FirstPrompt, truth: Tensor, settings: InteractionSettings, random: torch.Generator) -> Points:
    """A click inside, or a shaken box around, each of [R, S, S] bool masks."""
    if kind is FirstPrompt.CLICK:
        return Points(click_in(truth, random)[:, None], torch.full((len(truth), 1), INCLUDE, device=truth.device))
    return Points(
        noisy_boxes(truth, settings.box_noise, random),
        torch.tensor([[BOX_MIN, BOX_MAX]], device=truth.device).expand(len(truth), -1),
    )


def corrective_clicks(logits: Tensor, truth: Tensor, random: torch.Generator, *, from_truth: float = 0.0) -> Points:
    """One click per target on what its answer gets wrong: missing pixels are included, surplus ones excluded.

    Args:
        logits: [R, S, S] answers at the masks' size.
        truth: [R, S, S] bool.
        random: chooses the pixel, any wrong one being equally likely but for a pull towards the inside of regions.
        from_truth: odds, of each target, that its answer is taken for empty.

    Where nothing is wrong: a click inside the target, or, with no target in sight, an excluding one anywhere.
    """
    answer = logits > 0
    if from_truth:
        answer &= (torch.rand(len(truth), generator=random, device=truth.device) >= from_truth)[:, None, None]
    wrong = answer ^ truth
    perfect = ~wrong.flatten(1).any(dim=1)
    empty = ~truth.flatten(1).any(dim=1)
    region = torch.where(perfect[:, None, None], truth | empty[:, None, None], wrong)
    at = click_in(region, random)
    x, y = at.long().unbind(dim=1)
    inside = truth[torch.arange(len(truth), device=truth.device), y, x]
    return Points(at[:, None], torch.where(inside, INCLUDE, EXCLUDE)[:, None])


def click_in(region: Tensor, random: torch.Generator) -> Tensor:
    """[R, S, S] bool -> [R, 2] (x, y) of a random set pixel, more likely far from the region's edge."""
    side = region.shape[-1]
    coarse = F.avg_pool2d(F.avg_pool2d(region.float()[:, None], _CELL, stride=_CELL), 3, stride=1, padding=1)
    inner = coarse[:, 0].repeat_interleave(_CELL, dim=1).repeat_interleave(_CELL, dim=2)
    noise = torch.rand(region.shape, generator=random, device=region.device)
    score = (noise + 0.5 * inner) * region
    index = score.flatten(1).argmax(dim=1)
    return torch.stack((index % side, index // side), dim=1).float()


def noisy_boxes(truth: Tensor, noise: float, random: torch.Generator) -> Tensor:
    """[R, S, S] bool -> [R, 2, 2] corners (x, y), each off by up to `noise` times the side; empty masks: the frame."""
    side = truth.shape[-1]
    spans = []
    for axis in (1, 2):  # which columns, then which rows, hold the target
        held = truth.any(dim=axis)
        low, high = held.float().argmax(dim=1), side - held.flip(1).float().argmax(dim=1)
        spans.append(torch.stack((low, high), dim=1).float())
    boxes = torch.stack(spans, dim=2)
    extent = boxes[:, 1:] - boxes[:, :1]
    most = (noise * extent).clamp(max=_BOX_NOISE_AT_MOST * side)
    shake = (2 * torch.rand(boxes.shape, generator=random, device=truth.device) - 1) * most
    return (boxes + shake).clamp(0, side - 1)
