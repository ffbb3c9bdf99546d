"""The training loop: steps in, checkpoints and a log out. Stops anywhere and goes on from where it was."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from tqdm import tqdm

from masklet.errors import ConfigError, DatasetError, WeightsError
from masklet.model import SAM2, variant_config
from masklet.model.checkpoint import load_weights
from masklet.training.assets import AssetBank
from masklet.training.datasets import VideoSequence
from masklet.training.initial import initialise
from masklet.training.losses import Losses, compute_losses
from masklet.training.optimise import (
    AveragedWeights,
    clip_gradients,
    drop_zero_gradients,
    learning_rate,
    make_optimiser,
    restore_optimiser,
    set_learning_rate,
)
from masklet.training.parallel import Processes, average_gradients, average_scalars, gather_scalars
from masklet.training.recipe import Recipe, Stage, completed
from masklet.training.recipe_changes import differences
from masklet.training.regularise import regularise, seeded
from masklet.training.run_folder import LOG_COLUMNS, RunFolder
from masklet.training.source import StepInput, StepSource, load_steps
from masklet.training.unroll import Unroll

_SKIPPED_AT_MOST = 20
_SMALL_PX = 64


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Where and how a recipe is run; none of it changes what is learnt but `precision`.

    Attributes:
        folder: checkpoints and the log.
        device: a torch device.
        precision: torch.float32, or torch.bfloat16 for the network's heavy parts (weights stay float32).
        workers: processes that prepare clips.
        save_every: steps between checkpoints.
        time_limit_s: stop and save after so long; 0: no limit.
        progress: show a progress bar.
    """

    folder: Path
    device: torch.device
    precision: torch.dtype
    workers: int = 1
    save_every: int = 500
    time_limit_s: float = 0.0
    progress: bool = True


class Trainer:
    """One process of one run.

    Attributes:
        step: optimiser steps done.
        changes: values of the recipe, and counts of what else it is given, that are not those of the state it went on
            from, like "seed 0 -> 7".
    """

    def __init__(
        self,
        recipe: Recipe,
        settings: RunSettings,
        *,
        assets: AssetBank,
        sequences: Sequence[VideoSequence] = (),
        processes: Processes | None = None,
        init: Path | None = None,
    ) -> None:
        self.recipe = recipe
        self.settings = settings
        self.processes = processes or Processes()
        self.source = StepSource(recipe, assets, sequences, self.processes)
        self.step = 0
        self.changes: tuple[str, ...] = ()
        self._folder = RunFolder(settings.folder, recipe.variant)
        self._stage = -1
        self._skipped = 0
        self._deadline_s = math.inf
        self._stopping = False
        self._ends = False
        self.network = SAM2(variant_config(recipe.variant)).train()
        if init is None:
            initialise(self.network, recipe.seed)
        else:
            load_weights(self.network, init, variant=recipe.variant)
        self.network.to(settings.device)
        regularise(self.network, recipe.regularisation)
        self.optimiser = make_optimiser(self.network, recipe.optimiser)
        self.average = AveragedWeights(self.network.state_dict(), recipe.optimiser.ema_decay)

    def run(self) -> Path:
        """Train to the end of the recipe, to the time limit, or until told to `stop`.

        Returns:
            The file of the averaged weights.

        Raises:
            ConfigError: a file cannot be written, or the loss is not finite any more.
            DatasetError: a video cannot be read.
        """
        if self.processes.leads:
            self._folder.make()
        if self.settings.time_limit_s:
            self._deadline_s = time.monotonic() + self.settings.time_limit_s
        steps = load_steps(self.source, first=self.step, last=self.recipe.steps, workers=self.settings.workers)
        shown = self.settings.progress and self.processes.leads
        with tqdm(total=self.recipe.steps, initial=self.step, disable=not shown, unit="step", smoothing=0.1) as bar:
            for step_input in self._saved_at_the_end_of(steps):
                try:
                    row = self.train_step(step_input)
                except torch.OutOfMemoryError as error:
                    raise self._too_large(error) from error
                bar.update()
                bar.set_postfix(loss=f"{row['loss']:.3f}", iou=f"{row['iou']:.3f}", refresh=False)
                if self.processes.leads:
                    self._folder.log(row)
                self._check_finite()
                if self._ends:
                    break
                if self.step % self.settings.save_every == 0:
                    self.save()
        return self.save()

    def _saved_at_the_end_of(self, steps: Iterable[StepInput]) -> Iterator[StepInput]:
        """The same; what was learnt is saved if a video cannot be read."""
        try:
            yield from steps
        except DatasetError:
            if self.step:
                self.save()
            raise

    def stop(self) -> None:
        """Let `run` end after this step or the next, in all processes; for signal handlers and other threads."""
        self._stopping = True

    def train_step(self, step_input: StepInput) -> dict[str, Any]:
        """One optimiser step; its row of the log."""
        started = time.perf_counter()
        index, stage = self.recipe.stage_at(self.step)
        if index != self._stage:
            self._enter(index, stage)
        rate = learning_rate(self.recipe, self.step)
        set_learning_rate(self.optimiser, rate)
        *losses, ends = self._backward(step_input).tolist()
        self._ends = ends > 0
        average_gradients(self.network.parameters(), self.processes)
        drop_zero_gradients(self.network.parameters())
        norm = clip_gradients(self.network.parameters(), self.recipe.optimiser.clip_norm)
        if bool(torch.isfinite(norm)):  # a step that overflowed teaches nothing and must not spoil the weights
            self.optimiser.step()
            self.average.update(self.network.state_dict(), self.step)
            self._skipped = 0
        else:
            self._skipped += 1
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        frames = len(step_input.batch.frames)
        values = [self.step, index, frames, stage.size, rate, *losses, float(norm)]
        return dict(zip(LOG_COLUMNS, [*values, time.perf_counter() - started], strict=True))

    def _backward(self, step_input: StepInput) -> Tensor:
        """[7]: the loss and its parts, means over all processes; last, above 0 if one of them wants to end now.

        All end after the same step, so that none waits for gradients of another that has left.
        """
        ends = self._stopping or time.monotonic() > self._deadline_s
        losses = self.losses(step_input)
        total = losses.total(self.recipe.losses_at(self.step))
        total.backward()
        parts = [total, losses.focal, losses.dice, losses.predicted_iou, losses.object_score, losses.iou]
        parts.append(torch.tensor(float(ends), device=total.device))
        return average_scalars(torch.stack([part.detach().float() for part in parts]), self.processes)

    def losses(self, step_input: StepInput) -> Losses:
        """The losses of one step's input with the current weights."""
        seed = (self.recipe.seed * 1_000_003 + self.step) * 4099 + self.processes.rank
        random = torch.Generator(device=self.settings.device).manual_seed(seed)
        _, stage = self.recipe.stage_at(self.step)
        unroll = Unroll(self.network, self.recipe.interaction, freeze_image_encoder=stage.freeze_image_encoder)
        weights = {f"network.{k}": v for k, v in self.network.parameters_in(self.settings.precision).items()}
        batch = step_input.batch.to(self.settings.device)
        with seeded(seed, self.settings.device):
            predictions = functional_call(unroll, weights, (batch, step_input.plan, random))
        return compute_losses(predictions, self.recipe.losses_at(self.step))

    def save(self) -> Path:
        """Write the run's state and its averaged weights, each replaced atomically; the weights' file.

        Raises:
            ConfigError: they cannot be written, or are not finite.
        """
        if not all(bool(torch.isfinite(value).all()) for value in self.average.state.values()):
            raise ConfigError(
                f"weights are not finite any more at step {self.step}, and not saved: a lower learning_rate may help",
                field="learning_rate",
            )
        if self.processes.leads:
            state = {
                "recipe": asdict(self.recipe),
                "given": self._given,
                "step": self.step,
                "network": self.network.state_dict(),
                "average": self.average.state,
                "optimiser": self.optimiser.state_dict(),
            }
            self._folder.save(state, self.average.state)
        return self._folder.weights

    def resume(self) -> bool:
        """Go on from the folder's last state, if it has one; else make it this run's.

        Raises:
            WeightsError: the state is damaged, or of another variant.
            ConfigError: the state is of a longer run, of another optimiser, or not the same for all processes; the
                folder holds what a new run would replace.
        """
        found = self._folder.has_state
        if found:
            self._restore(self._folder.load())
        elif self.processes.leads:
            self._folder.claim()
        steps = gather_scalars(self.step, self.settings.device, self.processes)
        if other := next((rank for rank, step in enumerate(steps) if step != steps[0]), 0):
            raise ConfigError(
                f"process {other} is at step {steps[other]}, process 0 at step {steps[0]}: all need the same folder",
                field="out",
            )
        return found

    def _restore(self, state: dict[str, Any]) -> None:
        variant, step, file = state["recipe"]["variant"], int(state["step"]), self.settings.folder
        if variant != self.recipe.variant:
            raise WeightsError(f"the run in {file} is of variant {variant}, the recipe is for {self.recipe.variant}")
        if step > self.recipe.steps:
            raise ConfigError(f"the run in {file} is at step {step}, the recipe has only {self.recipe.steps} steps")
        self.network.load_state_dict(state["network"])
        self.average.state = {name: value.to(self.settings.device) for name, value in state["average"].items()}
        try:
            restore_optimiser(self.optimiser, state["optimiser"])
        except (KeyError, ValueError) as error:
            raise ConfigError(f"the run in {file} has other optimiser settings: {error}") from error
        self.step = step
        given = differences({"cosine": "per run", **state.get("given", self._given)}, self._given)
        self.changes = (*differences(completed(state["recipe"]), asdict(self.recipe)), *given)
        if self.processes.leads:
            self._folder.cut_log(step)

    @property
    def _given(self) -> dict[str, Any]:
        """What steps depend on beside the recipe, as far as it can be told in a line."""
        return {
            "videos": len(self.source.sequences),
            "pictures": self.source.assets.pictures,
            "precision": str(self.settings.precision).removeprefix("torch."),
            "processes": self.processes.count,
            "cosine": "per stage" if len(self.recipe.stages) > 1 else "per run",  # one stage: they are the same
        }

    def _too_large(self, error: torch.OutOfMemoryError) -> ConfigError:
        index, stage = self.recipe.stage_at(self.step)
        less = ["targets", "frames", "clips"]
        if stage.size > _SMALL_PX:
            less.insert(0, f"size ({stage.size // 64 * 32}, say)")
        if not stage.freeze_image_encoder:
            less.append("freeze_image_encoder=true")
        return ConfigError(
            f"out of memory at step {self.step}: {stage.clips} clips of {stage.frames} frames of {stage.size} px"
            f" with up to {stage.targets} targets; less is taken with other values of stages.{index}: {', '.join(less)}"
            f" ({str(error).splitlines()[0]})",
            field=f"stages.{index}",
        )

    def _check_finite(self) -> None:
        if self._skipped >= _SKIPPED_AT_MOST:
            raise ConfigError(
                f"gradients have not been finite since step {self.step - self._skipped}, so nothing is learnt: "
                "a lower learning_rate may help",
                field="learning_rate",
            )

    def _enter(self, index: int, stage: Stage) -> None:
        """A stage may have another input size: same weights, other position tables."""
        self.network.set_input_size(stage.size)
        self._stage = index
