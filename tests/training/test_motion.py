"""Paths of cameras and objects."""

import numpy as np
import pytest

from masklet.training import motion
from masklet.training.motion import Liveliness

SIZE = (100, 160)


def test_camera_starts_in_the_middle_of_the_world() -> None:
    for seed in range(10):
        camera = motion.camera_path(np.random.default_rng(seed), 6, SIZE, lively=Liveliness(shift=0.0, kicks=0.0))
        assert np.abs(camera[0, :2, 2] - (80, 50)).max() < 8


@pytest.mark.parametrize("seed", range(10))
def test_extent_covers_all_the_camera_sees(seed: int) -> None:
    camera = motion.camera_path(np.random.default_rng(seed), 20, SIZE, lively=Liveliness(0.1, 0.1, 0.1))
    half_x, half_y = motion.extent(camera, SIZE)
    points = np.random.default_rng(1).uniform((0, 0), (160, 100), (50, 2))
    seen = np.linalg.inv(camera) @ np.concatenate([points, np.ones((50, 1))], 1).T
    assert np.abs(seen[:, 0]).max() <= half_x and np.abs(seen[:, 1]).max() <= half_y


def test_object_begins_at_its_start() -> None:
    path = motion.object_path(np.random.default_rng(2), 8, SIZE, start=(12.0, -7.0), lively=Liveliness())
    assert np.allclose(path[0, :2, 2], (12, -7))


def test_livelier_objects_move_further() -> None:
    def travel(shift: float) -> float:
        lively = Liveliness(shift, 0.0, 0.0, 0.0)
        paths = [motion.object_path(np.random.default_rng(s), 8, SIZE, start=(0, 0), lively=lively) for s in range(20)]
        return float(np.mean([np.abs(path[-1, :2, 2]).max() for path in paths]))

    assert travel(0.05) > 3 * travel(0.01)


def test_walk_of_one_frame_stands_still() -> None:
    assert not motion.wander(np.random.default_rng(0), 1, 3).any()


def test_swinging_limb_stays_on_its_hinge() -> None:
    at, hinge = np.asarray([5.0, 3.0]), np.asarray([0.0, 10.0])
    joint = motion.swing(np.random.default_rng(0), 9, at=at, hinge=hinge)
    assert np.allclose((joint @ (0, 10, 1))[:, :2], at)
    assert np.ptp(joint[:, 0, 0]) > 0.01


def test_excursion_begins_here_and_gets_away() -> None:
    for seed in range(20):
        away = motion.excursion(np.random.default_rng(seed), 12)
        assert away[0] < 0.6 and away.max() > 0.45 and away.min() >= 0 and away.max() <= 1
