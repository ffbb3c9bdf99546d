"""Position encodings against their formulas, one number at a time."""

from __future__ import annotations

import math

import pytest
import torch

from masklet.model.position import axial_rotary, rotate, sine_distance, sine_map


def divisor(channel: int, channels: int) -> float:
    return math.pow(10000, 2 * (channel // 2) / channels)


@pytest.mark.parametrize(("side", "dim"), [(4, 64), (5, 16), (1, 8)])
def test_sine_maps_are_y_then_x_each_sines_and_cosines_in_turn(side, dim):
    found, half = sine_map(side, dim), dim // 2
    assert found.shape == (side * side, dim)
    for cell in range(side * side):
        for channel in range(dim):
            place = (cell // side if channel < half else cell % side) + 1
            angle = place / (side + 1e-6) * 2 * math.pi / divisor(channel % half, half)
            expected = math.cos(angle) if channel % 2 else math.sin(angle)
            assert found[cell, channel].item() == pytest.approx(expected, abs=1e-5)


def test_distances_are_all_sines_then_all_cosines():
    distances = torch.tensor([[0.0, 1 / 15, 1.0], [2.0, 3.5, 7.0]])
    found = sine_distance(distances, 16)
    assert found.shape == (2, 3, 16)
    for row, column in ((0, 0), (0, 1), (1, 2)):
        angles = [distances[row, column].item() / divisor(channel, 8) for channel in range(8)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert found[row, column].tolist() == pytest.approx(expected, abs=1e-6)


def test_rotary_turns_the_first_planes_by_x_and_the_others_by_y():
    side, dim = 3, 16
    turned = rotate(torch.tensor([1.0, 0.0] * (dim // 2)).expand(side * side, dim), axial_rotary(side, dim))
    for cell in range(side * side):
        for plane in range(dim // 2):
            place = cell % side if plane < dim // 4 else cell // side
            angle = place / 10000 ** (4 * (plane % (dim // 4)) / dim)
            expected = [math.cos(angle), math.sin(angle)]
            assert turned[cell, 2 * plane : 2 * plane + 2].tolist() == pytest.approx(expected, abs=1e-6)


def test_rotated_products_depend_on_the_offset_between_cells_only():
    torch.manual_seed(0)
    side, rotary = 6, axial_rotary(6, 32)
    q, k = (rotate(torch.randn(32).expand(36, 32), rotary).view(side, side, 32) for _ in range(2))
    assert (q[1, 2] @ k[3, 5]).item() == pytest.approx((q[2, 1] @ k[4, 4]).item(), abs=1e-4)
    assert (q[1, 2] @ k[3, 5]).item() != pytest.approx((q[1, 2] @ k[4, 5]).item(), abs=1e-2)


def test_rotation_keeps_lengths_and_types():
    x = torch.randn(2, 3, 9, 16, generator=torch.Generator().manual_seed(1))
    rotary = axial_rotary(3, 16)
    assert torch.allclose(rotate(x, rotary).norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert rotate(x.bfloat16(), rotary).dtype == torch.bfloat16
