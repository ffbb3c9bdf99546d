from __future__ import annotations

from collections.abc import Callable

import pytest

from masklet.model import SAM2, HieraConfig, SAM2Config
from masklet.model.stand_in import draw

MakeNetwork = Callable[..., SAM2]


def mini_config(size: int = 64, *, new: bool = True) -> SAM2Config:
    """The whole architecture, a thousandth of its size."""
    trunk = HieraConfig(16, 1, (1, 2, 2, 1), (4,))
    return SAM2Config(
        "mini", trunk, input_size=size, occlusion_embedding=new, pointer_positions=new, dim=64, memory_dim=16
    )


@pytest.fixture
def mini() -> MakeNetwork:
    """Makes small networks with weights drawn from a seed."""

    def make(size: int = 64, *, new: bool = True, seed: int = 0) -> SAM2:
        network = SAM2(mini_config(size, new=new)).eval().requires_grad_(False)
        draw(network, seed)
        return network

    return make
