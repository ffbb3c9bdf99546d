"""Whether a run met the SLO, and whether the server is back to where it began."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from masklet_load.report import Check, Sample, Summary, Verdict
from masklet_load.scenario import Scenario

MET, MISSED, VOID = "met", "missed", "void"
_RSS_SHARE, _RSS_MIB = 0.05, 16.0
_FDS, _THREADS, _SHM_MIB = 4.0, 4.0, 1.0
_ENDS = ("refused", "never opened", "lost", "cut off after drain_s")
_NOT_COMPARED = "what is left in the server is not compared with before: "
_UNREAD = {"sessions": "the server does not list them (server.session_service)", "shm_mib": "there is no /dev/shm"}


def judge(summary: Summary, scenario: Scenario, *, trained: bool = True) -> Verdict:
    """The SLO, if the generator itself was in time; see `misses`."""
    late_ms = max(summary.times[name].p99_ms for name in ("lag", "loop_lag"))
    if late_ms >= scenario.lag_ms:
        return Verdict(VOID, (f"the generator's own p99 lag is {late_ms:.1f} ms, must be below {scenario.lag_ms:g}",))
    why = misses(summary, scenario, trained=trained)
    return Verdict(MISSED if why else MET, why)


def misses(summary: Summary, scenario: Scenario, *, trained: bool = True) -> tuple[str, ...]:
    """What cameras missed: results in time, with what was asked for, in one session each.

    Args:
        summary: of these cameras.
        scenario: its SLO counts, and where nothing is killed no memory may be lost.
        trained: whether the server says that its weights are: others may see no object anywhere.
    """
    why = [*_frame_misses(summary, scenario)]
    if not summary.frames["answered"] and (summary.frames["due"] or not summary.warm_up["answered"]):
        why.append("no frame was answered")
    if incomplete := _both(summary, "incomplete"):
        why.append(f"{incomplete} results had fewer objects than were clicked")
    if trained and (blind := summary.sessions.get("without a mask")):
        why.append(f"{blind} cameras never got a mask")
    failed = {key: count for key, count in summary.reasons.items() if key.startswith("request: ")}
    why += [f"{count} requests failed: {key.removeprefix('request: ')}" for key, count in failed.items()]
    if (begun_anew := _begun_anew(summary)) and not scenario.kills:
        why.append(f"{begun_anew} times memory was lost and begun anew from masks (RESEEDED)")
    return (*why, *(f"{summary.sessions[key]} sessions {key}" for key in _ENDS if key in summary.sessions))


def newcomers_misses(
    summary: Summary, scenario: Scenario, *, to_be_refused: bool, trained: bool = True
) -> tuple[str, ...]:
    """What is wrong with how those of the spike were treated.

    Beyond capacity they are to be refused and told when to come again; those let in all the same get their results in
    time. Otherwise they are cameras like others.
    """
    if not to_be_refused:
        return tuple(f"newcomers: {why}" for why in misses(summary, scenario, trained=trained))
    refused, told = summary.sessions.get("refused", 0), sum(summary.retry_after_s.values())
    why = [] if refused else [f"none of {summary.sessions.get('planned', 0)} newcomers was refused"]
    if told < refused:
        why.append(f"{refused - told} of {refused} refusals came without RetryInfo")
    return (*why, *(f"newcomers: {one}" for one in _frame_misses(summary, scenario)))


def noted(summary: Summary, scenario: Scenario, *, trained: bool = True) -> tuple[str, ...]:
    """What there is to say of all cameras besides: it may be meant."""
    notes, begun_anew, blind = list[str](), _begun_anew(summary), summary.sessions.get("without a mask")
    if begun_anew and scenario.kills:
        notes.append(f"{begun_anew} times memory was lost and begun anew from masks (RESEEDED)")
    if blind and not trained:
        notes.append(f"{blind} cameras never got a mask: the weights are untrained")
    return tuple(notes)


def _frame_misses(summary: Summary, scenario: Scenario) -> Iterator[str]:
    """Frames answered late, not at all, or twice."""
    p99_ms = summary.times["latency"].p99_ms
    if p99_ms > scenario.slo_ms:
        yield f"p99 latency is {p99_ms:.0f} ms, at most {scenario.slo_ms:g} allowed"
    if summary.bad_share > scenario.slo_bad_share:
        yield f"{summary.bad_share:.1%} of the frames had no result, at most {scenario.slo_bad_share:.1%} allowed"
    if unaccounted := _both(summary, "unaccounted"):
        yield f"{unaccounted} frames are unaccounted for"
    if surplus := _both(summary, "surplus"):
        yield f"{surplus} answers were for frames that nobody waited for"


def _both(summary: Summary, key: str) -> int:
    return summary.frames[key] + summary.warm_up[key]


def _begun_anew(summary: Summary) -> int:
    return sum(summary.sessions.get(f"{how} reseeded", 0) for how in ("recovered", "resumed"))


def compare(before: Sequence[Sample], after: Sequence[Sample]) -> tuple[Check, ...]:
    """The medians of two idle times; what could not be read before is left out, only afterwards is not as before."""
    checks = []
    for what, tolerance in (
        ("rss_mib", 0.0),
        ("fds", _FDS),
        ("threads", _THREADS),
        ("shm_mib", _SHM_MIB),
        ("sessions", 0.0),
    ):
        first, last = (statistics.median(getattr(one, what) for one in some) for some in (before, after))
        if first < 0:
            continue
        allowed = _RSS_MIB + _RSS_SHARE * first if what == "rss_mib" else tolerance
        checks.append(Check(what, first, last, allowed))
    return tuple(checks)


def not_compared(checks: Sequence[Check], *, watched: bool, killed: bool) -> tuple[str, ...]:
    """What `checks` leave out of a server that was primed for them, and why.

    Args:
        checks: those made.
        watched: whether there are processes to look at.
        killed: whether something was done to them.
    """
    if killed:
        return (f"{_NOT_COMPARED}after kills others have taken their places",)
    if not watched:
        return (f"{_NOT_COMPARED}no process is watched (--pid)",)
    made = {check.what for check in checks}
    missing = [name for name in ("rss_mib", "fds", "threads", *_UNREAD) if name not in made]
    return tuple(f"{name} is not compared: {_UNREAD.get(name, 'it cannot be read')}" for name in missing)
