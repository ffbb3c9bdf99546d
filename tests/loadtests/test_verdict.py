"""What misses the SLO, what is only noted, and who is judged."""

from __future__ import annotations

import subprocess

import pytest
from tests.loadtests.conftest import load, scenario, service
from tests.loadtests.test_report import sample

from masklet.errors import AdmissionRefused
from masklet.v1 import prompt_pb2
from masklet.v1 import segmentation_pb2 as pb
from masklet_load import camera
from masklet_load.link import Link
from masklet_load.report import Report, Summary, summarise
from masklet_load.requests import click_request
from masklet_load.run import Test as LoadTest
from masklet_load.run import summaries
from masklet_load.scenario import Scenario
from masklet_load.served import Served
from masklet_load.table import headline, render
from masklet_load.tally import Moments, Tally
from masklet_load.verdict import MET, MISSED, compare, judge, newcomers_misses, not_compared, noted

PATIENT = scenario(slo_ms=60_000.0)


async def report(wanted: Scenario, *, refusals_allowed: bool = False, max_sessions: int = 64) -> Report:
    with service(max_sessions=max_sessions) as served:
        test = LoadTest("v", wanted, Served((served.address,)), 1, {}, refusals_allowed=refusals_allowed)
        return await test.run()


def spike(streams: int, newcomers: int) -> Scenario:
    """Newcomers that are refused stay away."""
    return scenario(streams=streams, spike_streams=newcomers, spike_at_s=0.4, slo_ms=60_000.0, retry_refused=False)


def summary(sessions: dict[str, int]) -> Summary:
    """Ten frames, answered at once."""
    tally = Tally(Moments(1.0))
    tally.measured.sent = tally.measured.answered = 10
    tally.latency.record(0.01)
    tally.sessions.update(sessions)
    return summarise(tally, PATIENT)


async def test_a_spike_has_to_be_served_like_the_others() -> None:
    found = await report(spike(2, 2), max_sessions=2)
    assert found.verdict.outcome == MISSED
    assert {"newcomers: 2 sessions refused", "newcomers: 2 sessions never opened"} <= set(found.verdict.why)
    assert headline(found) == "2 streams of 20 frames/s and 0 of 2 newcomers: SLO missed"
    found = await report(spike(2, 2), max_sessions=4)
    assert (found.verdict.outcome, found.verdict.why) == (MET, ())
    assert headline(found) == "2 streams of 20 frames/s and 2 of 2 newcomers: SLO met"


async def test_refusals_are_allowed_to_newcomers_alone() -> None:
    found = await report(spike(3, 1), refusals_allowed=True, max_sessions=2)
    assert found.verdict.outcome == MISSED
    assert found.verdict.why == ("1 sessions refused", "1 sessions never opened")
    assert headline(found).startswith("2 of 3 streams of 20 frames/s and 0 of 1 newcomers")


def test_newcomers_let_in_beyond_capacity_are_to_be_served_in_time() -> None:
    late = scenario(slo_ms=1.0)
    found = summary({"refused": 1, "planned": 2})
    assert newcomers_misses(found, late, to_be_refused=True) == (
        "1 of 1 refusals came without RetryInfo",
        "newcomers: p99 latency is 10 ms, at most 1 allowed",
    )


async def test_clicks_that_are_refused_and_objects_that_are_not_there_miss() -> None:
    wanted = scenario(objects=3, slo_ms=60_000.0)
    with service(max_objects=1) as served:
        base = summaries(await load(wanted, served.address), wanted)["all"]
    assert base.frames["answered"] == base.frames["due"] == base.frames["incomplete"] > 0
    assert judge(base, wanted).why == (
        f"{base.frames['answered']} results had fewer objects than were clicked",
        "4 requests failed: LIMIT_EXCEEDED",
    )


async def test_objects_that_have_left_the_picture_miss_nothing() -> None:
    wanted = scenario(streams=1, height=32, width=32, duration_s=3.0, slo_ms=60_000.0)
    with service() as served:
        base = summaries(await load(wanted, served.address), wanted)["all"]
    assert base.frames["answered"] > 40  # the fake's objects move a pixel a frame
    assert judge(base, wanted).outcome == MET


async def test_cameras_that_never_get_a_mask_miss_unless_the_weights_are_untrained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(object_id: int, point: tuple[float, float]) -> pb.TrackRequest:
        request = click_request(object_id, point)
        request.prompt.points.points[0].label = prompt_pb2.POINT_LABEL_EXCLUDE
        return request

    monkeypatch.setattr(camera, "click_request", nothing)
    with service() as served:
        base = summaries(await load(PATIENT, served.address), PATIENT)["all"]
    assert base.times["first_mask"].count == 0
    assert judge(base, PATIENT).why == ("2 cameras never got a mask",)
    assert judge(base, PATIENT, trained=False).outcome == MET
    assert noted(base, PATIENT, trained=False) == ("2 cameras never got a mask: the weights are untrained",)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("lost", "1 sessions lost"),
        ("cut off after drain_s", "1 sessions cut off after drain_s"),
        ("recovered reseeded", "1 times memory was lost and begun anew from masks (RESEEDED)"),
        ("resumed reseeded", "1 times memory was lost and begun anew from masks (RESEEDED)"),
    ],
)
def test_sessions_that_did_not_last_miss(key: str, why: str) -> None:
    assert judge(summary({key: 1}), PATIENT).why == (why,)


def test_what_is_begun_anew_after_a_kill_is_noted() -> None:
    killing = scenario(kills=("1 KILL triton",), slo_ms=60_000.0)
    found = summary({"recovered reseeded": 3})
    assert judge(found, killing).outcome == MET
    assert noted(found, killing) == ("3 times memory was lost and begun anew from masks (RESEEDED)",)
    assert noted(summary({}), killing) == ()


def test_a_second_answer_misses() -> None:
    found = summary({})
    found.frames["surplus"] = 1
    assert judge(found, PATIENT).why == ("1 answers were for frames that nobody waited for",)


async def test_who_is_never_let_in_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(link: Link, wanted: pb.Open) -> pb.TrackResponse:
        raise AdmissionRefused("full", retry_after_s=30.0)

    monkeypatch.setattr(Link, "open", refuse)
    base = (await load(scenario(streams=1, drain_s=0.2), "127.0.0.1:1"))["base"]
    assert (base.sessions["never opened"], base.sessions["cut off after drain_s"]) == (1, 0)


@pytest.fixture(scope="module")
def ended() -> int:
    """The id of a process that has."""
    process = subprocess.Popen(("true",))
    process.wait()
    return process.pid


@pytest.mark.parametrize(("command", "outcome"), [("run true", MET), ("run false", MISSED), ("CONT {ended}", MISSED)])
async def test_an_action_that_fails_misses(command: str, outcome: str, ended: int) -> None:
    command = command.format(ended=ended)
    found = await report(scenario(kills=(f"0.2 {command}",), slo_ms=60_000.0))
    assert (found.verdict.outcome, len(found.actions)) == (outcome, 1)
    assert list(found.verdict.why) == [f"failed: {line}" for line in found.actions if outcome == MISSED]


async def test_a_leak_check_with_nothing_to_look_at_says_so() -> None:
    found = await report(scenario(prime_s=1.0, slo_ms=60_000.0))
    assert found.checks == ()
    assert found.notes == ("what is left in the server is not compared with before: no process is watched (--pid)",)
    assert f"- note: {found.notes[0]}\n" in render(found)


def test_what_is_left_out_of_a_leak_check_is_noted() -> None:
    everything = compare([sample()], [sample()])
    assert not_compared(everything, watched=True, killed=False) == ()
    assert "after kills" in not_compared((), watched=True, killed=True)[0]
    (note,) = not_compared(compare([sample(sessions=-1)], [sample()]), watched=True, killed=False)
    assert note == "sessions is not compared: the server does not list them (server.session_service)"


def test_what_can_only_be_read_before_is_not_back() -> None:
    checks = compare([sample()], [sample(sessions=-1)])
    assert [check.what for check in checks if not check.met] == ["sessions"]
