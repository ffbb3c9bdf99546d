"""Linear layers in their packed form."""

import pytest
import torch
from torch import nn

from masklet.engine import packing
from masklet.engine.packing import can_pack, pack_linear_layers
from masklet.model.layers import MLP
from masklet.model.memory_attention import MemoryAttentionLayer


class _Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gelus, self.relus = MLP((48, 96, 48), activation=nn.GELU), MLP((48, 32, 16))
        self.plain, self.without_bias = nn.Linear(48, 24), nn.Linear(48, 24, bias=False)

    def forward(self, x):
        return torch.cat((self.gelus(x), self.relus(x), self.plain(x), self.without_bias(x)), dim=-1)


def _parts(dtype=torch.bfloat16):
    torch.manual_seed(0)
    return _Parts().to(dtype).requires_grad_(False)


@pytest.mark.parametrize("shape", [(1, 48), (2, 7, 48), (2, 5, 5, 48)])
def test_packed_layers_answer_as_before(shape):
    network, x = _parts(), torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    before = network(x)
    assert pack_linear_layers(network) == (6 if can_pack() else 0)
    after = network(x)
    assert after.shape == before.shape and after.dtype == before.dtype
    assert (after.float() - before.float()).abs().max() < 0.02
    turned = x.movedim(0, -2)
    assert torch.equal(network(turned), network(turned.contiguous()))


def test_a_row_does_not_depend_on_its_batch():
    network, x = _parts(), torch.randn(9, 100, 48, generator=torch.Generator().manual_seed(2)).bfloat16()
    pack_linear_layers(network)
    assert torch.equal(network(x)[3:4], network(x[3:4]))


def test_the_memory_attentions_mlp_is_packed_with_its_activation():
    torch.manual_seed(0)
    layer = MemoryAttentionLayer(32, 8).bfloat16().requires_grad_(False)
    x = torch.randn(2, 9, 32).bfloat16()
    before = layer.widened(x)
    assert before.min() == 0
    pack_linear_layers(layer)
    assert ("widened" in vars(layer)) == can_pack()
    assert (layer.widened(x).float() - before.float()).abs().max() < 0.02


def test_float32_stays_as_it_is():
    network, x = _parts(torch.float32), torch.randn(3, 48)
    before = network(x)
    assert pack_linear_layers(network) == 0
    assert torch.equal(network(x), before)


def test_without_the_operators_nothing_changes(monkeypatch):
    monkeypatch.setattr(packing, "can_pack", lambda: False)
    network = _parts()
    assert pack_linear_layers(network) == 0
    assert all("forward" not in vars(module) for module in network.modules())
