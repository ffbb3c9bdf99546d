"""A training run as data: stages, optimiser, sources. Written as TOML, checked before anything starts."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from masklet.errors import ConfigError
from masklet.training.augment import Augmentation
from masklet.training.interaction import InteractionSettings
from masklet.training.losses import LossWeights
from masklet.training.recipe_changes import changed
from masklet.training.regularise import RegularisationSettings
from masklet.training.scene import SyntheticSettings

MAX_SEED = 1_000_000
"""Of a recipe: seeds of clips and clicks are made of it and the step, within 64 bits."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Steps of one kind.

    Attributes:
        steps: optimiser steps.
        frames: frames per clip; 1 is images.
        size: side of the model input in pixels, divisible by 32.
        clips: clips per step and process.
        targets: objects per clip at most.
        learning_rate: where the stage's cosine begins.
        image_share: share of the steps that train on single images instead (as many as frames take gradients).
        focal: weight of the focal loss in this stage; 0: the recipe's. From random weights the full weight first
            teaches to call everything background, which takes long to unlearn.
        real_share: share of the steps whose clips come from `--data` instead of the generator, if there is any.
        span: the frames of a drawn clip are picked at random, in order, from so many; 0: from as many as are needed.
            Frames that follow each other closely are much alike and teach little for what they cost.
        burn_in: frames at the start of a clip that only fill the memory and take no gradients (Kapturowski et al.
            2019), at about a third of the price of the others: to learn to go on from what one's own errors have left.
            First prompts are then trained on images alone, so `image_share` should not be 0.
        freeze_image_encoder: whether the image encoder stays as it is, which takes a good part of the memory and time,
            as in the paper's last stage of 16 frames. The decoder's projections of its finer maps stay with it.
        procedural_share: share of the drawn clips that use no assets even where there are some.
        coarse_share: share of the drawn clips that are drawn at two thirds of the size and enlarged, as frames smaller
            than the model's input are.
        cutaways: share of the clips that show another clip of the step for a while, or go on from another view, so that
            targets are found again somewhere else, turned, after frames enough to fill their memory with absence; needs
            two clips or more.
        synthetic: settings of the generator that differ from its defaults; see `SyntheticSettings`.
    """

    steps: int
    frames: int
    size: int
    clips: int
    targets: int = 3
    learning_rate: float = 4e-4
    image_share: float = 0.0
    focal: float = 0.0
    real_share: float = 0.5
    span: int = 0
    burn_in: int = 0
    freeze_image_encoder: bool = False
    procedural_share: float = 0.0
    coarse_share: float = 0.0
    cutaways: float = 0.0
    synthetic: Mapping[str, Any] = field(default_factory=dict)

    def synthetic_settings(self, frames: int, *, coarse: bool = False) -> SyntheticSettings:
        """What the generator draws in this stage, for clips of so many frames; `coarse` ones are to be enlarged.

        Raises:
            ConfigError: a setting the generator does not have, or a senseless value.
        """
        given = _checked(SyntheticSettings, self.synthetic, "synthetic", without=("frames", "size"))
        side = self.size * 2 // 3 if coarse else self.size
        return SyntheticSettings(frames=frames, size=(side, side), **given)


@dataclass(frozen=True, slots=True)
class OptimiserSettings:
    """AdamW and what surrounds it.

    Attributes:
        muon: whether Muon (Jordan et al. 2024) trains the matrices instead of AdamW, at the same rate; needs torch 2.9.
        weight_decay: of all that has two dimensions or more; biases, norms, positions and the patches' embedding have
            none.
        beta2: of AdamW; beta1 is 0.9.
        encoder_share: the image encoder's learning rate, as a share of that of all else.
        layer_decay: each trunk block learns this much slower than the one after it.
        warmup_steps: linear rise of the learning rate at the start of the run.
        final_share: a stage's cosine ends at this share of where it began.
        clip_norm: gradients are scaled down to this norm.
        ema_decay: of the averaged weights, which are the ones kept in the end.
    """

    muon: bool = False
    weight_decay: float = 0.05
    beta2: float = 0.98
    encoder_share: float = 1.0
    layer_decay: float = 0.9
    warmup_steps: int = 200
    final_share: float = 0.02
    clip_norm: float = 1.0
    ema_decay: float = 0.999


@dataclass(frozen=True, slots=True)
class Recipe:
    """One training run.

    Attributes:
        variant: which network.
        seed: of weights, clips and clicks.
        pretrained: whether it makes sense only from a checkpoint.
        stages: in order.
    """

    variant: str = "nano"
    seed: int = 0
    pretrained: bool = False
    stages: tuple[Stage, ...] = ()
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    losses: LossWeights = field(default_factory=LossWeights)
    interaction: InteractionSettings = field(default_factory=InteractionSettings)
    regularisation: RegularisationSettings = field(default_factory=RegularisationSettings)
    augmentation: Augmentation = field(default_factory=Augmentation)

    @property
    def steps(self) -> int:
        """All stages together."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[int, Stage]:
        """The stage that a step belongs to, and its index; the last one from its end on."""
        for index, stage in enumerate(self.stages):
            if step < stage.steps or index == len(self.stages) - 1:
                return index, stage
            step -= stage.steps
        raise ConfigError("a recipe needs at least one stage", field="stages")

    def losses_at(self, step: int) -> LossWeights:
        """The weights of the step's losses."""
        _, stage = self.stage_at(step)
        return replace(self.losses, focal=stage.focal) if stage.focal else self.losses


_TABLES: Mapping[str, Any] = {
    "optimiser": OptimiserSettings,
    "losses": LossWeights,
    "interaction": InteractionSettings,
    "regularisation": RegularisationSettings,
    "augmentation": Augmentation,
}


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: a TOML file.
        changes: values to replace, see `recipe_changes.changed`.

    Raises:
        ConfigError: unreadable, an unknown key, or a senseless value; names the key.
    """
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    return parse_recipe(changed(content, changes))


def parse_recipe(content: Mapping[str, Any]) -> Recipe:
    """A recipe from parsed TOML. Raises ConfigError."""
    parts: dict[str, Any] = dict(content)
    stages = parts.pop("stages", [])
    if not isinstance(stages, list) or not stages:
        raise ConfigError("a recipe needs at least one [[stages]] table", field="stages")
    for name, kind in _TABLES.items():
        if name in parts:
            parts[name] = _typed(kind, parts[name], name)
    tables = tuple(_typed(Stage, stage, f"stages[{index}]") for index, stage in enumerate(stages))
    recipe: Recipe = _typed(Recipe, parts, "")
    recipe = replace(recipe, stages=tables)
    check_recipe(recipe)
    return recipe


def completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored recipe's table, with today's defaults for what there was no setting of then."""
    parts: dict[str, dict[str, Any]] = {name: asdict(kind()) for name, kind in _TABLES.items()}
    stage = {entry.name: entry.default for entry in fields(Stage) if entry.default is not MISSING}
    return {
        "pretrained": False,
        **stored,
        **{name: part | stored.get(name, {}) for name, part in parts.items()},
        "stages": [stage | dict(each) for each in stored["stages"]],
    }


def check_recipe(recipe: Recipe) -> None:
    """Raises ConfigError for values that cannot be trained with."""
    for index, stage in enumerate(recipe.stages):
        where = f"stages[{index}]"
        for name in ("steps", "frames", "clips", "targets"):
            _require(getattr(stage, name) >= 1, f"{where}.{name}", getattr(stage, name), "at least 1")
        _require(stage.size >= 32 and stage.size % 32 == 0, f"{where}.size", stage.size, "a multiple of 32")
        _require(stage.learning_rate > 0, f"{where}.learning_rate", stage.learning_rate, "above 0")
        try:
            stage.synthetic_settings(stage.frames)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}", field=error.field) from error
        _require(stage.focal >= 0, f"{where}.focal", stage.focal, "at least 0")
        spans = stage.span == 0 or stage.span >= stage.frames
        _require(spans, f"{where}.span", stage.span, f"0 or at least its frames ({stage.frames})")
        burnt = 0 <= stage.burn_in < stage.frames
        _require(burnt, f"{where}.burn_in", stage.burn_in, f"from 0 to below its frames ({stage.frames})")
        several = not stage.cutaways or stage.clips >= 2
        _require(several, f"{where}.clips", stage.clips, "at least 2 for cutaways: each shows another's frames")
        for name in ("image_share", "real_share", "procedural_share", "coarse_share", "cutaways"):
            _require(0 <= getattr(stage, name) <= 1, f"{where}.{name}", getattr(stage, name), "from 0 to 1")
    odds, optimiser, losses = recipe.interaction, recipe.optimiser, recipe.losses
    _require(0 <= recipe.seed <= MAX_SEED, "seed", recipe.seed, f"from 0 to {MAX_SEED}")
    for name in ("click", "box", "second_frame", "box_noise", "from_truth"):
        _require(0 <= getattr(odds, name) <= 1, f"interaction.{name}", getattr(odds, name), "from 0 to 1")
    _require(0 < odds.click + odds.box <= 1, "interaction.click + interaction.box", odds.click + odds.box,
             "above 0 and at most 1")  # fmt: skip
    _require(odds.max_corrections >= 0, "interaction.max_corrections", odds.max_corrections, "at least 0")
    within = 0 <= odds.min_corrections <= odds.max_corrections
    _require(within, "interaction.min_corrections", odds.min_corrections, f"from 0 to {odds.max_corrections}")
    for name in ("focal", "dice", "predicted_iou", "object_score"):
        _require(getattr(losses, name) >= 0, f"losses.{name}", getattr(losses, name), "at least 0")
    used = losses.focal == LossWeights().focal or not all(stage.focal for stage in recipe.stages)
    _require(used, "losses.focal", losses.focal, "left alone where every stage has a focal of its own")
    for name, rate in asdict(recipe.regularisation).items():
        _require(0 <= rate < 1, f"regularisation.{name}", rate, "from 0 to below 1")
    for name in ("flip", "reverse", "grey", "worsen"):
        share = getattr(recipe.augmentation, name)
        _require(0 <= share <= 1, f"augmentation.{name}", share, "from 0 to 1")
    for name in ("turn", "stretch", "colour"):
        strength = getattr(recipe.augmentation, name)
        _require(strength >= 0, f"augmentation.{name}", strength, "at least 0")
    window = recipe.augmentation.min_window
    _require(0.05 <= window <= 1, "augmentation.min_window", window, "from 0.05 to 1")
    for name in ("beta2", "ema_decay"):
        _require(0 <= getattr(optimiser, name) < 1, f"optimiser.{name}", getattr(optimiser, name), "from 0 to below 1")
    for name in ("weight_decay", "warmup_steps"):
        _require(getattr(optimiser, name) >= 0, f"optimiser.{name}", getattr(optimiser, name), "at least 0")
    for name in ("layer_decay", "encoder_share"):
        _require(0 < getattr(optimiser, name) <= 1, f"optimiser.{name}", getattr(optimiser, name),
                 "above 0 and at most 1")  # fmt: skip
    _require(0 <= optimiser.final_share <= 1, "optimiser.final_share", optimiser.final_share, "from 0 to 1")
    _require(optimiser.clip_norm > 0, "optimiser.clip_norm", optimiser.clip_norm, "above 0")


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value}, but must be {expected}", field=name)


def _typed(kind: type, table: object, where: str) -> Any:
    """A dataclass from a table, strictly: no unknown keys, numbers where numbers are due."""
    values = _checked(kind, table, where)
    missing = [n for n in ("steps", "frames", "size", "clips") if kind is Stage and n not in values]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}", field=where)
    return kind(**values)


def _checked(kind: type, table: object, where: str, *, without: Sequence[str] = ()) -> Mapping[str, Any]:
    """The table, if all its keys are fields of `kind` but `without`, and of their types."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} is {table!r}, but must be a table", field=where)
    known = {entry.name: entry for entry in fields(kind) if entry.name not in without}
    prefix = f"{where}." if where else ""
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"unknown key {prefix}{key}; known: {', '.join(known)}", field=f"{prefix}{key}")
        wanted = str(known[key].type)
        right = {"int": int, "float": int | float, "str": str, "bool": bool}.get(wanted)
        if right is not None and (not isinstance(value, right) or isinstance(value, bool) != (wanted == "bool")):
            raise ConfigError(f"{prefix}{key} is {value!r}, but must be of type {wanted}", field=f"{prefix}{key}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{prefix}{key} is {value}, but must be finite", field=f"{prefix}{key}")
    return table
