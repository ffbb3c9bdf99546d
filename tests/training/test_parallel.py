"""Which card each process takes."""

from __future__ import annotations

import pytest
import torch

from masklet.training.parallel import local_device


@pytest.mark.parametrize(
    ("name", "cards", "expected"),
    [
        ("auto", True, "cuda:3"),
        ("cuda", True, "cuda:3"),
        ("cuda:1", True, "cuda:1"),
        ("cpu", True, "cpu"),
        ("auto", False, "auto"),
    ],
)
def test_each_process_of_torchrun_has_its_own_card(name, cards, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert local_device(name) == name
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device(name) == expected
