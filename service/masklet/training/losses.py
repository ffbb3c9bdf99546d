"""What training minimises (SAM 2, appendix D.2): focal 20, dice 1, predicted IoU 1, object score 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from masklet.model.layers import resize

FOCAL_ALPHA = 0.25


@dataclass(frozen=True, slots=True)
class LossWeights:
    """How the parts add up.

    Attributes:
        focal, dice, predicted_iou, object_score: what each counts.
        summed: whether the losses of a clip's predictions, one per frame and per corrective click, are added up, as in
            the published configuration, instead of averaged. AdamW does not see the difference, but clipping does.
    """

    focal: float = 20.0
    dice: float = 1.0
    predicted_iou: float = 1.0
    object_score: float = 1.0
    summed: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the decoder said for R targets on one frame, and the truth.

    Attributes:
        logits: [R, C, 4h, 4w] candidates: three where the answer is the best of three, else one.
        predicted_iou: [R, C], 0 to 1.
        object_score: [R] logit.
        truth: [R, S, S] bool.
    """

    logits: Tensor
    predicted_iou: Tensor
    object_score: Tensor
    truth: Tensor


@dataclass(frozen=True, slots=True)
class Losses:
    """Means over targets and `count` predictions, each a scalar, before weighting; `iou` is of the best masks."""

    focal: Tensor
    dice: Tensor
    predicted_iou: Tensor
    object_score: Tensor
    iou: Tensor
    count: int

    def total(self, weights: LossWeights) -> Tensor:
        """The weighted sum, a scalar."""
        mean = (
            weights.focal * self.focal
            + weights.dice * self.dice
            + weights.predicted_iou * self.predicted_iou
            + weights.object_score * self.object_score
        )
        return mean * self.count if weights.summed else mean


def compute_losses(predictions: Sequence[Prediction], weights: LossWeights) -> Losses:
    """Losses of an unrolled batch.

    Of several candidates only the one with the lowest focal + dice loss is trained as a mask; the predicted IoU of all
    candidates is. Where the target is absent only the object score is trained.
    """
    parts = [_losses_of(prediction, weights) for prediction in predictions]
    rows = torch.stack(parts)
    focal, dice, predicted_iou, object_score, _, _ = rows.mean(dim=0).unbind()
    iou, present = rows[:, 4], rows[:, 5]
    iou = (iou * present).sum() / present.sum().clamp(min=1)  # where there is nothing to find, there is no IoU
    return Losses(focal, dice, predicted_iou, object_score, iou, len(parts))


def _losses_of(prediction: Prediction, weights: LossWeights) -> Tensor:
    """[6] in the order of `Losses`, then how many targets are present."""
    present = prediction.truth.flatten(1).any(dim=1).float()
    truth = prediction.truth.float()[:, None]
    with torch.no_grad():
        best, iou = _best_candidate(prediction.logits, truth, weights)
    rows = torch.arange(len(truth), device=truth.device)
    logits = resize(prediction.logits[rows, best][:, None], truth.shape[-1])
    focal, dice = focal_and_dice(logits, truth)
    return torch.stack(
        [
            (focal[:, 0] * present).sum() / len(present),
            (dice[:, 0] * present).sum() / len(present),
            ((prediction.predicted_iou - iou).abs().mean(dim=1) * present).sum() / len(present),
            F.binary_cross_entropy_with_logits(prediction.object_score, present),
            (iou[rows, best] * present).sum() / present.sum().clamp(min=1),
            present.sum(),
        ]
    )


def _best_candidate(logits: Tensor, truth: Tensor, weights: LossWeights) -> tuple[Tensor, Tensor]:
    """[R] index of the candidate of the lowest loss, and [R, C] IoU of all of them.

    Chosen apart from what is trained, so that gradients are kept for one candidate instead of three.
    """
    logits = resize(logits, truth.shape[-1])
    iou = mask_iou(logits > 0, truth > 0)
    if logits.shape[1] == 1:
        return torch.zeros(len(logits), dtype=torch.long, device=logits.device), iou
    focal, dice = focal_and_dice(logits, truth)
    return (weights.focal * focal + weights.dice * dice).argmin(dim=1), iou


def focal_and_dice(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """[R, C, H, W] logits, [R, 1, H, W] truth of 0 and 1 -> [R, C] each.

    Focal: the mean over pixels (Lin et al. 2017, gamma 2). Dice: 1 - (2 p t + 1) / (p + t + 1) (Milletari et al. 2016).
    """
    p, t = logits.sigmoid(), truth.flatten(2).transpose(1, 2)
    surprise = F.softplus(logits) - logits * truth
    alpha = (1 - FOCAL_ALPHA) - (1 - 2 * FOCAL_ALPHA) * t
    focal = ((p - truth).square() * surprise).flatten(2) @ alpha / t.shape[1]
    dice = 1 - (2 * (p.flatten(2) @ t) + 1) / (p.flatten(2).sum(dim=2, keepdim=True) + t.sum(dim=1, keepdim=True) + 1)
    return focal[..., 0], dice[..., 0]


def mask_iou(masks: Tensor, truth: Tensor) -> Tensor:
    """[R, C, H, W] and [R, 1, H, W] bool -> [R, C]; 1 where both are empty."""
    ours, theirs = masks.flatten(2).float(), truth.flatten(2).float()
    shared = (ours @ theirs.transpose(1, 2))[..., 0]
    either = ours.sum(dim=2) + theirs.sum(dim=2) - shared
    return torch.where(either > 0, shared / either.clamp(min=1), 1.0)
