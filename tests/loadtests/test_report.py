from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.loadtests.conftest import load, scenario, service

from masklet.errors import ConfigError
from masklet_load.generate import Tallies, new_tally
from masklet_load.plot import draw
from masklet_load.report import Level, Report, Sample, Verdict, load_report, slices_of
from masklet_load.run import summaries
from masklet_load.table import render
from masklet_load.times import Times
from masklet_load.verdict import compare

WANTED = scenario(streams=3, kills=("1 TERM 12345",))


def sample(at_s: float = 0.0, **fields: float) -> Sample:
    usual = {"rss_mib": 100.0, "fds": 20, "threads": 8, "shm_mib": 1.0, "sessions": 0}
    return Sample(at_s=at_s, **{**usual, **fields})  # type: ignore[arg-type]


def report_of(tallies: Tallies, *, levels: bool) -> Report:
    groups = summaries(tallies, WANTED)
    tried = tuple(Level(n, Verdict("met" if n < 4 else "missed", ("why",)), groups["all"]) for n in (1, 2, 4, 3))
    return Report(
        name="some",
        facts={"command": "masklet-load"},
        server={"backend": "fake"},
        scenario=WANTED,
        verdict=Verdict("met"),
        groups=groups,
        slices=slices_of(tallies["base"]),
        samples=() if levels else (sample(), sample(1.0, fds=25)),
        checks=compare([sample()], [sample(fds=40)]),
        actions=("1.00 s: TERM 12345",),
        levels=tried if levels else (),
        capacity=3 if levels else None,
    )


@pytest.mark.parametrize("levels", [False, True])
async def test_a_report_survives_json_shows_its_numbers_and_has_a_picture(tmp_path: Path, levels: bool) -> None:
    with service() as served:
        report = report_of(await load(scenario(streams=3), served.address), levels=levels)
    report.save(tmp_path / "r.json")
    assert load_report(tmp_path / "r.json") == report
    answered = report.groups["all"].frames["answered"]
    assert answered > 0
    assert f"answered {answered}" in render(report)
    assert ("3 streams of 20 frames/s meet the SLO" in render(report)) == levels
    draw(report, tmp_path / "r.png")
    with Image.open(tmp_path / "r.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 600
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


async def test_histograms_in_a_report_can_be_taken_up_again() -> None:
    with service() as served:
        tallies = await load(scenario(), served.address)
    summary = summaries(tallies, scenario())["all"]
    assert Times.decode(summary.latency_histogram).spread() == summary.times["latency"]


def test_a_file_that_is_no_report_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"name": "some"}))
    with pytest.raises(ConfigError, match=r"r\.json is not a load report"):
        load_report(tmp_path / "r.json")


def test_histograms_add_up_and_keep_long_and_short_times() -> None:
    mine, theirs = Times(), Times()
    for number in range(100):
        mine.record(0.001 * number)
        theirs.record(1.0)
    mine.add(theirs)
    mine.record(100_000.0)
    mine.record(-1.0)
    assert len(mine) == 202
    assert mine.quantile_ms(40) == pytest.approx(80, rel=0.02)
    assert mine.quantile_ms(99) == pytest.approx(1000, rel=0.002)
    assert mine.quantile_ms(100) == pytest.approx(600_000, rel=0.002)


def test_nothing_measured_is_all_zeros() -> None:
    summary = summaries({"base": new_tally(WANTED)}, WANTED)["all"]
    assert (summary.times["latency"].count, summary.times["latency"].max_ms, summary.bad_share) == (0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("what", "after"), [("rss_mib", 122.0), ("fds", 25), ("threads", 13), ("shm_mib", 2.5), ("sessions", 1)]
)
def test_what_did_not_come_back_is_found(what: str, after: float) -> None:
    checks = compare([sample()] * 3, [sample(**{what: after})] * 3)
    assert [check.what for check in checks if not check.met] == [what]


def test_what_could_not_be_read_is_not_compared() -> None:
    assert [check.what for check in compare([sample(sessions=-1, shm_mib=-1)], [sample()])] == [
        "rss_mib",
        "fds",
        "threads",
    ]
