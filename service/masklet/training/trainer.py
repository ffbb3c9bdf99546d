"""The training loop: steps in, checkpoints and a log out. Stops anywhere and goes on from where it was."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from tqdm import tqdm

from masklet.errors import ConfigError, WeightsError
from masklet.model import SAM2, variant_config
from masklet.model.checkpoint import load_weights, save_checkpoint
from masklet.training.assets import AssetBank
from masklet.training.datasets import VideoSequence
from masklet.training.initial import initialise
from masklet.training.losses import Losses, compute_losses
from masklet.training.optimise import AveragedWeights, clip_gradients, learning_rate, make_optimiser, set_learning_rate
from masklet.training.parallel import Processes, average_gradients, average_scalars
from masklet.training.recipe import Recipe, Stage
from masklet.training.source import StepInput, StepSource, load_steps
from masklet.training.unroll import Unroll

LOG_COLUMNS = (
    "step", "stage", "frames", "size", "learning_rate", "loss", "focal", "dice", "predicted_iou", "object_score", "iou",
    "gradient_norm", "seconds",
)  # fmt: skip
_STATE_FILE = "state.pt"
_LOG_FILE = "log.csv"


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
    """One process of one run."""

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
        self._stage = -1
        self.network = SAM2(variant_config(recipe.variant)).train()
        if init is None:
            initialise(self.network, recipe.seed)
        else:
            load_weights(self.network, init, variant=recipe.variant)
        self.network.to(settings.device)
        self.optimiser = make_optimiser(self.network, recipe.optimiser)
        self.average = AveragedWeights(self.network.state_dict(), recipe.optimiser.ema_decay)

    def run(self) -> Path:
        """Train to the end of the recipe, or to the time limit.

        Returns:
            The file of the averaged weights.
        """
        self.settings.folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        steps = load_steps(self.source, first=self.step, last=self.recipe.steps, workers=self.settings.workers)
        shown = self.settings.progress and self.processes.leads
        with tqdm(total=self.recipe.steps, initial=self.step, disable=not shown, unit="step", smoothing=0.1) as bar:
            for step_input in steps:
                row = self.train_step(step_input)
                bar.update()
                bar.set_postfix(loss=f"{row['loss']:.3f}", iou=f"{row['iou']:.3f}", refresh=False)
                self._log(row)
                if self.step % self.settings.save_every == 0:
                    self.save()
                if self.settings.time_limit_s and time.monotonic() - started > self.settings.time_limit_s:
                    break
        return self.save()

    def train_step(self, step_input: StepInput) -> dict[str, Any]:
        """One optimiser step; its row of the log."""
        started = time.perf_counter()
        index, stage = self.recipe.stage_at(self.step)
        if index != self._stage:
            self._enter(index, stage)
        rate = learning_rate(self.recipe, self.step)
        set_learning_rate(self.optimiser, rate)
        losses = self._backward(step_input)
        average_gradients(self.network.parameters(), self.processes)
        norm = clip_gradients(self.network.parameters(), self.recipe.optimiser.clip_norm)
        if bool(torch.isfinite(norm)):  # a step that overflowed teaches nothing and must not spoil the weights
            self.optimiser.step()
            self.average.update(self.network.state_dict(), self.step)
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        frames = len(step_input.batch.frames)
        values = [self.step, index, frames, stage.size, rate, *losses.tolist(), float(norm)]
        return dict(zip(LOG_COLUMNS, [*values, time.perf_counter() - started], strict=True))

    def _backward(self, step_input: StepInput) -> Tensor:
        """[6]: the loss and its parts, means over all processes."""
        losses = self.losses(step_input)
        total = losses.total(self.recipe.losses_at(self.step))
        total.backward()
        parts = (total, losses.focal, losses.dice, losses.predicted_iou, losses.object_score, losses.iou)
        return average_scalars(torch.stack([part.detach().float() for part in parts]), self.processes)

    def losses(self, step_input: StepInput) -> Losses:
        """The losses of one step's input with the current weights."""
        random = torch.Generator(device=self.settings.device)
        random.manual_seed((self.recipe.seed * 1_000_003 + self.step) * 4099 + self.processes.rank)
        unroll = Unroll(self.network, self.recipe.interaction)
        weights = {f"network.{k}": v for k, v in self.network.parameters_in(self.settings.precision).items()}
        batch = step_input.batch.to(self.settings.device)
        predictions = functional_call(unroll, weights, (batch, step_input.plan, random))
        return compute_losses(predictions, self.recipe.losses_at(self.step))

    def save(self) -> Path:
        """Write the run's state and its averaged weights, each replaced atomically; the weights' file."""
        weights = self.settings.folder / f"{self.recipe.variant}.safetensors"
        if self.processes.leads:
            state = {
                "recipe": asdict(self.recipe),
                "step": self.step,
                "network": self.network.state_dict(),
                "average": self.average.state,
                "optimiser": self.optimiser.state_dict(),
            }
            part = self.settings.folder / f"{_STATE_FILE}.part"
            torch.save(state, part)
            part.replace(self.settings.folder / _STATE_FILE)
            save_checkpoint(self.average.state, weights)
        return weights

    def resume(self) -> bool:
        """Go on from the folder's last state, if it has one.

        Raises:
            WeightsError: the state is damaged, or of another variant.
        ConfigError: the state is of a longer run, or of another optimiser.
        """
        file = self.settings.folder / _STATE_FILE
        if not file.exists():
            return False
        try:
            state = torch.load(file, map_location=self.settings.device, weights_only=True)
            variant, step = state["recipe"]["variant"], int(state["step"])
        except Exception as error:  # a damaged file can raise almost anything from inside the parser
            raise WeightsError(f"{file} is not the state of a training run: {error}") from error
        if variant != self.recipe.variant:
            raise WeightsError(f"{file} is of variant {variant}, the recipe is for {self.recipe.variant}")
        if step > self.recipe.steps:
            raise ConfigError(f"{file} is at step {step}, the recipe has only {self.recipe.steps} steps")
        self.network.load_state_dict(state["network"])
        self.average.state = state["average"]
        try:
            self.optimiser.load_state_dict(state["optimiser"])
        except (KeyError, ValueError) as error:
            raise ConfigError(f"{file} is of a run with other optimiser settings: {error}") from error
        self.step = step
        self._cut_log()
        return True

    def _enter(self, index: int, stage: Stage) -> None:
        """A stage may have another input size: same weights, other position tables."""
        self.network.set_input_size(stage.size)
        self._stage = index

    def _log(self, row: dict[str, Any]) -> None:
        if not self.processes.leads:
            return
        file = self.settings.folder / _LOG_FILE
        new = not file.exists()
        with file.open("a", newline="") as opened:
            writer = csv.DictWriter(opened, LOG_COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})

    def _cut_log(self) -> None:
        """Drop rows after the state that training goes on from."""
        file = self.settings.folder / _LOG_FILE
        if self.processes.leads and file.exists():
            with file.open(newline="") as opened:
                rows = [row for row in csv.DictReader(opened) if int(row["step"]) <= self.step]
            file.unlink()
            for row in rows:
                self._log(row)
