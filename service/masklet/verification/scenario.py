"""A golden scenario: frames, prompts, and what the reference answered."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from masklet.errors import ConfigError
from masklet.types import ImageArray, Profile, Prompt, PromptMode

SEEDED_WEIGHTS = "seeded_weights.py"


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """What is said before a frame is tracked, or after."""

    frame: int
    after: bool
    remove: tuple[int, ...]
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """One recorded stream.

    Attributes:
        path: its .json file.
        variant: model variant.
        weights_seed: seed of the weights it was recorded on.
        profile: parameter set.
        image_size: model input size; frames are stored at it.
        max_conditioning_frames: None: no limit.
        corrections_as_conditioning: whether corrections stay in memory.
        events: what was said, in order.
        frames: [T, S, S, 3] uint8 RGB.
        answers: "tracked/t/o/logits" and so on, as in the golden README.
    """

    path: Path
    variant: str
    weights_seed: int
    profile: Profile
    image_size: int
    max_conditioning_frames: int | None
    corrections_as_conditioning: bool
    events: tuple[Event, ...]
    frames: ImageArray
    answers: dict[str, npt.NDArray[np.float32]]

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.path.parent.name}/{self.path.stem}"

    def events_of(self, frame: int, *, after: bool) -> Iterator[Event]:
        """What is said before or after one frame."""
        return (event for event in self.events if event.frame == frame and event.after == after)

    def answer(self, key: str) -> npt.NDArray[np.float32]:
        """One recorded answer. Raises ConfigError if it was not recorded."""
        if key not in self.answers:
            raise ConfigError(f"{self.path.with_suffix('.npz')} holds no {key}")
        return self.answers[key]


def find_scenarios(folder: Path) -> list[Path]:
    """The .json files of scenarios in a folder; or of the one that `folder` names.

    Raises:
        ConfigError: no such folder, or no scenario in it.
    """
    if folder.suffix == ".json" and folder.with_suffix(".npz").exists():
        return [folder]
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder")
    found = [path for path in sorted(folder.glob("*.json")) if path.with_suffix(".npz").exists()]
    if not found:
        raise ConfigError(f"{folder} holds no scenario (a .json and an .npz of the same name)")
    return found


def read_scenario(path: Path) -> Scenario:
    """Read one scenario. Raises ConfigError if the files are not a scenario."""
    try:
        described = json.loads(path.read_text())
        with path.with_suffix(".npz").open("rb") as file, np.load(file) as arrays:
            answers = {key: arrays[key] for key in arrays.files}
        return _scenario(path, described, answers)
    except Exception as error:  # of a torn file numpy, zipfile and zlib raise all sorts
        raise ConfigError(f"{path} is not a scenario: {type(error).__name__}: {error}") from error


def _scenario(path: Path, described: dict[str, Any], answers: dict[str, npt.NDArray[Any]]) -> Scenario:
    frames = answers.pop("frames")
    return Scenario(
        path=path,
        variant=described["variant"],
        weights_seed=described["weights_seed"],
        profile=Profile(described["profile"]),
        image_size=described["image_size"],
        max_conditioning_frames=described["max_cond_frames"],
        corrections_as_conditioning=described["corrections_as_conditioning"],
        events=tuple(_event(event, frames.shape[1]) for event in described["events"]),
        frames=frames,
        answers=answers,
    )


def _event(described: dict[str, Any], size: int) -> Event:
    after = described["when"] == "after"
    return Event(
        frame=described["frame"],
        after=after,
        remove=tuple(described.get("remove", ())),
        prompts=tuple(_prompt(prompt, size, after=after) for prompt in described.get("prompts", ())),
    )


def _prompt(described: dict[str, Any], size: int, *, after: bool) -> Prompt:
    """A prompt said before a frame ignores memory (RESTART), one said after it corrects the answer (REFINE)."""
    mask = None
    if "mask" in described:
        left, top, right, bottom = described["mask"]
        mask = np.zeros((size, size), bool)
        mask[top:bottom, left:right] = True
    return Prompt(
        object_id=described["object_id"],
        points=np.asarray(described.get("points", []), np.float32).reshape(-1, 2),
        labels=np.asarray(described.get("labels", []), np.int32),
        box=np.asarray(described["box"], np.float32) if "box" in described else None,
        mask=mask,
        keep_old_points=not described.get("clear_old_points", True),
        mode=PromptMode.REFINE if after else PromptMode.RESTART,
    )


def write_weights(scenario: Scenario, folder: Path) -> Path:
    """The checkpoint a scenario was recorded on, drawn from its seed; written once per folder.

    Raises:
        ConfigError: no seeded_weights.py is in the scenario's folder or the one above, or it cannot draw the variant.
    """
    path = folder / f"{scenario.variant}-{scenario.weights_seed}.pt"
    if path.exists():
        return path
    beside = scenario.path.resolve().parent
    script = next((p / SEEDED_WEIGHTS for p in (beside, beside.parent) if (p / SEEDED_WEIGHTS).exists()), None)
    if script is None:
        raise ConfigError(f"no {SEEDED_WEIGHTS} in {beside} or the folder above it")
    try:
        runpy.run_path(str(script))["save_checkpoint"](scenario.variant, scenario.weights_seed, path)
    except Exception as error:  # the script is not ours
        raise ConfigError(f"{script} cannot draw weights of {scenario.variant}: {error!r}") from error
    return path
