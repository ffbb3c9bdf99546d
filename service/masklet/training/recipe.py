"""A training run as data: stages, optimiser, sources. Written as TOML, checked before anything starts."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from masklet.errors import ConfigError
from masklet.training.interaction import InteractionSettings
from masklet.training.losses import LossWeights
from masklet.training.recipe_changes import changed
from masklet.training.scene import SyntheticSettings


@dataclass(frozen=True, slots=True)
class Stage:
    """Steps of one kind.

    Attributes:
        steps: optimiser steps.
        frames: frames per clip; 1 is images.
        size: side of the model input in pixels, divisible by 32.
        clips: clips per step and process.
        targets: objects per clip at most.
        learning_rate: its peak in this stage, scaled by the run's cosine.
        image_share: share of the steps that train on single images instead (as many frames in all).
        focal: weight of the focal loss in this stage; 0: the recipe's. From random weights the full weight first
            teaches to call everything background, which takes long to unlearn.
        real_share: share of the steps whose clips come from `--data` instead of the generator, if there is any.
        span: the frames of a drawn clip are picked at random, in order, from so many; 0: from as many as are needed.
            Frames that follow each other closely are much alike and teach little for what they cost.
        procedural_share: share of the drawn clips that use no assets even where there are some.
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
    procedural_share: float = 0.0
    synthetic: Mapping[str, Any] = field(default_factory=dict)

    def synthetic_settings(self, frames: int) -> SyntheticSettings:
        """What the generator draws in this stage, for clips of so many frames.

        Raises:
            ConfigError: a setting the generator does not have, or a senseless value.
        """
        known = {entry.name for entry in fields(SyntheticSettings)} - {"frames", "size"}
        for key in self.synthetic:
            if key not in known:
                raise ConfigError(f"unknown key synthetic.{key}; known: {', '.join(sorted(known))}", field="synthetic")
        return SyntheticSettings(frames=frames, size=(self.size, self.size), **self.synthetic)


@dataclass(frozen=True, slots=True)
class OptimiserSettings:
    """AdamW and what surrounds it.

    Attributes:
        muon: whether Muon (Jordan et al. 2024) trains the matrices instead of AdamW, at the same rate; needs torch 2.9.
        weight_decay: of matrices; vectors, norms and embeddings have none.
        beta2: of AdamW; beta1 is 0.9.
        layer_decay: each trunk block learns this much slower than the one after it.
        warmup_steps: linear rise of the learning rate, also after every resume-free change of stage.
        final_share: the cosine ends at this share of the peak.
        clip_norm: gradients are scaled down to this norm.
        ema_decay: of the averaged weights, which are the ones kept in the end.
    """

    muon: bool = False
    weight_decay: float = 0.05
    beta2: float = 0.98
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
        stages: in order.
    """

    variant: str = "nano"
    seed: int = 0
    stages: tuple[Stage, ...] = ()
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    losses: LossWeights = field(default_factory=LossWeights)
    interaction: InteractionSettings = field(default_factory=InteractionSettings)

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
    nested = {"optimiser": OptimiserSettings, "losses": LossWeights, "interaction": InteractionSettings}
    for name, kind in nested.items():
        if name in parts:
            parts[name] = _typed(kind, parts[name], name)
    tables = tuple(_typed(Stage, stage, f"stages[{index}]") for index, stage in enumerate(stages))
    recipe: Recipe = _typed(Recipe, parts, "")
    recipe = replace(recipe, stages=tables)
    check_recipe(recipe)
    return recipe


def check_recipe(recipe: Recipe) -> None:
    """Raises ConfigError for values that cannot be trained with."""
    for index, stage in enumerate(recipe.stages):
        where = f"stages[{index}]"
        for name in ("steps", "frames", "clips", "targets"):
            _require(getattr(stage, name) >= 1, f"{where}.{name}", getattr(stage, name), "at least 1")
        _require(stage.size >= 32 and stage.size % 32 == 0, f"{where}.size", stage.size, "a multiple of 32")
        _require(stage.learning_rate > 0, f"{where}.learning_rate", stage.learning_rate, "above 0")
        stage.synthetic_settings(stage.frames)
        _require(stage.focal >= 0, f"{where}.focal", stage.focal, "at least 0")
        spans = stage.span == 0 or stage.span >= stage.frames
        _require(spans, f"{where}.span", stage.span, f"0 or at least its frames ({stage.frames})")
        for name in ("image_share", "real_share", "procedural_share"):
            _require(0 <= getattr(stage, name) <= 1, f"{where}.{name}", getattr(stage, name), "from 0 to 1")
    odds = recipe.interaction
    _require(0 <= odds.click + odds.box <= 1, "interaction.click + interaction.box", odds.click + odds.box, "at most 1")
    _require(odds.click + odds.box > 0, "interaction.click + interaction.box", 0, "above 0")
    _require(odds.max_corrections >= 0, "interaction.max_corrections", odds.max_corrections, "at least 0")
    _require(
        0 <= recipe.optimiser.ema_decay < 1, "optimiser.ema_decay", recipe.optimiser.ema_decay, "from 0 to below 1"
    )


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value}, but must be {expected}", field=name)


def _typed(kind: type, table: object, where: str) -> Any:
    """A dataclass from a table, strictly: no unknown keys, numbers where numbers are due."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a table", field=where)
    known = {entry.name: entry for entry in fields(kind)}
    prefix = f"{where}." if where else ""
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"unknown key {prefix}{key}; known: {', '.join(known)}", field=f"{prefix}{key}")
        wanted = str(known[key].type)
        right = {"int": int, "float": int | float, "str": str, "bool": bool}.get(wanted)
        if right is not None and (not isinstance(value, right) or isinstance(value, bool) != (wanted == "bool")):
            raise ConfigError(f"{prefix}{key} is {value!r}, but must be of type {wanted}", field=f"{prefix}{key}")
    missing = [n for n in ("steps", "frames", "size", "clips") if kind is Stage and n not in table]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}", field=where)
    return kind(**table)
