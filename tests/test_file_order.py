from __future__ import annotations

from pathlib import Path

import pytest

from masklet.file_order import frame_order


@pytest.mark.parametrize(
    "names",
    [
        ["1.png", "2.png", "10.png", "12.png"],
        ["frame_9.jpg", "frame_10.jpg", "frame_011.jpg"],
        ["00000.jpg", "00001.jpg", "00010.jpg"],
        ["01.png", "1.png", "2.png"],
        ["a/2.png", "a/10.png", "b/1.png"],
        ["x.png", "²³.png"],
    ],
)
def test_numbers_are_read_as_numbers(names: list[str]) -> None:
    paths = [Path(name) for name in names]
    shuffled = paths[::-1]
    shuffled.sort(key=frame_order)
    assert shuffled == paths
