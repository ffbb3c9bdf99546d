"""A report as a picture: latency against streams for a search, over time for everything else."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from masklet_load.report import Report
from masklet_load.table import headline

_LOGARITHMIC_FROM = 10  # times the SLO
_BLUE, _RED, _GREY, _GREEN = "#1f6fb4", "#c23b22", "#888888", "#3a923a"


def draw(report: Report, path: Path) -> None:
    """Write a PNG."""
    figure = Figure(figsize=(9.0, 5.0 if not report.samples else 7.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{report.name}: {headline(report)}", fontsize=11)
    if report.levels:
        _levels(figure, report)
    elif report.samples:
        upper, lower = figure.subplots(2, 1, sharex=True)
        _over_time(upper, report)
        _resources(lower, report)
    else:
        _over_time(figure.subplots(), report)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _levels(figure: Figure, report: Report) -> None:
    axes = figure.subplots()
    levels = sorted({level.streams: level for level in report.levels}.values(), key=lambda level: level.streams)
    streams = [level.streams for level in levels]
    for name, colour in (("p50_ms", _GREY), ("p95_ms", _BLUE), ("p99_ms", _RED)):
        values = [max(getattr(level.summary.times["latency"], name), 0.1) for level in levels]
        axes.plot(streams, values, "o-", color=colour, label=name.removesuffix("_ms"))
    _slo(axes, report)
    if axes.get_ylim()[1] > _LOGARITHMIC_FROM * report.scenario.slo_ms:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xticks(streams)
    axes.set_xlabel(f"streams of {report.scenario.rate_hz:g} frames/s")
    axes.set_ylabel("latency from the due time, ms")
    if report.capacity:
        axes.axvline(report.capacity, color=_GREEN, linestyle=":", label=f"capacity {report.capacity}")
    beside = axes.twinx()
    beside.plot(streams, [100 * level.summary.bad_share for level in levels], "x--", color=_GREEN)
    beside.set_ylabel("frames without a result, % (x)", color=_GREEN)
    beside.set_ylim(0, max(beside.get_ylim()[1], 1))
    figure.legend(loc="outside lower center", ncols=5)


def _over_time(axes: Axes, report: Report) -> None:
    seconds = [one.at_s for one in report.slices]
    for name, colour in (("p50_ms", _GREY), ("p99_ms", _RED)):
        values = [max(getattr(one, name), 0.1) for one in report.slices]
        axes.plot(seconds, values, "-", color=colour, label=name.removesuffix("_ms"))
    _slo(axes, report)
    axes.set_yscale("log")
    axes.set_xlabel("seconds")
    axes.set_ylabel("latency from the due time, ms")
    beside = axes.twinx()
    beside.plot(seconds, [one.streams for one in report.slices], drawstyle="steps-mid", color=_BLUE, label="streams")
    beside.plot(
        seconds, [100 * one.bad / max(one.due, 1) for one in report.slices], ":", color=_GREEN, label="no result, %"
    )
    beside.set_ylim(bottom=0)
    beside.legend(loc="upper right")
    axes.legend(loc="upper left")


def _resources(axes: Axes, report: Report) -> None:
    for name, colour in (
        ("rss_mib", _BLUE),
        ("fds", _RED),
        ("threads", _GREY),
        ("shm_mib", _GREEN),
        ("sessions", "black"),
    ):
        known = [(one.at_s, getattr(one, name)) for one in report.samples if getattr(one, name) >= 0]
        if known:
            axes.plot(*zip(*known, strict=True), color=colour, label=name.replace("_mib", ", MiB"))
    axes.set_yscale("symlog")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.legend(loc="center right")


def _slo(axes: Axes, report: Report) -> None:
    axes.axhline(report.scenario.slo_ms, color="black", linestyle="--", label=f"SLO {report.scenario.slo_ms:g} ms")
