from __future__ import annotations

from pathlib import Path

import pytest

from masklet.errors import ConfigError
from masklet_load.scenario_file import SCENARIOS, load_scenario, scenario_names


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "some.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", scenario_names(SCENARIOS))
def test_the_scenarios_of_the_tree_are_valid(name: str) -> None:
    assert load_scenario(name, None, {}).streams >= 1


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, "[mine]\nstreams = 7\nrate_hz = 3\n")
    found = load_scenario("mine", path, {"streams": "9", "in_step": "yes", "kills": ["1 TERM server"]})
    assert (found.streams, found.rate_hz, found.in_step, found.kills) == (9, 3.0, True, ("1 TERM server",))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("streams = 0", "streams is 0, must be 1 to 2000"),
        ('streams = "many"', "streams is 'many', must be a whole number"),
        ("streams = 2.5", "streams is 2.5, must be a whole number"),
        ("duration_s = 1e9", r"duration_s is 1e\+09, must be 1 to 21600"),
        ("rate_hz = nan", "rate_hz is nan, must be 0.1 to 240"),
        ("stream = 3", "unknown key stream .*did you mean streams"),
        ('policy = "newest"', "policy is 'newest', must be one of latest, block"),
        ("in_step = 1", "in_step is 1, must be true or false"),
        ('kills = "now"', "kills is 'now', must be a list of texts"),
        ('kills = ["5 HIT server"]', "kills: '5 HIT server' has 'HIT', must be a signal"),
        ('kills = ["5 KILL everyone"]', "aims at 'everyone', must be server, triton or a process id"),
        (f'kills = ["5 KILL 1{"0" * 9}"]', "aims at '10+', must be server, triton or a process id"),
        ('kills = ["-1 KILL server"]', "begins with '-1', must be 0 to 21600"),
        ("warm_up_s = 30", "warm_up_s, spike_at_s and ramp_s go up to 30, must be below duration_s = 30"),
        ("spike_streams = 2000", "streams . spike_streams is 2004, must be at most 2000"),
        ("churn_per_s = 50\nduration_s = 20000", "makes 1000004 sessions, the limit is 100000"),
    ],
)
def test_a_mistake_names_key_and_value(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_scenario("mine", written(tmp_path, f"[mine]\n{line}\n"), {})


def test_a_file_that_is_none_and_a_scenario_that_is_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"some\.toml is not a TOML file"):
        load_scenario("mine", written(tmp_path, "[mine\n"), {})
    with pytest.raises(ConfigError, match=r"no scenario 'stedy' in scenarios.toml; did you mean steady\?"):
        load_scenario("stedy", None, {})
    with pytest.raises(ConfigError, match=r"cannot read the scenario file .*gone.toml"):
        load_scenario("mine", tmp_path / "gone.toml", {})
