"""`masklet evaluate --json`: scores are neither destroyed by a run that fails, nor lost with it."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from tests.threads import one_thread as one_thread
from tests.training.datasets.samples import labels, write_annotation, write_davis

from masklet.cli import evaluate, main

OLD = '{"earlier": "scores"}\n'
NAMES = ("bear", "cows", "dogs")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_davis(tmp_path / "data", names=NAMES, frames=4)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Holds the scores of an earlier run, alone in its folder."""
    path = tmp_path / "out" / "scores.json"
    path.parent.mkdir()
    path.write_text(OLD)
    return path


def words(data: Path, file: Path, *more: str) -> list[str]:
    return ["evaluate", "--data", str(data), "--json", str(file), "--backend", "fake", *more]


def spoil(data: Path, name: str) -> None:
    """Make a sequence unreadable, which shows when its turn comes."""
    for index in range(4):
        write_annotation(data / f"Annotations/480p/{name}/{index:05d}.png", labels(index, size=(60, 64)))


def beside(file: Path) -> list[str]:
    return sorted(path.name for path in file.parent.iterdir())


def part_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


def test_a_run_that_ends_well_replaces_the_file(data, file):
    assert main(words(data, file)) == 0
    assert [one["name"] for one in json.loads(file.read_text())["sequences"]] == list(NAMES)
    assert "partial" not in json.loads(file.read_text()) and beside(file) == ["scores.json"]


@pytest.mark.parametrize("more", [["--weights", "none.pt", "--backend", "embedded"], ["--clicks", "5,1"]])
def test_a_run_that_never_starts_harms_nothing(data, file, more, capsys):
    assert main(words(data, file, *more)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert file.read_text() == OLD and beside(file) == ["scores.json"]


def test_a_run_that_fails_at_its_first_sequence_harms_nothing(data, file, capsys):
    spoil(data, "bear")
    assert main(words(data, file)) == 2
    said = capsys.readouterr().err
    assert "00000.png is 60 x 64" in said and "scores" not in said
    assert file.read_text() == OLD and beside(file) == ["scores.json"]


def test_a_run_that_fails_later_keeps_what_it_has_beside_the_file(data, file, capsys):
    spoil(data, "dogs")
    assert main(words(data, file)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "00000.png is 60 x 64" in said
    assert said.endswith(f"; the scores of 2 of 3 sequences are in {part_of(file)}\n")
    assert file.read_text() == OLD and beside(file) == ["scores.json", "scores.json.part"]
    found = json.loads(part_of(file).read_text())
    assert [one["name"] for one in found["sequences"]] == ["bear", "cows"]
    assert found["partial"] and found["data"] == str(data) and found["model"]["backend"] == "fake"
    assert found["mean"]["J&F"]["of"] == 4


def test_an_interrupted_run_keeps_what_it_has_beside_the_file(data, file, capsys, monkeypatch):
    show = evaluate._Progress.show

    def interrupted(self, score):
        show(self, score)
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate._Progress, "show", interrupted)
    assert main(words(data, file)) == 130
    assert capsys.readouterr().err == f"the scores of 1 of 3 sequences are in {part_of(file)}\n"
    assert file.read_text() == OLD
    assert [one["name"] for one in json.loads(part_of(file).read_text())["sequences"]] == ["bear"]


def test_a_terminated_run_keeps_what_it_has_too(data, file, capsys, monkeypatch):
    show = evaluate._Progress.show

    def terminated(self, score):
        show(self, score)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(evaluate._Progress, "show", terminated)
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("nobody minds SIGTERM"))
    try:
        with pytest.raises(SystemExit) as left:
            main(words(data, file))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left.value.code == 143
    assert f"scores of 1 of 3 sequences are in {part_of(file)}\n" in capsys.readouterr().err
    assert file.read_text() == OLD and part_of(file).exists()


def test_scores_are_written_while_the_run_goes_on(data, file, monkeypatch):
    """For those whom nobody asks before they end: SIGKILL, a power cut."""
    seen: list[int] = []
    show = evaluate._Progress.show

    def watched(self, score):
        show(self, score)
        seen.append(len(json.loads(part_of(file).read_text())["sequences"]))

    monkeypatch.setattr(evaluate._Progress, "show", watched)
    assert main(words(data, file)) == 0
    assert seen == [1, 2, 3]


def test_what_an_earlier_run_left_stays_until_there_is_something_newer(data, file):
    part_of(file).write_text("earlier part")
    spoil(data, "bear")
    assert main(words(data, file)) == 2
    assert part_of(file).read_text() == "earlier part"
    assert main(words(write_davis(data.parent / "good"), file)) == 0
    assert beside(file) == ["scores.json"]


def test_scores_of_nothing_are_not_kept(tmp_path, file):
    data = write_davis(tmp_path / "short", frames=2)  # the last frame does not count, the first is given
    assert main(words(data, file)) == 2
    assert file.read_text() == OLD and beside(file) == ["scores.json"]


def test_a_folder_that_is_not_there_is_made(data, tmp_path):
    file = tmp_path / "new" / "deep" / "scores.json"
    assert main(words(data, file)) == 0
    assert beside(file) == ["scores.json"]


@pytest.mark.parametrize("mode", ["truth", "semi"])
def test_a_folder_in_the_place_of_the_file_is_found_at_once(data, tmp_path, mode, capsys):
    (tmp_path / "taken").mkdir()
    assert main(words(data, tmp_path / "taken", "--mode", mode)) == 2
    caught = capsys.readouterr()
    assert caught.err == f"error: {tmp_path / 'taken'}: cannot be written: Is a directory\n"
    assert "bear" not in caught.out
    assert not part_of(tmp_path / "taken").exists()


def test_a_link_stays_a_link(data, file, tmp_path):
    link = tmp_path / "latest.json"
    link.symlink_to(file)
    assert main(words(data, link)) == 0
    assert link.is_symlink() and len(json.loads(file.read_text())["sequences"]) == 3
    assert beside(file) == ["scores.json"] and not part_of(link).exists()


def test_what_is_no_file_is_written_to_and_not_replaced(data, tmp_path):
    """A pipe, /dev/stdout, /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    assert main(words(data, pipe)) == 0
    reader.join(10)
    assert len(json.loads(found[0])["sequences"]) == 3
    assert pipe.is_fifo() and not part_of(pipe).exists()


def test_scores_that_cannot_be_written_in_the_end_are_one_clear_error(data, file, capsys, monkeypatch):
    """The disk fills up while the run goes on; what was written before is still there."""
    show, replace = evaluate._Progress.show, os.replace
    full = False

    def filling(self, score):
        nonlocal full
        show(self, score)
        full = True

    def failing(source, target):
        if full:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(evaluate._Progress, "show", filling)
    monkeypatch.setattr(os, "replace", failing)
    assert main(words(data, file)) == 2
    said = capsys.readouterr().err
    assert f"{part_of(file)}: cannot be written: No space left on device; the scores of 1 of 3 sequences are in" in said
    assert file.read_text() == OLD and len(json.loads(part_of(file).read_text())["sequences"]) == 1
    assert beside(file) == ["scores.json", "scores.json.part"]
