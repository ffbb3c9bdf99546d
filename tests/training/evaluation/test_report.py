import json

import pytest
from tests.training.evaluation.drawn import SparseSequence, clip_of, sequence_of

from masklet.errors import ConfigError, DatasetError
from masklet.training.evaluation import EvaluationSettings, Report, evaluate, format_table
from masklet.training.evaluation.scores import ObjectScore, SequenceScore, Tally, add_up
from masklet.training.evaluation.tracking import TruthTracker


def score(j: float, absent: tuple[int, int] = (0, 0)) -> ObjectScore:
    return ObjectScore(1, {"J": Tally(j, 1), "absent": Tally(*absent)})


REPORT = Report(
    "semi",
    (
        SequenceScore("a", 10, 1.5, (score(0.5, (1, 4)), score(1.0))),
        SequenceScore("b", 20, 2.0, (score(0.9, (4, 4)),)),
        SequenceScore("c", 5, 0.1, ()),
    ),
)


def test_means_are_over_objects_and_shares_are_pooled():
    assert add_up([score(0.5, (1, 4)), score(1.0), score(0.9, (4, 4))])["J"].value == pytest.approx(0.8)
    assert REPORT.measures["absent"].value == pytest.approx(5 / 8)
    assert Tally().value is None


def test_the_table_has_a_line_per_sequence_and_the_mean():
    lines = [line.split() for line in format_table(REPORT).splitlines()[:5]]
    assert lines[0] == ["sequence", "frames", "objects", "J", "absent"]
    assert lines[1] == ["a", "10", "2", "0.750", "0.250"]
    assert lines[3] == ["c", "5", "0", "-", "-"]
    assert lines[4] == ["mean", "of", "3", "sequences", "35", "3", "0.800", "0.625"]


def test_json_has_every_object_and_survives_a_round_trip():
    said = json.loads(json.dumps(REPORT.to_json()))
    assert (said["mode"], said["objects"], said["seconds"]) == ("semi", 3, 3.6)
    assert said["mean"]["absent"] == {"value": 0.625, "of": 8}
    assert said["sequences"][0]["objects"][1] == {
        "id": 1,
        "J": {"value": 1.0, "of": 1},
        "absent": {"value": None, "of": 0},
    }


async def test_nothing_to_score_is_an_error():
    short = sequence_of([5, 5])  # the first frame is given, the last left out
    with pytest.raises(DatasetError, match="none of 2 sequences has an object of 1 pixels or more"):
        await evaluate(TruthTracker(short, start=0), [short, sequence_of([None] * 9)], "truth")


async def test_progress_is_told_sequence_by_sequence():
    told: list[str] = []
    sequences = [sequence_of([1, 2, 3], name="x"), SparseSequence("y", lambda: clip_of([1] * 7))]
    await evaluate(
        TruthTracker(sequences[0], start=0), sequences, "truth", progress=lambda score: told.append(score.name)
    )
    assert told == ["x", "y"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"clicks": (3, 1)}, r"clicks are \(3, 1\), must be rising"),
        ({"clicks": ()}, r"clicks are \(\)"),
        ({"clicks": (0, 1)}, r"must be rising numbers of at least 1"),
        ({"prompted_frames": 0}, "prompted_frames is 0, must be at least 1"),
        ({"clicks_per_frame": -1}, "clicks_per_frame is -1"),
    ],
)
def test_senseless_settings_are_named(wrong, said):
    with pytest.raises(ConfigError, match=said):
        EvaluationSettings(**wrong)
