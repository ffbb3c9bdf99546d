from __future__ import annotations

import itertools

from tests.loadtests.conftest import scenario

from masklet_load.schedule import Visit, plan_visits


def on_at(visits: list[Visit], at_s: float) -> int:
    return sum(visit.start_s <= at_s < visit.end_s for visit in visits)


def test_steady_cameras_are_all_there_all_the_time() -> None:
    visits = plan_visits(scenario(streams=3, duration_s=10.0))
    assert [(visit.start_s, visit.end_s, visit.group) for visit in visits] == [(0.0, 10.0, "base")] * 3


def test_a_ramp_adds_cameras_one_by_one() -> None:
    visits = plan_visits(scenario(streams=4, ramp_s=8.0, duration_s=10.0))
    assert [on_at(visits, at) for at in (0.0, 2.0, 4.0, 6.0, 9.0)] == [1, 2, 3, 4, 4]


def test_a_spike_comes_at_once_and_goes() -> None:
    visits = plan_visits(scenario(streams=1, spike_streams=5, spike_at_s=3.0, spike_s=2.0, duration_s=10.0))
    assert [on_at(visits, at) for at in (2.9, 3.0, 4.9, 5.0)] == [1, 6, 6, 1]


def test_churn_replaces_cameras_and_keeps_their_number() -> None:
    visits = plan_visits(scenario(streams=2, churn_per_s=1.0, duration_s=10.0))
    assert len(visits) == 2 + 9
    assert {on_at(visits, at / 10) for at in range(100)} == {2}
    assert all(visit.end_s - visit.start_s <= 3.0 for visit in visits)


def test_storms_cut_the_share_asked_for() -> None:
    visits = plan_visits(scenario(streams=100, storm_every_s=4.0, storm_share=0.25, duration_s=10.0))
    cuts = [at for visit in visits for at in visit.cuts_s]
    assert set(cuts) == {4.0, 8.0}
    assert 40 <= len(cuts) <= 60


def test_phases_are_spread_unless_cameras_go_in_step() -> None:
    spread = sorted(visit.phase for visit in plan_visits(scenario(streams=10)))
    assert max(b - a for a, b in itertools.pairwise(spread)) < 0.2
    assert {visit.phase for visit in plan_visits(scenario(streams=10, in_step=True))} == {0.0}
