"""The files of a training run: its state, its averaged weights, its log. They are replaced whole; nobody else's are."""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masklet.errors import ConfigError, WeightsError
from masklet.model.checkpoint import save_checkpoint

LOG_COLUMNS = (
    "step", "stage", "frames", "size", "learning_rate", "loss", "focal", "dice", "predicted_iou", "object_score", "iou",
    "gradient_norm", "seconds",
)  # fmt: skip


class RunFolder:
    """One run's folder.

    Args:
        path: the folder; it need not exist.
        variant: of the network, which the weights' file is named after.

    Attributes:
        weights: the file of the averaged weights.
    """

    def __init__(self, path: Path, variant: str) -> None:
        self.path = path
        self.weights = path / f"{variant}.safetensors"
        self._state = path / "state.pt"
        self._log = path / "log.csv"

    @property
    def has_state(self) -> bool:
        """Whether there is something to go on from."""
        return self._state.exists()

    def make(self) -> None:
        """Create the folder if need be. Raises ConfigError."""
        with _writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of this folder. Raises ConfigError if one is in it, or it cannot be written."""
        self.make()
        with _writing(self.path):
            held = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(f"another run is training in {self.path}", field="out") from error
            except OSError:  # a file system without locks
                pass
            yield
        finally:
            os.close(held)

    def claim(self) -> None:
        """Make room for a run that starts anew; a log that is already there is set aside.

        Raises:
            ConfigError: there are weights that the run would replace, or the folder cannot be written.
        """
        if self.weights.exists():
            raise ConfigError(
                f"{self.weights} exists, but no {self._state.name} beside it to go on from: choose another folder",
                field="out",
            )
        self.make()
        if self._log.exists():
            numbered = (self._log.with_name(f"{self._log.stem}.{number}.csv") for number in count(1))
            with _writing(self._log):
                self._log.rename(next(file for file in numbered if not file.exists()))

    def load(self) -> dict[str, Any]:
        """The last state, on the CPU. Raises WeightsError if it is damaged or none of ours.

        Not on the device: AdamW's step counters would stay there, and be waited for in every step.
        """
        try:
            state: dict[str, Any] = torch.load(self._state, map_location="cpu", weights_only=True)
            int(state["step"]), state["recipe"]["variant"]
        except Exception as error:  # a damaged file can raise almost anything from inside the parser
            raise WeightsError(f"{self._state} is not the state of a training run: {error}") from error
        return state

    def save(self, state: Mapping[str, Any], average: Mapping[str, Tensor]) -> None:
        """Replace state and weights.

        Raises:
            ConfigError: the state cannot be written.
            WeightsError: the weights cannot be written.
        """
        with _replacing(self._state) as part:
            torch.save(dict(state), part)
        save_checkpoint(average, self.weights)

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row. Raises ConfigError."""
        with _writing(self._log), self._log.open("a", newline="") as opened:
            if not opened.tell():
                opened.write(_lines([LOG_COLUMNS]))
            opened.write(_lines([[_shown(row[name]) for name in LOG_COLUMNS]]))

    def cut_log(self, step: int) -> None:
        """Drop rows after `step`, and those that a crash left half written. Raises ConfigError."""
        if not self._log.exists():
            return
        with _replacing(self._log) as part:
            with self._log.open(newline="", errors="replace") as opened:
                lines = [line.replace("\0", "") for line in opened]
            rows = [row for row in csv.reader(lines) if len(row) == len(LOG_COLUMNS) and row[0].isdecimal()]
            kept = [row for row in rows if int(row[0]) <= step]
            part.write_text(_lines([LOG_COLUMNS, *kept]), newline="")


def _lines(rows: list[Any]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _shown(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError when the disk is full
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ConfigError(f"{file}: cannot be written: {reason}", field="out") from error


@contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """A file to write, put in the place of `file` at the end, or removed if that fails."""
    part = file.with_name(f"{file.name}.part")
    try:
        with _writing(file):
            yield part
            os.replace(part, file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
