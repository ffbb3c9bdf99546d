from __future__ import annotations

from pathlib import Path

import pytest

from masklet.errors import ConfigError
from masklet.training.recipe import parse_recipe, read_recipe

STAGE = {"steps": 4, "frames": 2, "size": 64, "clips": 2}
SHIPPED = Path(__file__).parents[2] / "service/masklet/training/recipes"


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_that_come_with_masklet_are_sound(path):
    assert read_recipe(path).steps > 0


def test_steps_belong_to_stages_in_order():
    recipe = parse_recipe({"stages": [STAGE, STAGE | {"steps": 2, "frames": 8}]})
    assert [recipe.stage_at(step)[0] for step in (0, 3, 4, 5, 99)] == [0, 0, 1, 1, 1]
    assert recipe.steps == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "at least one"),
        ({"stages": [STAGE], "sede": 1}, "unknown key sede; known: variant, seed"),
        ({"stages": [STAGE | {"lr": 1.0}]}, r"unknown key stages\[0\]\.lr"),
        ({"stages": [STAGE | {"size": 100}]}, r"stages\[0\]\.size is 100, but must be a multiple of 32"),
        ({"stages": [STAGE | {"steps": 0}]}, r"stages\[0\]\.steps is 0, but must be at least 1"),
        ({"stages": [STAGE | {"frames": "8"}]}, r"stages\[0\]\.frames is '8', but must be of type int"),
        ({"stages": [STAGE | {"synthetic": {"fog": 1.0}}]}, r"unknown key synthetic\.fog; known: .*occluder"),
        ({"stages": [STAGE | {"synthetic": {"min_share": 2.0}}]}, "min_share"),
        ({"stages": [{"steps": 1}]}, r"stages\[0\] lacks frames, size, clips"),
        ({"stages": [STAGE], "interaction": {"click": 0.8, "box": 0.4}}, "must be above 0 and at most 1"),
        ({"stages": [STAGE], "optimiser": {"ema_decay": 1.0}}, "ema_decay is 1.0"),
        ({"stages": [STAGE], "losses": 3}, "losses is 3, but must be a table"),
        ({"stages": [STAGE | {"span": 1}]}, r"span is 1, but must be 0 or at least its frames \(2\)"),
        ({"stages": [STAGE | {"burn_in": 2}]}, r"burn_in is 2, but must be from 0 to below its frames \(2\)"),
        ({"stages": [STAGE | {"burn_in": -1}]}, "burn_in is -1"),
        ({"stages": [STAGE, STAGE | {"synthetic": {"max_share": 2.0}}]}, r"stages\[1\]: need 0 < min_share"),
        ({"stages": [STAGE | {"procedural_share": 1.5}]}, r"procedural_share is 1\.5, but must be from 0 to 1"),
        ({"stages": [STAGE | {"clips": 2, "cutaways": -0.5}]}, r"cutaways is -0\.5, but must be from 0 to 1"),
        ({"stages": [STAGE | {"clips": 1, "cutaways": 0.5}]}, "clips is 1, but must be at least 2 for cutaways"),
        (
            {"stages": [STAGE | {"focal": 2.0}], "losses": {"focal": 5.0}},
            r"losses\.focal is 5\.0, but must be left alone where every stage has a focal of its own",
        ),
        ({"stages": [STAGE], "optimiser": {"muon": 1}}, "optimiser.muon is 1, but must be of type bool"),
    ],
)
def test_faults_are_named(content, message):
    with pytest.raises(ConfigError, match=message):
        parse_recipe(content)


def test_the_recipe_s_focal_counts_where_a_stage_has_none():
    recipe = parse_recipe({"stages": [STAGE, STAGE | {"focal": 2.0}], "losses": {"focal": 5.0}})
    assert [recipe.losses_at(step).focal for step in (0, STAGE["steps"])] == [5.0, 2.0]


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("stages = [")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_recipe(tmp_path / "broken.toml")


def test_single_values_are_changed_from_the_command_line(tmp_path):
    (tmp_path / "r.toml").write_text("[[stages]]\nsteps = 4\nframes = 2\nsize = 64\nclips = 2\n")
    changes = [
        "stages.0.size=128",
        "optimiser.warmup_steps = 7",
        "variant=sam2_hiera_tiny",
        "stages.0.synthetic.part=0.5",
    ]
    recipe = read_recipe(tmp_path / "r.toml", changes)
    assert (recipe.stages[0].size, recipe.optimiser.warmup_steps) == (128, 7)
    assert (recipe.variant, recipe.stages[0].synthetic) == ("sam2_hiera_tiny", {"part": 0.5})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stages.0.size", "--set is stages.0.size, must be KEY=VALUE"),
        ("stages.3.size=64", r"--set stages.3.size=64: stages has 1 tables, from 0, so no 3"),
        ("stages=3", "a recipe needs at least one"),
        ("stages.0=3", "stages is no table"),
        ("variant.x.y=3", "variant has no tables, so no x"),
        ("stages.0.fog=3", r"unknown key stages\[0\]\.fog"),
        ("stages.0.size=big", r"stages\[0\]\.size is 'big', but must be of type int"),
    ],
)
def test_a_change_that_makes_no_sense_is_named(tmp_path, change, message):
    (tmp_path / "r.toml").write_text('variant = "nano"\n[[stages]]\nsteps = 4\nframes = 2\nsize = 64\nclips = 2\n')
    with pytest.raises(ConfigError, match=message):
        read_recipe(tmp_path / "r.toml", [change])


@pytest.mark.parametrize(
    "change",
    [
        "seed=-1", "seed=10000000", "stages.0.learning_rate=inf", "optimiser.clip_norm=0", "optimiser.weight_decay=-1",
        "optimiser.layer_decay=-2", "optimiser.layer_decay=1.5", "optimiser.beta2=2.0", "optimiser.warmup_steps=-5",
        "optimiser.final_share=2.0", "losses.focal=-3.0", "losses.dice=nan", "interaction.click=-0.3",
        "interaction.second_frame=7", "interaction.min_corrections=5",
        "augmentation.flip=1.5", "augmentation.turn=-0.1", "augmentation.min_window=0.0",
        "stages.0.synthetic.copied_targets=2.0",
        "interaction.box_noise=-3", "interaction.from_truth=2",
        "optimiser.encoder_share=0.0", "regularisation.drop_path=1.0", "regularisation.dropout=-0.1",
        "stages.0.synthetic=3",
        "stages.0.synthetic.regions=a", "stages.0.synthetic.regions=1.5", "stages.0.synthetic.size=64",
    ],
)  # fmt: skip
def test_every_value_out_of_range_is_named(tmp_path, change):
    (tmp_path / "r.toml").write_text("[[stages]]\nsteps = 4\nframes = 2\nsize = 64\nclips = 2\n")
    name = change.partition("=")[0].rpartition(".")[2]
    with pytest.raises(ConfigError, match=name):
        read_recipe(tmp_path / "r.toml", [change])
