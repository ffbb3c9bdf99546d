from __future__ import annotations

import pytest
from tests.loadtests.conftest import load, scenario, service

from masklet.backends.fake import Delay
from masklet_load.report import Level, Summary, Verdict, summarise
from masklet_load.run import Test as LoadTest
from masklet_load.run import summaries
from masklet_load.search import find_capacity
from masklet_load.served import Served
from masklet_load.tally import Moments, Tally
from masklet_load.verdict import MET, MISSED, VOID, judge


def empty() -> Summary:
    return summarise(Tally(Moments(1.0)), scenario())


@pytest.mark.parametrize(("limit", "first"), [(1, 1), (5, 1), (6, 4), (37, 1), (3, 64), (0, 2)])
async def test_the_search_finds_the_limit(limit: int, first: int) -> None:
    async def measure(streams: int) -> Level:
        return Level(streams, Verdict(MET if streams <= limit else MISSED), empty())

    capacity, levels, verdict = await find_capacity(measure, first=first, most=64)
    assert (capacity, verdict) == (limit, Verdict(MET))
    missed = [level.streams for level in levels if level.streams > limit]
    assert all(missed.count(streams) == 2 for streams in missed)
    assert len({level.streams for level in levels}) <= 12


@pytest.mark.parametrize("bad", [Verdict(MISSED), Verdict(VOID, ("lag",))])
async def test_one_bad_minute_does_not_count(bad: Verdict) -> None:
    disturbed = [4]

    async def measure(streams: int) -> Level:
        if streams in disturbed:
            disturbed.remove(streams)
            return Level(streams, bad, empty())
        return Level(streams, Verdict(MET if streams <= 5 else MISSED), empty())

    capacity, levels, verdict = await find_capacity(measure, first=1, most=12)
    assert (capacity, verdict.outcome) == (5, MET)
    assert [level.streams for level in levels] == [1, 2, 4, 4, 8, 8, 6, 6, 5]


async def test_a_level_that_missed_has_missed_even_if_its_second_try_was_void() -> None:
    async def measure(streams: int) -> Level:
        tried.append(streams)
        if streams <= 2:
            return Level(streams, Verdict(MET), empty())
        return Level(streams, Verdict(MISSED) if tried.count(streams) == 1 else Verdict(VOID, ("lag",)), empty())

    tried = list[int]()
    capacity, _, verdict = await find_capacity(measure, first=1, most=12)
    assert (capacity, verdict) == (2, Verdict(MET))


async def test_a_limit_by_admission_is_told() -> None:
    async def measure(streams: int) -> Level:
        refused = Verdict(MISSED, ("1 sessions refused", "1 sessions never opened"))
        return Level(streams, Verdict(MET) if streams <= 3 else refused, empty())

    capacity, _, verdict = await find_capacity(measure, first=1, most=12)
    assert capacity == 3
    assert "the limit is what the server admits" in verdict.why[0]


async def test_the_report_is_of_the_try_that_counts() -> None:
    wanted = scenario(streams=1, rate_hz=10.0, slo_ms=1500.0, drain_s=6.0)
    with service([Delay(3.0, step=5)]) as served:  # once
        report = await LoadTest("c", wanted, Served((served.address,)), 1, {}).search(
            first=1, most=1, tell=lambda level: None
        )
    assert [level.verdict.outcome for level in report.levels] == [MISSED, MET]
    assert report.groups["all"] is report.levels[1].summary
    assert "1 streams met it in the second try" in report.verdict.why


@pytest.mark.parametrize(("room", "outcome"), [(2, MET), (9, MISSED)])
async def test_beyond_capacity_newcomers_have_to_be_refused(room: int, outcome: str) -> None:
    wanted = scenario(streams=2, spike_streams=1, spike_at_s=0.2, slo_ms=60_000.0, retry_refused=False)
    with service(max_sessions=room) as served:
        report = await LoadTest("o", wanted, Served((served.address,)), 1, {}, refusals_allowed=True).run()
    assert (report.verdict.outcome, *report.verdict.why) in (
        (MET,),
        (MISSED, "none of 1 newcomers was refused"),
    )
    assert report.verdict.outcome == outcome


async def test_the_search_stops_at_the_most_that_is_to_be_tried_and_says_so() -> None:
    async def measure(streams: int) -> Level:
        return Level(streams, Verdict(MET), empty())

    capacity, levels, verdict = await find_capacity(measure, first=1, most=12)
    assert (capacity, [level.streams for level in levels]) == (12, [1, 2, 4, 8, 12])
    assert "12 streams, the most that were to be tried" in verdict.why[0]


async def test_a_generator_that_is_too_slow_makes_the_result_void() -> None:
    async def measure(streams: int) -> Level:
        return Level(streams, Verdict(MET) if streams < 4 else Verdict(VOID, ("lag",)), empty())

    capacity, _, verdict = await find_capacity(measure, first=1, most=12)
    assert (capacity, verdict) == (2, Verdict(VOID, ("at 4 streams: lag",)))


async def test_the_capacity_of_a_real_server_is_what_it_admits() -> None:
    wanted = scenario(streams=1, rate_hz=5.0, slo_ms=60_000.0, drain_s=2.0)
    with service(max_sessions=3) as served:
        test = LoadTest("capacity", wanted, Served((served.address,)), 2, {})
        report = await test.search(first=2, most=8, tell=lambda level: None)
    assert (report.capacity, report.verdict.outcome) == (3, MET)
    assert [level.streams for level in report.levels] == [2, 4, 4, 3]
    assert any("sessions refused" in why for why in report.levels[1].verdict.why)


async def test_a_server_that_is_too_slow_misses_the_slo() -> None:
    wanted = scenario(streams=4, rate_hz=20.0, slo_ms=300.0)  # 80 frames/s offered, 20 served
    with service(step_s=0.05) as served:
        summary = summaries(await load(wanted, served.address), wanted)["all"]
    verdict = judge(summary, wanted)
    assert verdict.outcome == MISSED
    assert "p99 latency is" in verdict.why[0]


async def test_the_generators_own_lag_makes_a_level_void() -> None:
    wanted = scenario(streams=1, lag_ms=0.001)
    with service() as served:
        summary = summaries(await load(wanted, served.address), wanted)["all"]
    assert judge(summary, wanted).outcome == VOID
