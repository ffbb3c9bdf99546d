"""What training unrolls is what the engine serves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.training.conftest import drifting_squares

from masklet.engine import Engine, EngineSettings
from masklet.model import SAM2, build, variant_config
from masklet.training.batch import TrainingBatch, choose_targets, collate_clips
from masklet.training.clip import Clip
from masklet.training.initial import initialise
from masklet.training.interaction import FirstPrompt, InteractionSettings, Plan
from masklet.training.losses import Prediction
from masklet.training.unroll import Unroll
from masklet.types import Profile, Prompt, StepRequest, StepResult, TrackSettings


def batch(count: int = 2, **shape: int) -> TrainingBatch:
    clips = [drifting_squares(seed, **shape) for seed in range(count)]
    return collate_clips(clips, max_targets=2, random=np.random.default_rng(0))


def unrolled(network: SAM2, batch: TrainingBatch, plan: Plan) -> list[Prediction]:
    said: list[Prediction] = Unroll(network, InteractionSettings())(batch, plan, torch.Generator().manual_seed(0))
    return said


@torch.no_grad()
def served(network: SAM2, clip: Clip) -> list[np.ndarray]:
    """Logits per frame after the first, given the first masks, as the engine answers."""
    engine = Engine(network, EngineSettings("cpu", "float32"))
    engine.open("s", TrackSettings(profile=Profile.VOS))
    answers = []
    for t, frame in enumerate(clip.frames):
        prompts = tuple(Prompt(object_id=i + 1, mask=m) for i, m in enumerate(clip.masks[0])) if t == 0 else ()
        [result] = engine.step([("s", StepRequest(frame_seq=t + 1, image=frame, prompts=prompts, with_logits=True))])
        assert isinstance(result, StepResult)
        answers.append(np.stack([o.logits for o in result.objects if o.logits is not None]))
    return answers[1:]


@pytest.mark.parametrize("frames", [10, 16, 20])  # a full memory bank; that and all pointers; more than is remembered
def test_tracking_is_that_of_the_engine_but_for_rounding(frames):
    network = build("mini", seed=3)
    clip = drifting_squares(5, frames=frames)
    said = unrolled(network, collate_clips([clip], max_targets=2, random=np.random.default_rng(0)),
                    Plan(FirstPrompt.MASK))  # fmt: skip
    assert len(said) == frames - 1
    for prediction, answer in zip(said, served(network, clip), strict=True):
        best = prediction.predicted_iou.argmax(dim=1)
        mine = prediction.logits[torch.arange(2), best]
        mine = torch.where(prediction.object_score[:, None, None] > 0, mine, -1024.0)
        assert np.abs(mine.numpy() - answer).max() < 1e-3


@pytest.mark.parametrize("first", list(FirstPrompt))
def test_every_frame_and_every_correction_is_a_prediction(first):
    network = initialise(SAM2(variant_config("mini")), 0)
    said = unrolled(network, batch(frames=4), Plan(first, {0: 2, 2: 1} if first is not FirstPrompt.MASK else {2: 1}))
    assert len(said) == (7 if first is not FirstPrompt.MASK else 4)
    candidates = [p.logits.shape[1] for p in said]
    assert (
        candidates
        == {
            FirstPrompt.CLICK: [3, 1, 1, 3, 3, 3, 3],
            FirstPrompt.BOX: [1, 1, 1, 3, 3, 3, 3],
            FirstPrompt.MASK: [3, 3, 3, 3],
        }[first]
    )


@pytest.mark.parametrize(("plan", "kept"), [(Plan(FirstPrompt.MASK), 2), (Plan(FirstPrompt.CLICK, {1: 2, 4: 1}), 3)])
def test_a_burn_in_changes_no_answer_and_trains_on_none_of_its_own(plan, kept):
    network = initialise(SAM2(variant_config("mini")), 0)
    whole = unrolled(network, batch(frames=5), plan)
    rest = unrolled(network, batch(frames=5), replace(plan, burn_in=3))
    assert len(rest) == kept
    for one, other in zip(whole[-kept:], rest, strict=True):
        assert torch.allclose(one.logits, other.logits, atol=1e-4)
        assert torch.equal(one.truth, other.truth)
    sum((p.logits.square().mean() for p in rest), torch.zeros(())).backward()
    assert network.image_encoder.trunk.patch_embed.proj.weight.grad is not None
    assert network.no_mem_embed.grad is None  # the first frame, which has no memory, is burnt in
    assert network.mask_downsample.weight.grad is None


def test_gradients_reach_every_weight_but_the_fixed_one():
    network = initialise(SAM2(variant_config("mini")), 0)
    with torch.no_grad():
        network.state_dict()["sam_mask_decoder.pred_obj_score_head.layers.2.bias"].zero_()
    total = torch.zeros(())
    for first in FirstPrompt:
        for p in unrolled(network, batch(frames=3), Plan(first, {1: 1})):
            total = total + p.logits.square().mean() + p.predicted_iou.sum() + p.object_score.sum()
    total.backward()
    without = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    # fixed by construction: the absent-object embeddings of whichever side of the score no target is on, and a
    # position that the published networks carry but never use
    assert without <= {"no_mem_pos_enc", "no_obj_ptr", "no_obj_embed_spatial"}


def test_a_frozen_image_encoder_changes_no_answer_and_takes_no_gradient():
    network = initialise(SAM2(variant_config("mini")), 0)
    said = unrolled(network, batch(frames=3), Plan(FirstPrompt.CLICK))
    frozen = Unroll(network, InteractionSettings(), freeze_image_encoder=True)
    again = frozen(batch(frames=3), Plan(FirstPrompt.CLICK), torch.Generator().manual_seed(0))
    assert all(torch.equal(one.logits, other.logits) for one, other in zip(said, again, strict=True))
    sum((p.logits.square().mean() for p in again), torch.zeros(())).backward()
    assert all(p.grad is None for p in network.image_encoder.parameters())
    assert network.memory_attention.norm.weight.grad is not None and network.no_mem_embed.grad is not None


def test_a_forward_in_bfloat16_trains_float32_weights():
    network = initialise(SAM2(variant_config("mini")), 0)
    unroll = Unroll(network, InteractionSettings())
    weights = {f"network.{k}": v for k, v in network.parameters_in(torch.bfloat16).items()}
    arguments = (batch(), Plan(FirstPrompt.CLICK), torch.Generator().manual_seed(0))
    said = torch.func.functional_call(unroll, weights, arguments)
    torch.stack([p.logits.mean() for p in said]).sum().backward()
    gradient = network.image_encoder.trunk.patch_embed.proj.weight.grad
    assert gradient is not None and gradient.dtype is torch.float32 and bool(gradient.any())


def test_targets_are_objects_that_show_on_the_first_frame():
    clip = drifting_squares(1, objects=3)
    clip.masks[0, 1] = False
    chosen = [choose_targets(clip, 2, np.random.default_rng(seed)) for seed in range(20)]
    assert {tuple(rows) for rows in chosen} == {(0, 2)}
    clip.masks[0] = False
    clip.masks[0, 1, 3, 3] = True
    assert choose_targets(clip, 2, np.random.default_rng(0)) == [1]


@pytest.mark.parametrize(("size", "side", "chosen"), [(96, 4, [1]), (96, 5, [0, 1]), (512, 15, [1]), (512, 16, [0, 1])])
def test_targets_fill_a_cell_of_the_features_or_a_500th_of_the_frame(size, side, chosen):
    clip = Clip(np.zeros((1, size, size, 3), np.uint8), np.zeros((1, 2, size, size), np.bool_))
    clip.masks[0, 0, :side, :side] = clip.masks[0, 1, size // 2 :, size // 2 :] = True
    assert choose_targets(clip, 2, np.random.default_rng(0)) == chosen
