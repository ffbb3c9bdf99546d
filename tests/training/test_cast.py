"""Who plays in a scene."""

import numpy as np

from masklet.training.assets import AssetBank
from masklet.training.cast import Casting
from masklet.training.scene import SyntheticSettings

SCENERY = (np.full(3, 128, np.float32), np.full(3, 40, np.float32))


def _casting(seed: int, **settings: float) -> Casting:
    wanted = SyntheticSettings(**{"distractor": 0.0, "occluder": 0.0, **settings})  # type: ignore[arg-type]
    return Casting(np.random.default_rng(seed), AssetBank.procedural(), wanted, SCENERY)


def test_every_target_is_cast_once() -> None:
    assert sorted(actor.target or 0 for actor in _casting(0).cast(3)) == [0, 1, 2]


def test_a_look_alike_has_a_targets_parts_and_a_way_of_its_own() -> None:
    actors = _casting(1, distractor=1.0).cast(1)
    copy, target = sorted(actors, key=lambda actor: actor.target is not None)
    assert copy.target is None and copy.parts is target.parts
    assert not np.allclose(copy.path, target.path)


def test_copies_may_be_targets_of_their_own() -> None:
    drawn = [_casting(seed, distractor=1.0, look_alikes=3, copied_targets=1.0).cast(2) for seed in range(30)]
    assert all({actor.target for actor in actors} == set(range(len(actors))) for actors in drawn)
    never = [_casting(seed, distractor=1.0, look_alikes=3).cast(2) for seed in range(30)]
    assert all({actor.target for actor in actors} == {0, 1, None} for actors in never)


def test_there_are_as_many_look_alikes_as_wanted_at_most() -> None:
    counts = [len(_casting(seed, distractor=1.0, look_alikes=3).cast(2)) - 2 for seed in range(30)]
    assert set(counts) == {1, 2, 3}


def test_an_occluder_meets_a_target() -> None:
    for seed in range(10):
        actors = _casting(seed, occluder=1.0, excursion=0.0).cast(1)
        occluder, target = sorted(actors, key=lambda actor: actor.target is not None)
        distance = np.hypot(*(occluder.path[:, :2, 2] - target.path[:, :2, 2]).T)
        assert distance[1:].min() < 1e-6


def test_part_targets_count_exactly_one_part() -> None:
    for seed in range(10):
        (actor,) = _casting(seed, limbs=1.0, part=1.0).cast(1)
        assert len(actor.parts) >= 2 and sum(part.counts for part in actor.parts) == 1


def test_whole_targets_count_all_their_parts() -> None:
    (actor,) = _casting(3, limbs=1.0, part=0.0).cast(1)
    assert len(actor.parts) >= 2 and all(part.counts for part in actor.parts)
