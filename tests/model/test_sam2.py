"""The network's parts together: shapes, sizes, variants, and what a head does with an absent object."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from masklet.errors import ConfigError
from masklet.model import SAM2, VARIANTS, MemoryBatch, PromptBatch, build, variant_config
from masklet.model.layers import _fused_average, attend, weighted_average
from masklet.model.memory_attention import MemoryTokens, RotaryAttention
from masklet.model.position import axial_rotary, rotate
from masklet.model.prompt_encoder import PADDING

KEYS = Path(__file__).parents[1] / "golden" / "keys"
NEW_IN_2_1 = {"no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias"}


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


def shapes(variant: str) -> dict[str, list[int]]:
    with torch.device("meta"):
        return {key: list(value.shape) for key, value in SAM2(variant_config(variant)).state_dict().items()}


@pytest.mark.parametrize("path", sorted(KEYS.glob("*.json")), ids=lambda path: path.stem)
def test_weights_are_named_and_shaped_as_in_the_published_files(path):
    assert shapes(path.stem) == json.loads(path.read_text())


@pytest.mark.parametrize("size", ["tiny", "small", "base_plus", "large"])
def test_2_1_adds_three_weights_to_2_0_and_nothing_else(size):
    new, old = shapes(f"sam2.1_hiera_{size}"), shapes(f"sam2_hiera_{size}")
    assert new.keys() - old.keys() == NEW_IN_2_1
    assert all(new[key] == shape for key, shape in old.items())


def test_variants_are_the_eight_published_ones_and_nano():
    assert len(VARIANTS) == 9
    millions = {name: sum(p.numel() for p in on_meta(name).parameters()) / 1e6 for name in VARIANTS}
    for size, published in (("tiny", 38.9), ("small", 46.0), ("base_plus", 80.8), ("large", 224.4)):
        assert millions[f"sam2.1_hiera_{size}"] == pytest.approx(published, abs=0.1)
    assert millions["nano"] * 2 < 16  # bytes in half precision, in millions


def on_meta(variant: str) -> SAM2:
    with torch.device("meta"):
        return SAM2(variant_config(variant))


@pytest.mark.parametrize("size", [-32, 31, 33, 100, 1000])
def test_other_input_sizes_are_refused(size):
    with pytest.raises(ConfigError, match=f"input size {size} is not a positive multiple of 32"):
        variant_config("sam2.1_hiera_tiny", input_size=size)


def test_an_unknown_variant_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'sam3'; known: nano, sam2\.1_hiera_base_plus"):
        build("sam3")


@pytest.mark.parametrize("size", [32, 64, 96, 160, 224])
@torch.no_grad()
def test_any_multiple_of_32_works_and_frames_do_not_mix(mini, size):
    network, grid = mini(size), size // 16
    images = torch.randn(3, 3, size, size)
    features = network.encode_image(images)
    assert features.embedding.shape == (3, grid, grid, 64)
    assert [skip.shape for skip in features.skips] == [(3, 4 * grid, 4 * grid, 8), (3, 2 * grid, 2 * grid, 16)]
    alone = network.encode_image(images[1:2])
    assert torch.allclose(features.embedding[1:2], alone.embedding, atol=1e-4)
    nobody = torch.zeros(2, dtype=torch.long)
    output = network.decode(network.without_memory(features, nobody), skips_of(features, 2), padding(2), multimask=True)
    memory = network.encode_memory(features, nobody, output, torch.tensor([True, False]))
    assert memory.shape == (2, grid**2, 16)
    batch = MemoryBatch(memory[:, None], torch.tensor([[6], [0]]), output.pointer[:, None], torch.ones(2, 1))
    assert network.condition(features, nobody, batch).isfinite().all()


def skips_of(features, rows: int):
    return features.skips[0][:1].expand(rows, -1, -1, -1), features.skips[1][:1].expand(rows, -1, -1, -1)


def padding(rows: int) -> PromptBatch:
    return PromptBatch(torch.zeros(rows, 1, 2), torch.full((rows, 1), PADDING))


@torch.no_grad()
def decode(network: SAM2, score: float):
    """The answer for one unprompted row whose object score is `score`."""
    head = network.state_dict()
    head["sam_mask_decoder.pred_obj_score_head.layers.2.weight"].zero_()
    head["sam_mask_decoder.pred_obj_score_head.layers.2.bias"].fill_(score)
    features = network.encode_image(torch.randn(1, 3, 64, 64))
    embedding = network.without_memory(features, torch.zeros(1, dtype=torch.long))
    return features, network.decode(embedding, features.skips, padding(1), multimask=True)


@pytest.mark.parametrize(("score", "present"), [(2.0, True), (0.0, False), (-2.0, False)])
def test_an_absent_object_has_no_mask_and_the_pointer_of_absence(mini, score, present):
    network = mini()
    _, output = decode(network, score)
    assert output.object_score.tolist() == [score]
    assert bool((output.logits == -1024).all()) is not present
    assert torch.equal(output.pointer, network.no_obj_ptr) is not present


@pytest.mark.parametrize(("new", "marked"), [(True, True), (False, False)])
@torch.no_grad()
def test_memories_of_absent_objects_are_marked_in_2_1(mini, new, marked):
    network = mini(new=new)
    features, output = decode(network, -1.0)
    row = torch.zeros(1, dtype=torch.long)
    absent = network.encode_memory(features, row, output, torch.tensor([False]))
    output.object_score.fill_(1.0)
    present = network.encode_memory(features, row, output, torch.tensor([False]))
    expected = network.no_obj_embed_spatial if marked else torch.zeros(1, 16)
    assert torch.allclose(absent - present, expected.expand(1, 16, 16), atol=1e-5)


@pytest.mark.parametrize("new", [True, False])
@torch.no_grad()
def test_distances_of_pointers_count_in_2_1_only(mini, new):
    network = mini(new=new)
    memories, slots, pointers = torch.randn(1, 2, 16, 16), torch.tensor([[6, 0]]), torch.randn(1, 3, 64)
    near, far = (
        network.memory_tokens(MemoryBatch(memories, slots, pointers, torch.full((1, 3), d))) for d in (0.1, 0.9)
    )
    assert near.keys.shape == near.values.shape == (1, 2 * 16 + 3 * 4, 16)
    assert near.spatial == 32
    assert torch.equal(near.values, far.values)
    assert torch.equal(near.keys[:, :32], far.keys[:, :32])
    assert torch.equal(near.keys, far.keys) is not new
    assert torch.equal(near.values[0, 32:].view(3, 64), pointers[0])


@torch.no_grad()
def test_prompt_tokens_are_position_plus_kind_and_end_with_padding(mini):
    encoder = mini().sam_prompt_encoder
    points, labels = torch.tensor([[[3.0, 60.5], [10.0, 20.0], [0.0, 0.0]]]), torch.tensor([[1, 3, -1]])
    found = encoder.tokens(points, labels)[0]
    matrix = encoder.pe_layer.positional_encoding_gaussian_matrix
    for i, kind in ((0, 1), (1, 3)):
        angle = 2 * torch.pi * ((2 * (points[0, i] + 0.5) / 64 - 1) @ matrix)
        expected = torch.cat((angle.sin(), angle.cos())) + encoder.point_embeddings[kind].weight[0]
        assert torch.allclose(found[i], expected, atol=1e-4)
    assert torch.allclose(found[2:], encoder.not_a_point_embed.weight.expand(2, -1))


@torch.no_grad()
def test_memory_is_attended_to_as_by_plain_attention():
    part, rotary = RotaryAttention(32, 16), axial_rotary(4, 32)
    x, keys, values = torch.randn(2, 16, 32), torch.randn(2, 2 * 16 + 5, 16), torch.randn(2, 37, 16)
    k = part.k_proj(keys)
    cells = [rotate(k[:, at : at + 16], rotary) for at in (0, 16)]
    q, k = rotate(part.q_proj(x), rotary), torch.cat([*cells, k[:, 32:]], dim=1)
    expected = part.out_proj(F.scaled_dot_product_attention(q, k, part.v_proj(values)))
    assert torch.allclose(part.to_memory(x, MemoryTokens(keys, values, 32), rotary), expected, atol=1e-5)


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("keys", [100, 600])
def test_attention_is_the_library_s_in_any_precision(keys, tiles, monkeypatch):
    monkeypatch.setattr("masklet.model.layers.has_matrix_tiles", lambda: tiles)
    q, k, v = torch.randn(2, 3, 700, 16), torch.randn(2, 3, keys, 16), torch.randn(2, 3, keys, 16)
    expected = F.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(attend(q, k, v), expected, atol=1e-5)
    half = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half - expected).abs().max() < 0.05
    averaged = weighted_average(q[0], k[0], v[0])
    assert torch.allclose(averaged, expected[0], atol=1e-5)
    narrow = weighted_average(q[0].bfloat16(), k[0].bfloat16(), v[0, ..., :8].bfloat16())
    assert narrow.shape == (3, 700, 8) and (narrow - expected[0, ..., :8]).abs().max() < 0.05
    fused = _fused_average(q[0], k[0], v[0, ..., :8])  # what accelerators take
    assert torch.allclose(fused, expected[0, ..., :8], atol=1e-5)


@torch.no_grad()
def test_new_weights_count_at_once(mini):
    """What is derived from weights follows them, in place, after a load and in another precision."""
    network, image = mini(seed=0), torch.randn(1, 3, 64, 64)
    before = network.encode_image(image).embedding
    network.load_state_dict(mini(seed=1).state_dict())
    after = network.encode_image(image).embedding
    assert torch.equal(after, mini(seed=1).encode_image(image).embedding)
    assert not torch.equal(after, before)
    half = network.to_precision(torch.bfloat16).encode_image(image).embedding
    assert half.dtype == torch.bfloat16
    assert (half - after).norm() / after.norm() < 0.05


@torch.no_grad()
def test_a_copied_network_is_its_own(mini):
    network, image = mini(), torch.randn(1, 3, 64, 64)
    expected = network.encode_image(image).embedding
    copied = deepcopy(network)
    copied.image_encoder.trunk.pos_embed.add_(1)
    assert not torch.equal(copied.encode_image(image).embedding, expected)
    assert torch.equal(network.encode_image(image).embedding, expected)


def test_gradients_reach_every_weight_of_the_image_encoder(mini):
    network = mini().requires_grad_(True)
    features = network.encode_image(torch.randn(1, 3, 64, 64))
    (features.embedding.sum() + features.skips[0].sum() + features.skips[1].sum()).backward()
    missing = [name for name, p in network.image_encoder.named_parameters() if p.grad is None]
    assert missing == []


def test_drawn_weights_are_those_of_their_seed(mini):
    one, same, other = (mini(seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)
