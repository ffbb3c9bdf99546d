"""What is left out while training is left out at the rate asked for, and only then."""

from __future__ import annotations

import pytest
import torch
from tests.training.conftest import drifting_squares
from torch import Tensor

from masklet.model import SAM2, build
from masklet.model.layers import DropPath
from masklet.model.memory_attention import MemoryAttentionLayer, MemoryTokens
from masklet.model.position import axial_rotary
from masklet.training.regularise import RegularisationSettings, regularise, seeded

ROTARY = axial_rotary(4, 32)
DEVICE = torch.device("cpu")


def layer() -> MemoryAttentionLayer:
    torch.manual_seed(0)
    return MemoryAttentionLayer(32, 16)


def attended(part: MemoryAttentionLayer, rows: int = 2) -> Tensor:
    """[rows, 16, 32]: all rows are given the same."""
    random = torch.Generator().manual_seed(1)
    x, keys, values = (torch.randn(1, *shape, generator=random) for shape in ((16, 32), (37, 16), (37, 16)))
    memory = MemoryTokens(keys.expand(rows, -1, -1), values.expand(rows, -1, -1), 32)
    out: Tensor = part.attend_memory(part.attend_self(x.expand(rows, -1, -1), ROTARY), memory, ROTARY)
    return out


def test_a_dropped_path_is_left_out_for_whole_items_and_scaled_up_for_the_others():
    path = DropPath().train()
    path.rate = 0.25
    dropped = path(torch.ones(4000, 2, 3))
    assert sorted(dropped.unique().tolist()) == [0.0, pytest.approx(4 / 3)]
    assert torch.equal(dropped[:, :1, :1].expand(-1, 2, 3), dropped)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.03)  # standard error 0.009
    assert torch.equal(path.eval()(torch.ones(5, 2)), torch.ones(5, 2))


def test_blocks_are_left_out_the_more_often_the_later_they_come():
    network = build("nano", seed=0)
    regularise(network, RegularisationSettings(drop_path=0.3))
    rates = [module.rate for module in network.modules() if isinstance(module, DropPath)]
    steps = torch.tensor(rates).diff()
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.3) and len(rates) == len(network.image_encoder.trunk.blocks)
    assert torch.allclose(steps, steps[0])


@torch.no_grad()
def test_attention_that_drops_nothing_is_that_of_serving():
    part = layer()
    expected = attended(part)
    part.set_dropout(1e-9)
    assert torch.allclose(attended(part.train()), expected, atol=1e-5)


@torch.no_grad()
def test_dropped_attention_weights_leave_the_mean_as_it_is():
    part = layer()
    part.cross_attn_image.dropout = 0.3
    expected, found = attended(part.eval()), attended(part.train(), rows=4000)
    apart = (found.mean(dim=0) - expected[0]).abs()  # not 0, since the MLP after it is not linear
    noise = found.std(dim=0)
    assert float(noise.mean()) > 0.02
    assert float((apart / noise).mean()) < 0.1


@torch.no_grad()
@pytest.mark.parametrize("where", ["self_attn", "cross_attn_image", "dropout"])
def test_every_place_drops_while_training_alone(where):
    part = layer()
    part.set_dropout(0.5)
    others = {"self_attn", "cross_attn_image"} - {where}
    for name in others:
        getattr(part, name).dropout = 0.0
    if where != "dropout":
        part.dropout.p = 0.0
    first, second = attended(part.train())
    assert not torch.equal(first, second)
    first, second = attended(part.eval())
    assert torch.equal(first, second)


def test_what_is_left_out_follows_from_the_seed_and_leaves_other_draws_alone():
    torch.manual_seed(3)
    undisturbed = torch.rand(4)
    torch.manual_seed(3)
    with seeded(7, DEVICE):
        first = torch.rand(4)
    assert torch.equal(torch.rand(4), undisturbed)
    with seeded(7, DEVICE):
        assert torch.equal(torch.rand(4), first)
    with seeded(8, DEVICE):
        assert not torch.equal(torch.rand(4), first)


@torch.no_grad()
def test_a_served_network_is_not_touched():
    frame = torch.from_numpy(drifting_squares(1, frames=1).frames).permute(0, 3, 1, 2).float() / 255

    def features(network: SAM2) -> Tensor:
        return network.encode_image(frame).embedding

    plain, regularised = build("mini", seed=2), build("mini", seed=2)
    regularise(regularised, RegularisationSettings(drop_path=0.5, dropout=0.5))
    assert torch.equal(features(plain.eval()), features(regularised.eval()))
    assert not torch.equal(features(plain.eval()), features(regularised.train()))
