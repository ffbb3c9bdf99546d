from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from masklet.model.image_encoder import MultiScaleAttention, cut_windows, join_windows, max_pool, project_twice


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("height", "width", "side"), [(8, 8, 4), (6, 10, 4), (3, 3, 7), (14, 7, 7), (5, 5, 1)])
def test_windows_are_joined_as_they_were_cut(height, width, side):
    x = torch.randn(2, height, width, 3)
    windows = cut_windows(x, side, torch.tensor([7.0, 8.0, 9.0]))
    assert windows.shape == (2 * -(-height // side) * -(-width // side), side * side, 3)
    assert torch.equal(join_windows(windows, side, (height, width)), x)


def test_a_window_holds_its_cells_row_by_row_and_padding_beyond_the_edges():
    x = torch.arange(9.0).view(1, 3, 3, 1)
    windows = cut_windows(x, 2, torch.tensor([-1.0]))
    assert windows[..., 0].tolist() == [[0, 1, 3, 4], [2, -1, 5, -1], [6, 7, -1, -1], [8, -1, -1, -1]]


def test_max_pooling_takes_the_largest_of_four():
    x = torch.randn(2, 6, 4, 5)
    assert torch.equal(max_pool(x), F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1))


def reference_attention(part: MultiScaleAttention, x: Tensor) -> Tensor:
    """Pad with zeros to whole windows, attend window by window, crop: the published way, the slow way."""
    side = part.window or x.shape[1]
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    step = 2 if part.pool else 1
    out = torch.zeros(len(x), padded.shape[1] // step, padded.shape[2] // step, part.proj.out_features)
    for top in range(0, padded.shape[1], side):
        for left in range(0, padded.shape[2], side):
            window = padded[:, top : top + side, left : left + side]
            rows, columns = slice(top // step, (top + side) // step), slice(left // step, (left + side) // step)
            out[:, rows, columns] = attention_in(part, window)
    return out[:, : height // step, : width // step]


def attention_in(part: MultiScaleAttention, window: Tensor) -> Tensor:
    q, k, v = part.qkv(window).chunk(3, dim=-1)
    if part.pool:
        q = F.max_pool2d(q.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    shape = q.shape
    q, k, v = (t.flatten(1, 2).unflatten(2, (part.heads, -1)).transpose(1, 2) for t in (q, k, v))
    weights = torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5, dim=-1)
    out: Tensor = part.proj((weights @ v).transpose(1, 2).reshape(shape))
    return out


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize(("side", "window"), [(8, 4), (8, 8), (6, 4), (4, 14), (2, 4), (8, 0), (12, 8)])
@torch.no_grad()
def test_windowed_attention_is_the_reference_s_padding_included(side, window, pool):
    part = MultiScaleAttention(12, 24, heads=2, window=window, pool=pool)
    x = 2 * torch.randn(2, side, side, 12)
    assert torch.allclose(part(x), reference_attention(part, x), atol=1e-5)


@torch.no_grad()
def test_two_projections_in_one_are_the_two():
    first, second = torch.nn.Conv2d(6, 8, 1), torch.nn.Conv2d(8, 3, 1)
    x = torch.randn(2, 5, 4, 6)
    expected = second(first(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
    assert torch.allclose(project_twice(x, first, second), expected, atol=1e-5)
