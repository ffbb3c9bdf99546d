"""What is done differently with gradients, against the library's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from masklet.model import layers
from masklet.model.layers import LayerNorm2d, attend, resize


@pytest.mark.parametrize(("side", "size"), [(16, 64), (5, 32), (12, 18), (64, 16), (7, 7)])
def test_resizing_with_gradients_is_the_librarys(side, size):
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side), requires_grad=True)
    ours, theirs = resize(x, size), F.interpolate(x, (size, size), mode="bilinear", align_corners=False)
    towards = torch.randn(ours.shape, generator=torch.Generator().manual_seed(size))
    assert torch.allclose(ours, theirs, atol=1e-6)
    gradient, expected = (torch.autograd.grad(y, x, towards)[0] for y in (ours, theirs))
    assert torch.allclose(gradient, expected, atol=1e-4)


def test_resizing_without_gradients_is_the_librarys_bit_for_bit():
    x = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize(x, 64), F.interpolate(x, (64, 64), mode="bilinear", align_corners=False))


@pytest.mark.parametrize("channels", [4, 64])
def test_the_norm_with_gradients_is_the_librarys(channels):
    norm = LayerNorm2d(channels)
    random = torch.Generator().manual_seed(channels)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels, generator=random))
        norm.bias.copy_(torch.randn(channels, generator=random))
    x = torch.randn(2, channels, 6, 6, generator=random, requires_grad=True)
    theirs = F.layer_norm(x.movedim(1, 3), (channels,), norm.weight, norm.bias, 1e-6).movedim(3, 1)
    assert torch.allclose(norm(x), theirs, atol=1e-5)
    towards = torch.randn(x.shape, generator=random)
    ours_, theirs_ = (torch.autograd.grad(y, (x, norm.weight, norm.bias), towards) for y in (norm(x), theirs))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours_, theirs_, strict=True))


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(8, 8), (8, 700), (700, 8), (16, 64), (64, 16), (300, 300), (70, 600)])
def test_attention_in_bfloat16_is_attention_whatever_there_is_few_of(monkeypatch, tiles, queries, keys):
    monkeypatch.setattr(layers, "has_matrix_tiles", lambda: tiles)
    random = torch.Generator().manual_seed(queries + keys)
    q, k, v = (2 * torch.randn(2, 4, n, 16, generator=random) for n in (queries, keys, keys))
    expected = torch.softmax(q @ k.transpose(2, 3) / 4, dim=-1) @ v
    found = attend(q.bfloat16(), k.bfloat16(), v.bfloat16()).float()
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_the_norm_of_few_channels_in_bfloat16_is_the_librarys():
    random = torch.Generator().manual_seed(0)
    norm = LayerNorm2d(4).bfloat16().requires_grad_(False)
    norm.weight.copy_(torch.randn(4, generator=random))
    x = torch.randn(2, 4, 6, 6, generator=random).bfloat16()
    theirs = F.layer_norm(x.movedim(1, 3).float(), (4,), norm.weight.float(), norm.bias.float(), 1e-6).movedim(3, 1)
    assert torch.allclose(norm(x).float(), theirs, atol=0.02)
