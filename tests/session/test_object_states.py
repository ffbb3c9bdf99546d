from __future__ import annotations

import numpy as np

from masklet.session.object_states import ObjectStates
from masklet.types import ObjectMask, ObjectState

V, A, R, L = ObjectState.VISIBLE, ObjectState.ABSENT, ObjectState.REAPPEARED, ObjectState.LOST


def seen(present: bool, object_id: int = 1) -> list[ObjectMask]:
    return [ObjectMask(object_id, np.full((2, 2), present), 1.0 if present else -1.0, 0.5)]


def walk(states: ObjectStates, *presences: bool) -> list[ObjectState]:
    return [states.advance(seen(present))[1] for present in presences]


def test_an_object_comes_and_goes() -> None:
    assert walk(ObjectStates(10), True, True, False, False, True, True) == [V, V, A, A, R, V]


def test_an_object_is_lost_once_absent_for_longer_than_the_limit() -> None:
    assert walk(ObjectStates(2), True, False, False, False, False, True) == [V, A, A, L, L, R]


def test_an_object_without_a_pixel_is_absent_whatever_its_score() -> None:
    empty = [ObjectMask(1, np.zeros((2, 2), np.bool_), 8.0, 0.5)]
    states = ObjectStates(10)
    assert [states.advance(found)[1] for found in (seen(True), empty, seen(True))] == [V, A, R]


def test_a_removed_object_starts_anew() -> None:
    states = ObjectStates(10)
    walk(states, True, False)
    states.forget([1])
    assert walk(states, True) == [V]


def test_an_object_not_listed_is_forgotten() -> None:
    states = ObjectStates(10)
    walk(states, False)
    states.advance([])
    assert walk(states, True) == [V]


def test_correcting_the_newest_frame_changes_the_count() -> None:
    states = ObjectStates(10)
    walk(states, True, False)
    assert states.revise(seen(True), newest=True)[1] is V
    assert walk(states, True) == [V]


def test_correcting_the_newest_frame_after_an_absence_means_reappeared() -> None:
    states = ObjectStates(10)
    walk(states, False, False)
    assert states.revise(seen(True), newest=True)[1] is R


def test_correcting_an_older_frame_leaves_the_count() -> None:
    states = ObjectStates(1)
    walk(states, True, False)
    assert states.revise(seen(True), newest=False)[1] is V
    assert walk(states, False) == [L]


def test_clear_forgets_all() -> None:
    states = ObjectStates(10)
    walk(states, False)
    states.clear()
    assert walk(states, True) == [V]
