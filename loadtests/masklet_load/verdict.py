"""Whether a run met the SLO, and whether the server is back to where it began."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from masklet_load.report import Check, Sample, Summary, Verdict
from masklet_load.scenario import Scenario

MET, MISSED, VOID = "met", "missed", "void"
_RSS_SHARE, _RSS_MIB = 0.05, 16.0
_FDS, _THREADS, _SHM_MIB = 4.0, 4.0, 1.0


def judge(summary: Summary, scenario: Scenario, *, refusals_allowed: bool = False) -> Verdict:
    """The SLO: p99 latency, frames without a result, nothing unaccounted for, nobody refused."""
    late_ms = max(summary.times[name].p99_ms for name in ("lag", "loop_lag"))
    if late_ms >= scenario.lag_ms:
        return Verdict(VOID, (f"the generator's own p99 lag is {late_ms:.1f} ms, must be below {scenario.lag_ms:g}",))
    why, p99_ms = [], summary.times["latency"].p99_ms
    if p99_ms > scenario.slo_ms:
        why.append(f"p99 latency is {p99_ms:.0f} ms, at most {scenario.slo_ms:g} allowed")
    if summary.bad_share > scenario.slo_bad_share:
        why.append(f"{summary.bad_share:.1%} of the frames had no result, at most {scenario.slo_bad_share:.1%} allowed")
    if not summary.frames["answered"]:
        why.append("no frame was answered")
    if unaccounted := summary.frames["unaccounted"] + summary.warm_up["unaccounted"]:
        why.append(f"{unaccounted} frames are unaccounted for")
    if not refusals_allowed:
        why += [
            f"{summary.sessions[key]} sessions {key}" for key in ("refused", "never opened") if key in summary.sessions
        ]
    return Verdict(MISSED if why else MET, tuple(why))


def judge_newcomers(summary: Summary) -> tuple[str, ...]:
    """What is wrong with how those beyond capacity were treated: to be refused, and told when to come again."""
    refused, told = summary.sessions.get("refused", 0), sum(summary.retry_after_s.values())
    why = [] if refused else [f"none of {summary.sessions.get('planned', 0)} newcomers was refused"]
    if told < refused:
        why.append(f"{refused - told} of {refused} refusals came without RetryInfo")
    if unaccounted := summary.frames["unaccounted"] + summary.warm_up["unaccounted"]:
        why.append(f"{unaccounted} frames of newcomers are unaccounted for")
    return tuple(why)


def compare(before: Sequence[Sample], after: Sequence[Sample]) -> tuple[Check, ...]:
    """The medians of two idle times; only what could be read is compared."""
    checks = []
    for what, tolerance in (
        ("rss_mib", 0.0),
        ("fds", _FDS),
        ("threads", _THREADS),
        ("shm_mib", _SHM_MIB),
        ("sessions", 0.0),
    ):
        first, last = (statistics.median(getattr(one, what) for one in some) for some in (before, after))
        if first < 0 or last < 0:
            continue
        allowed = _RSS_MIB + _RSS_SHARE * first if what == "rss_mib" else tolerance
        checks.append(Check(what, first, last, allowed))
    return tuple(checks)
