from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from masklet.model import SAM2, image_encoder, variant_config
from masklet.model.cell_order import from_nested, max_pool_nested, nested_run, to_nested


@pytest.mark.parametrize(("height", "width", "side"), [(8, 8, 8), (16, 32, 4), (6, 10, 2), (5, 7, 1)])
def test_nested_order_is_undone(height, width, side):
    x = torch.randn(2, height, width, 3)
    assert torch.equal(from_nested(to_nested(x, side), side, (height, width)), x)


def test_aligned_windows_of_every_size_lie_one_after_the_other():
    x = torch.arange(16 * 16).view(1, 16, 16, 1)
    order = to_nested(x, 8)[0, :, 0]
    for side in (2, 4, 8):
        for window in order.view(-1, side * side):
            rows, columns = window // 16, window % 16
            assert {int(rows.min()) % side, int(columns.min()) % side} == {0}
            assert int(rows.max() - rows.min()) == int(columns.max() - columns.min()) == side - 1


def test_pooling_leaves_nested_order():
    x = torch.randn(2, 16, 8, 5)
    pooled = F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    assert torch.equal(from_nested(max_pool_nested(to_nested(x, 4)), 2, (8, 4)), pooled)


@pytest.mark.parametrize(
    ("height", "blocks", "expected"),
    [
        (80, [(8, False), (8, True), (8, False), (8, True), (0, False)], (5, 16)),
        (72, [(8, False), (8, True), (8, False)], (2, 8)),  # 16 does not divide it
        (64, [(8, False), (8, True), (4, False), (4, True), (14, False)], (4, 8)),  # 14 is no power of two
        (7, [(8, False)], (0, 1)),
        (64, [(0, False), (0, True)], (2, 2)),
    ],
)
def test_nested_order_carries_on_while_windows_fit(height, blocks, expected):
    assert nested_run(height, blocks) == expected


@pytest.mark.parametrize(
    ("variant", "size"), [("nano", 128), ("nano", 96), ("sam2.1_hiera_tiny", 256), ("sam2.1_hiera_base_plus", 128)]
)
@torch.no_grad()
def test_the_trunk_says_the_same_in_both_orders(monkeypatch, variant, size):
    trunk = SAM2(variant_config(variant, input_size=size)).image_encoder.trunk
    random = torch.Generator().manual_seed(0)
    for weight in trunk.parameters():
        weight.normal_(0, 0.05, generator=random)
    trunk.double()  # any sum's order shows only far behind the point
    images = torch.randn(2, 3, size, size, generator=random, dtype=torch.float64)
    nested = trunk(images)
    monkeypatch.setattr(image_encoder, "nested_run", lambda height, blocks: (0, 1))
    for ours, expected in zip(nested, trunk(images), strict=True):
        assert ours.shape == expected.shape
        assert torch.allclose(ours, expected, atol=1e-9)
