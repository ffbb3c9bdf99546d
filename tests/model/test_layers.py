"""The bilinear resize with gradients, against the library's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from masklet.model.layers import resize


@pytest.mark.parametrize(("side", "size"), [(16, 64), (5, 32), (12, 18), (64, 16), (7, 7)])
def test_resizing_with_gradients_is_the_librarys(side, size):
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side), requires_grad=True)
    ours, theirs = resize(x, size), F.interpolate(x, (size, size), mode="bilinear", align_corners=False)
    towards = torch.randn(ours.shape, generator=torch.Generator().manual_seed(size))
    assert torch.allclose(ours, theirs, atol=1e-6)
    gradients = [torch.autograd.grad(y, x, towards)[0] for y in (ours, theirs)]
    assert torch.allclose(*gradients, atol=1e-4)


def test_resizing_without_gradients_is_the_librarys_bit_for_bit():
    x = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize(x, 64), F.interpolate(x, (64, 64), mode="bilinear", align_corners=False))
