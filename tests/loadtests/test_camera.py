from __future__ import annotations

import asyncio

import pytest
from tests.loadtests.conftest import load, scenario, service

from masklet.backends.fake import Delay, Hold
from masklet.errors import AdmissionRefused, BackendUnavailable
from masklet.v1 import segmentation_pb2 as pb
from masklet_load.link import Link
from masklet_load.run import summaries
from masklet_load.tally import Frames, Tally
from masklet_load.verdict import MET, judge


def accounted(frames: Frames) -> int:
    return frames.answered + frames.dropped.total() + frames.unanswered + frames.unaccounted


async def test_every_frame_is_due_at_its_rate_and_answered() -> None:
    with service() as served:
        base = (await load(scenario(), served.address))["base"]
    frames = base.measured
    assert 0 < frames.due <= 40
    assert (frames.sent, frames.answered, len(base.latency), frames.surplus) == (frames.due, frames.due, frames.due, 0)
    assert (base.sessions["opened"], base.sessions["closed"]) == (2, 2)


async def test_drops_are_counted_by_reason_and_the_books_balance() -> None:
    with service(step_s=0.1) as served:
        frames = (await load(scenario(policy="latest"), served.address))["base"].measured
    assert frames.dropped["queue_full"] > 10
    assert (frames.sent, frames.unaccounted) == (accounted(frames), 0)


async def test_latency_counts_from_the_due_time_of_frames_that_had_to_wait() -> None:
    with service([Delay(1.0, step=10)]) as served:
        base = (await load(scenario(streams=1, duration_s=2.0), served.address))["base"]
    assert base.measured.answered == base.measured.due > 30
    # Frames due during the stall waited 1.0, 0.95, 0.9 ... seconds: a quarter of all waited for half a second or more.
    assert base.latency.quantile_ms(75) > 400
    assert base.latency.quantile_ms(100) > 950


async def test_late_frames_are_sent_all_the_same() -> None:
    with service([Delay(1.0, step=5)]) as served:
        base = (await load(scenario(streams=1, rate_hz=100.0, height=480, width=640), served.address))["base"]
    assert (base.measured.sent, base.measured.unsent) == (base.measured.due, 0)
    assert base.sending.quantile_ms(100) > 200  # flow control made them wait


async def test_lag_is_the_generators_own_and_not_the_servers() -> None:
    with service([Delay(1.0, step=10)]) as served:
        quiet = (await load(scenario(streams=1), served.address))["base"]
        loop = asyncio.get_running_loop()
        loop.call_later(1.5, block_the_loop)
        busy = (await load(scenario(streams=1, duration_s=4.0), served.address))["base"]
    assert len(quiet.lag) > 0
    assert max_ms(busy) > 1900
    assert max_ms(quiet) < 900  # the server's second is not in it


def block_the_loop() -> None:
    import time

    time.sleep(2.0)


def max_ms(tally: Tally) -> float:
    return min(tally.lag.quantile_ms(100), tally.loop_lag.quantile_ms(100))


async def test_refused_cameras_are_counted_with_what_they_were_told_to_wait() -> None:
    with service(max_sessions=2) as served:
        tallies = await load(scenario(streams=2, spike_streams=1, spike_at_s=0.3), served.address)
    base, spike = tallies["base"], tallies["spike"]
    assert base.measured.answered == base.measured.due > 0
    assert (spike.sessions["refused"], spike.sessions["never opened"]) == (1, 1)
    assert (dict(spike.retry_after_s), spike.reasons["open: ADMISSION_REFUSED"]) == ({1.0: 1}, 1)
    assert spike.measured.due == 0  # it was told not to come


async def test_frames_due_during_an_outage_at_the_opening_are_unsent() -> None:
    wanted = scenario(streams=1, duration_s=3.0, slo_ms=60_000.0)
    with service(open_s=1.5) as served:
        tallies = await load(wanted, served.address)
    frames = tallies["base"].measured
    assert (frames.due, frames.answered) == (60, frames.sent)
    assert frames.unsent >= 30
    assert tallies["base"].latency.quantile_ms(100) > 1400  # they waited in vain
    why = judge(summaries(tallies, wanted)["all"], wanted).why
    assert len(why) == 1
    assert "of the frames had no result" in why[0]


async def test_an_opening_within_the_grace_is_excused() -> None:
    wanted = scenario(streams=1, duration_s=2.0, slo_ms=450.0)
    with service(open_s=0.5) as served:
        tallies = await load(wanted, served.address)
    frames = tallies["base"].measured
    assert (frames.unsent, frames.answered) == (0, frames.due)
    assert 0 < frames.due <= 30
    assert judge(summaries(tallies, wanted)["all"], wanted).outcome == MET


async def test_all_frames_of_a_camera_that_never_finds_a_server_are_unsent() -> None:
    base = (await load(scenario(streams=1), "127.0.0.1:1"))["base"]
    assert (base.measured.due, base.measured.unsent, base.sessions["never opened"]) == (20, 20, 1)


async def test_a_refusal_excuses_its_pause_but_no_outage_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = [AdmissionRefused("full", retry_after_s=0.5)]

    async def answer(link: Link, wanted: pb.Open) -> pb.TrackResponse:
        raise refusals.pop() if refusals else BackendUnavailable("gone")

    monkeypatch.setattr(Link, "open", answer)
    frames = (await load(scenario(streams=1, duration_s=2.0), "127.0.0.1:1"))["base"].measured
    assert frames.unsent == frames.due
    assert 20 <= frames.due <= 30


async def test_cut_connections_are_resumed_and_no_frame_is_lost() -> None:
    with service() as served:
        wanted = scenario(duration_s=7.0, storm_every_s=2.0, storm_share=1.0)
        base = (await load(wanted, served.address))["base"]
    assert base.sessions["connections cut"] == 6
    assert (base.sessions["resumed intact"], base.sessions["lost"]) == (6, 0)
    assert base.measured.answered == base.measured.due
    assert len(base.outages) == 6


async def test_a_server_that_never_answers_leaves_frames_unanswered_and_their_wait_counts() -> None:
    with service([Hold(asyncio.Event(), step=None)]) as served:
        base = (await load(scenario(streams=1, drain_s=0.5), served.address))["base"]
    frames = base.measured
    assert (frames.answered, frames.unanswered + frames.unsent) == (0, frames.due)
    assert accounted(frames) == frames.sent > 0
    assert base.latency.quantile_ms(100) > 1000
    assert base.sessions["cut off after drain_s"] == 1


async def test_cameras_of_a_draining_server_go_on_elsewhere() -> None:
    with service() as first, service() as second:
        asyncio.get_running_loop().call_later(0.5, first.drain)
        wanted = scenario(streams=1, duration_s=1.5)
        base = (await load(wanted, first.address, second.address))["base"]
    frames = base.measured
    assert (base.sessions["told to go away"], base.sessions["connections lost"]) == (1, 1)
    assert (frames.sent, frames.unaccounted) == (accounted(frames), 0)
    assert frames.answered >= frames.due - 5


async def test_corrections_are_mixed_in_and_timed() -> None:
    with service() as served:
        base = (await load(scenario(corrections=0.5, objects=2), served.address))["base"]
    corrections = len(base.prompts) - 2 * 2  # those that open the sessions
    assert 5 <= corrections <= 30
    assert not base.reasons
