from __future__ import annotations

import itertools

import pytest
from tests.loadtests.conftest import scenario

from masklet_load.scenario import Scenario
from masklet_load.scenario_file import load_scenario
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


def cut_by_storm(wanted: Scenario) -> dict[float, set[int]]:
    """Who is cut, by storm."""
    found: dict[float, set[int]] = {}
    for visit in plan_visits(wanted):
        for at_s in visit.cuts_s:
            found.setdefault(at_s, set()).add(visit.number)
    return dict(sorted(found.items()))


@pytest.mark.parametrize(
    ("streams", "share", "cut"), [(1, 0.5, 1), (2, 0.5, 1), (4, 0.5, 2), (5, 0.01, 1), (5, 1.0, 5), (100, 0.25, 25)]
)
def test_storms_cut_the_share_asked_for_of_however_many_cameras(streams: int, share: float, cut: int) -> None:
    found = cut_by_storm(scenario(streams=streams, storm_every_s=4.0, storm_share=share, duration_s=10.0))
    assert {at_s: len(who) for at_s, who in found.items()} == {4.0: cut, 8.0: cut}


def test_who_is_cut_follows_from_the_seed_and_differs_from_storm_to_storm() -> None:
    wanted = {"streams": 20, "storm_every_s": 2.0, "storm_share": 0.5, "duration_s": 9.0}
    found = cut_by_storm(scenario(**wanted))
    assert cut_by_storm(scenario(**wanted)) == found != cut_by_storm(scenario(**wanted, seed=1))
    assert len({frozenset(who) for who in found.values()}) == 4


def test_nobody_is_cut_without_a_share_and_no_storm_comes_at_the_end() -> None:
    assert not cut_by_storm(scenario(storm_every_s=2.0, duration_s=9.0))
    assert list(cut_by_storm(scenario(storm_every_s=3.0, storm_share=1.0, duration_s=9.0))) == [3.0, 6.0]


@pytest.mark.parametrize(("name", "storms", "cut"), [("soak", 14, 1), ("churn", 5, 2)])
def test_storms_of_the_tree_cut_their_share_between_changes_of_cameras(name: str, storms: int, cut: int) -> None:
    wanted = load_scenario(name, None, {})
    changes = {at_s for visit in plan_visits(wanted) for at_s in (visit.start_s, visit.end_s)}
    found = cut_by_storm(wanted)
    assert [len(who) for who in found.values()] == [cut] * storms
    assert min(abs(storm_s - at_s) for storm_s in found for at_s in changes) >= 1.0


@pytest.mark.parametrize("churn_per_s", [0.11, 0.2, 1 / 3, 0.99, 1.0, 7.0])
def test_storms_keep_apart_and_near_their_time_whatever_the_churn(churn_per_s: float) -> None:
    wanted = scenario(streams=3, churn_per_s=churn_per_s, storm_every_s=3.0, storm_share=0.4, duration_s=60.0)
    found = cut_by_storm(wanted)
    assert [len(who) for who in found.values()] == [1] * 19
    assert all(abs(at_s - 3.0 * number) <= 1.0 + 1e-9 for number, at_s in enumerate(found, 1))


def test_a_storm_finds_those_that_are_there() -> None:
    ramp = cut_by_storm(scenario(streams=8, ramp_s=8.0, storm_every_s=2.5, storm_share=0.5, duration_s=10.0))
    assert [len(who) for who in ramp.values()] == [2, 3, 4]  # of 3, 6 and 8


def test_phases_are_spread_unless_cameras_go_in_step() -> None:
    spread = sorted(visit.phase for visit in plan_visits(scenario(streams=10)))
    assert max(b - a for a, b in itertools.pairwise(spread)) < 0.2
    assert {visit.phase for visit in plan_visits(scenario(streams=10, in_step=True))} == {0.0}
