"""Which of the decoder's masks is the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from masklet.model import SAM2, VARIANTS, PromptBatch
from masklet.model.mask_decoder import DecodedMasks, choose_best, choose_single, stability


def decoded(*single: torch.Tensor) -> DecodedMasks:
    """One row per single mask; candidate 2 has the best predicted IoU, candidates are constant 1, 2 and 3."""
    rows = len(single)
    candidates = torch.arange(1.0, 4).view(1, 3, 1, 1).expand(rows, 3, 10, 10)
    return DecodedMasks(
        logits=torch.cat((torch.stack(single)[:, None], candidates), dim=1),
        predicted_iou=torch.tensor([0.99, 0.3, 0.8, 0.5]).expand(rows, 4),
        tokens=torch.arange(4.0).view(1, 4, 1).expand(rows, 4, 5),
        object_score=torch.ones(rows),
    )


STABLE = torch.where(torch.arange(100).view(10, 10) < 50, 3.0, -3.0)
UNSTABLE = torch.where(torch.arange(100).view(10, 10) < 48, 3.0, -3.0)
UNSTABLE.view(-1)[48:50] = 0.01


def test_stability_is_the_area_surely_inside_over_the_area_perhaps_inside():
    masks = torch.stack([STABLE, UNSTABLE, torch.full((10, 10), -3.0), torch.zeros(10, 10)])
    assert stability(masks).tolist() == pytest.approx([1.0, 48 / 50, 1.0, 0.0])


def test_the_best_candidate_is_that_of_the_best_predicted_iou_and_never_the_single_mask():
    chosen = choose_best(decoded(STABLE))
    assert chosen.logits.unique().tolist() == [2.0]
    assert chosen.predicted_iou.tolist() == pytest.approx([0.8])
    assert chosen.token.unique().tolist() == [2.0]


def test_an_unstable_single_mask_gives_way_row_by_row_but_its_token_stays():
    chosen = choose_single(decoded(STABLE, UNSTABLE), by_stability=True)
    assert torch.equal(chosen.logits[0], STABLE)
    assert chosen.logits[1].unique().tolist() == [2.0]
    assert chosen.predicted_iou.tolist() == pytest.approx([0.99, 0.8])
    assert chosen.token.unique().tolist() == [0.0]


def test_without_the_stability_rule_the_single_mask_is_taken_as_it_is():
    chosen = choose_single(decoded(STABLE, UNSTABLE), by_stability=False)
    assert torch.equal(chosen.logits, torch.stack([STABLE, UNSTABLE]))
    assert chosen.predicted_iou.tolist() == pytest.approx([0.99, 0.99])


@pytest.mark.parametrize(("inside", "stable"), [(98, True), (97, False)])
def test_the_threshold_is_98_percent_and_included(inside, stable):
    mask = torch.full((10, 10), 0.0)
    mask.view(-1)[:inside] = 1.0
    chosen = choose_single(decoded(mask), by_stability=True)
    assert bool((chosen.predicted_iou > 0.9).item()) == stable


def test_smooth_logits_are_a_binomial_average_over_3x3_cells_and_nothing_else(mini: Callable[..., SAM2]):
    plain = mini()
    smooth = SAM2(replace(plain.config, smooth_logits=True)).eval().requires_grad_(False)
    smooth.load_state_dict(plain.state_dict())
    frame, row = plain.encode_image(torch.randn(1, 3, 64, 64)), torch.zeros(1, dtype=torch.long)
    click = PromptBatch(points=torch.tensor([[[20.0, 30.0]]]), labels=torch.ones(1, 1, dtype=torch.long))
    before, after = (net.candidates(net.without_memory(frame, row), frame.skips, click) for net in (plain, smooth))

    for logits, averaged in zip(before.logits[0], after.logits[0], strict=True):
        for y, x in ((0, 0), (0, 7), (5, 9), (15, 15)):
            expected = sum(
                (2 - abs(dy)) * (2 - abs(dx)) / 16 * logits[min(max(y + dy, 0), 15), min(max(x + dx, 0), 15)]
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
            )
            torch.testing.assert_close(averaged[y, x], torch.as_tensor(expected), atol=1e-5, rtol=1e-5)
    assert torch.equal(before.predicted_iou, after.predicted_iou)
    assert torch.equal(before.tokens, after.tokens)


def test_only_nano_smooths_its_logits():
    assert [name for name, config in VARIANTS.items() if config.smooth_logits] == ["nano"]
