"""A report for people: Markdown that reads well in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from masklet_load.report import Level, Report, Summary
from masklet_load.schedule import BASE, SPIKE

_NAMES = {
    "latency": "latency (from due)",
    "sending": "due to written",
    "lag": "generator's lag",
    "loop_lag": "generator's loop lag",
    "jitter": "jitter",
    "first_mask": "first mask",
    "opening": "opening",
    "prompts": "correction applied",
    "outages": "outage",
    "recoveries": "recovery (server)",
}


def render(report: Report) -> str:
    """All of it, but for histograms and samples."""
    lines = [f"# {report.name}: {headline(report)}", ""]
    lines += [f"- {why}" for why in report.verdict.why]
    lines += [f"- note: {note}" for note in report.notes]
    lines += [f"- {key}: {value}" for key, value in {**report.facts, **report.server}.items()]
    if report.levels:
        lines += ["", *_levels(report.levels)]
    for name, summary in report.groups.items():
        lines += ["", f"## {name}", "", *_summary(summary)]
    if report.checks:
        rows = [(c.what, f"{c.before:g}", f"{c.after:g}", f"{c.tolerance:.1f}", _yes(c.met)) for c in report.checks]
        lines += ["", "## back to where it began", "", *_rows(("what", "before", "after", "tolerance", "met"), rows)]
    lines += ["", *(f"- {action}" for action in report.actions)] if report.actions else []
    return "\n".join(lines) + "\n"


def headline(report: Report) -> str:
    """The result in one line."""
    if report.capacity is not None:
        streams, meet = ("stream", "meets") if report.capacity == 1 else ("streams", "meet")
        found = f"{report.capacity} {streams} of {report.scenario.rate_hz:g} frames/s {meet} the SLO"
        return found if report.verdict.outcome == "met" else f"void; {found} at least"
    return f"{_served(report)}: SLO {report.verdict.outcome}"


def _served(report: Report) -> str:
    """Those who got a session, of how many if not all."""
    base, spike = report.groups.get(BASE, report.groups["all"]), report.groups.get(SPIKE)
    planned, opened = _opened(base)
    streams = str(report.scenario.streams) if opened == planned else f"{opened} of {planned}"
    newcomers = " and {1} of {0} newcomers".format(*_opened(spike)) if spike else ""
    return f"{streams} streams of {report.scenario.rate_hz:g} frames/s{newcomers}"


def _opened(summary: Summary) -> tuple[int, int]:
    """Cameras planned, and those of them that got a session."""
    planned = summary.sessions.get("planned", 0)
    return planned, planned - summary.sessions.get("never opened", 0)


def level_line(level: Level) -> str:
    """One level of the search, while it goes on."""
    latency = level.summary.times["latency"]
    why = f" ({'; '.join(level.verdict.why)})" if level.verdict.why else ""
    times = f"p50 {latency.p50_ms:.0f} ms, p99 {latency.p99_ms:.0f} ms"
    return f"{level.streams} streams: {times}, {level.verdict.outcome}{why}"


def _levels(levels: Sequence[Level]) -> list[str]:
    rows = []
    for level in sorted(levels, key=lambda one: one.streams):
        latency, summary = level.summary.times["latency"], level.summary
        quantiles = (f"{ms:.1f}" for ms in (latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.max_ms))
        rate = f"{summary.delivered_per_s:.1f} of {summary.offered_per_s:.1f}"
        lag = f"{max(summary.times['lag'].p99_ms, summary.times['loop_lag'].p99_ms):.1f}"
        rows.append((str(level.streams), rate, f"{summary.bad_share:.2%}", *quantiles, lag, level.verdict.outcome))
    return _rows(("streams", "frames/s", "no result", "p50 ms", "p95", "p99", "max", "own lag p99", "SLO"), rows)


def _summary(summary: Summary) -> list[str]:
    times = [
        (
            _NAMES[name],
            str(one.count),
            *(f"{ms:.1f}" for ms in (one.p50_ms, one.p90_ms, one.p95_ms, one.p99_ms, one.p999_ms, one.max_ms)),
        )
        for name, one in summary.times.items()
        if one.count
    ]
    counts = {
        "offered, frames/s": f"{summary.offered_per_s:.1f}",
        "delivered, frames/s": f"{summary.delivered_per_s:.1f}",
        "without a result": f"{summary.bad_share:.2%}",
        "frames": _listed(summary.frames),
        "warm-up": _listed(summary.warm_up),
        "dropped": _listed(summary.dropped),
        "sessions": _listed(summary.sessions),
        "RetryInfo, s": _listed(summary.retry_after_s),
        "reasons": _listed(summary.reasons),
        "generator's CPU": f"{summary.generator_cpu:.2f} cores, the busiest process {summary.busiest_cpu:.2f}",
    }
    lines = _rows(("ms", "count", "p50", "p90", "p95", "p99", "p99.9", "max"), times)
    return [*lines, "", *(f"- {key}: {value}" for key, value in counts.items() if value)]


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{key} {count}" for key, count in counts.items())


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    table = [list(head), *map(list, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    padded = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    ]
    return [padded[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *padded[1:]]


def _yes(met: bool) -> str:
    return "yes" if met else "NO"
