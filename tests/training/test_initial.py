from __future__ import annotations

from typing import Any

import torch

from masklet.model import SAM2, variant_config
from masklet.model.position import rotate
from masklet.training.initial import initialise


def network(seed: int = 0) -> SAM2:
    return initialise(SAM2(variant_config("mini")), seed)


def test_the_same_seed_draws_the_same_weights():
    first, again, other = (network(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["no_mem_embed"], other["no_mem_embed"])


@torch.no_grad()
def test_a_click_starts_out_looking_at_its_own_place():
    net = network()
    attention: Any = net.sam_mask_decoder.transformer.layers[0].cross_attn_token_to_image
    position = net.sam_prompt_encoder.grid_position()
    scores = attention.q_proj(position) @ attention.k_proj(position).T
    own, all_ = scores.diagonal().mean(), scores.mean()
    assert float(own) > float(all_) + 2 * float(scores.std())


@torch.no_grad()
def test_memories_start_out_being_read_nearby():
    net = network()
    attention: Any = net.memory_attention.layers[0].cross_attn_image
    rotary = net.get_buffer("rotary")
    query, key = (rotate(p.bias.expand(len(rotary), -1), rotary) for p in (attention.q_proj, attention.k_proj))
    weights = torch.softmax(query @ key.T / query.shape[1] ** 0.5, dim=1)
    assert bool((weights.argmax(dim=1) == torch.arange(len(rotary))).all())


def test_no_weight_is_left_at_zero_but_biases_that_start_there():
    zero = {name for name, p in network().named_parameters() if not bool(p.any())}
    assert all(name.endswith("bias") for name in zero)
