"""Losses against a plain recomputation: loops and formulas, nothing shared with what is tested but the resize."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from masklet.model.layers import resize
from masklet.training.losses import LossWeights, Prediction, compute_losses, mask_iou

WEIGHTS = LossWeights()


def prediction(seed: int, *, candidates: int = 3, rows: int = 4, absent: tuple[int, ...] = ()) -> Prediction:
    random = torch.Generator().manual_seed(seed)
    truth = torch.rand(rows, 16, 16, generator=random) > 0.6
    truth[list(absent)] = False
    return Prediction(
        logits=torch.randn(rows, candidates, 4, 4, generator=random) * 3,
        predicted_iou=torch.rand(rows, candidates, generator=random),
        object_score=torch.randn(rows, generator=random),
        truth=truth,
    )


def gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def one_mask(logits: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """Focal, dice and IoU of one mask, pixel by pixel."""
    focal = shared = total = both = either = 0.0
    for x, t in zip(logits.flatten().tolist(), truth.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        right = p if t else 1 - p
        focal += (0.25 if t else 0.75) * (1 - right) ** 2 * -math.log(right)
        shared, total = shared + p * t, total + p + t
        both, either = both + (x > 0 and t), either + (x > 0 or t)
    return focal / logits.numel(), 1 - (2 * shared + 1) / (total + 1), both / either if either else 1.0


def recomputed(said: Prediction) -> list[float]:
    sums = [0.0] * 4
    rows = len(said.truth)
    for row in range(rows):
        present = bool(said.truth[row].any())
        score = float(said.object_score[row])
        sums[3] += math.log1p(math.exp(-score if present else score)) / rows
        if not present:
            continue
        masks = [one_mask(resize(logits[None, None], 16)[0, 0], said.truth[row]) for logits in said.logits[row]]
        focal, dice, _ = min(masks, key=lambda m: 20 * m[0] + m[1])
        gaps = [abs(float(p) - m[2]) for p, m in zip(said.predicted_iou[row], masks, strict=True)]
        for index, value in enumerate((focal, dice, sum(gaps) / len(gaps))):
            sums[index] += value / rows
    return sums


@pytest.mark.parametrize(("candidates", "absent"), [(3, ()), (1, ()), (3, (0, 2)), (3, (0, 1, 2, 3))])
def test_losses_are_those_of_a_plain_recomputation(candidates, absent):
    said = prediction(1, candidates=candidates, absent=absent)
    found = compute_losses([said], WEIGHTS)
    values = [found.focal, found.dice, found.predicted_iou, found.object_score]
    assert [float(v) for v in values] == pytest.approx(recomputed(said), abs=1e-5)
    assert float(found.total(WEIGHTS)) == pytest.approx(
        sum(w * v for w, v in zip((20, 1, 1, 1), recomputed(said), strict=True)), abs=1e-4
    )


def test_several_predictions_are_averaged():
    first, second = prediction(1), prediction(2, candidates=1)
    both = compute_losses([first, second], WEIGHTS)
    alone = [compute_losses([p], WEIGHTS).dice for p in (first, second)]
    assert float(both.dice) == pytest.approx(float(sum(alone)) / 2)


def test_several_predictions_are_added_up_where_that_is_wanted():
    said = [prediction(1), prediction(2, candidates=1), prediction(3)]
    summed = LossWeights(summed=True)
    alone = [compute_losses([p], WEIGHTS).total(WEIGHTS) for p in said]
    assert float(compute_losses(said, summed).total(summed)) == pytest.approx(float(sum(alone)), rel=1e-5)


def test_only_the_best_candidate_is_trained_as_a_mask_but_every_predicted_iou():
    said = prediction(3, rows=1)
    logits, iou = said.logits.clone().requires_grad_(), said.predicted_iou.clone().requires_grad_()
    losses = compute_losses([Prediction(logits, iou, said.object_score, said.truth)], WEIGHTS)
    losses.total(WEIGHTS).backward()
    by_logits, by_iou = gradient(logits), gradient(iou)
    assert int((by_logits.flatten(2).abs().sum(dim=2) > 0).sum()) == 1
    assert int((by_iou == 0).sum()) == 0


def test_absent_targets_train_the_object_score_alone():
    said = prediction(4, rows=2, absent=(0, 1))
    logits, score = said.logits.clone().requires_grad_(), said.object_score.clone().requires_grad_()
    losses = compute_losses([Prediction(logits, said.predicted_iou, score, said.truth)], WEIGHTS)
    losses.total(WEIGHTS).backward()
    assert not gradient(logits).any() and int((gradient(score) <= 0).sum()) == 0


def test_extreme_logits_stay_finite():
    said = prediction(5)
    extreme = Prediction(said.logits * 1e4, said.predicted_iou, said.object_score * 1e4, said.truth)
    assert math.isfinite(float(compute_losses([extreme], WEIGHTS).total(WEIGHTS)))


def test_iou_of_two_empty_masks_is_one():
    nothing = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    assert float(mask_iou(nothing, nothing)) == 1


def test_the_iou_is_of_targets_that_are_there():
    truth = torch.zeros(2, 16, 16, dtype=torch.bool)
    truth[0, 4:12, 4:12] = True
    perfect = torch.where(truth, 9.0, -9.0)[:, None]

    def seen(rows: slice) -> Prediction:
        return Prediction(perfect[rows], torch.ones(len(truth[rows]), 1), torch.zeros(len(truth[rows])), truth[rows])

    assert compute_losses([seen(slice(0, 2)), seen(slice(1, 2))], LossWeights()).iou == 1
    assert compute_losses([seen(slice(1, 2))], LossWeights()).iou == 0
