"""Two ways to track the same frames with the same weights: our engine, and the peer of `peer_transformers`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from masklet.engine import Engine, EngineSettings
from masklet.errors import MaskletError
from masklet.model import build
from masklet.types import Prompt, Size, StepRequest, StepResult, TrackSettings

Image = npt.NDArray[np.uint8]
Masks = npt.NDArray[np.bool_]
State = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Load:
    """What is tracked, and how.

    Attributes:
        variant: published variant.
        size: model input and frame side in pixels.
        objects: per stream.
        streams: side by side.
        precision: "float32" or "bfloat16".
        device: "cpu" or "cuda".
    """

    variant: str
    size: int
    objects: int = 1
    streams: int = 1
    precision: str = "float32"
    device: str = "cpu"

    def with_precision(self, precision: str) -> Load:
        """The same load in another precision."""
        return replace(self, precision=precision)

    @property
    def dtype(self) -> torch.dtype:
        """Of the network."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def clicks(self, frame_size: Size | None = None) -> list[tuple[float, float]]:
        """One click per object, spread over a frame of `frame_size` (the model's size if None)."""
        height, width = frame_size or (self.size, self.size)
        side = int(np.ceil(np.sqrt(self.objects)))
        cells = [(column, row) for row in range(side) for column in range(side)][: self.objects]
        return [((column + 0.5) * width / side, (row + 0.5) * height / side) for column, row in cells]


class Runner(Protocol):
    """Tracks all streams of a load, one frame each per step."""

    def prepare(self, image: Image) -> Any:
        """What is not timed."""
        ...

    def step(self, prepared: Any) -> None:
        """One frame on every stream, results complete on return."""
        ...

    def masks(self) -> Masks:
        """The last step's masks of the first stream, [objects, h, w]."""
        ...

    def state_bytes(self) -> int:
        """What is kept for all streams between frames, weights not counted."""
        ...


class OurRunner:
    """`masklet.engine.Engine`: all streams in one batch, from uint8 pixels to full-size masks."""

    def __init__(
        self, load: Load, state: State, *, frame_size: Size | None = None, track: TrackSettings | None = None
    ) -> None:
        self._clicks = load.clicks(frame_size)
        network = build(load.variant, input_size=load.size, seed=None)
        network.load_state_dict(state)
        settings = EngineSettings(device=load.device, precision=load.precision, memory_precision=load.precision)
        self._engine, self._seq = Engine(network, settings), 0
        self._sessions = [f"stream {number}" for number in range(load.streams)]
        self._last: StepResult | None = None
        for session in self._sessions:
            self._engine.open(session, track or TrackSettings(fill_hole_area=0))

    def prepare(self, image: Image) -> Image:
        """Frames go in as they are."""
        return image

    def step(self, prepared: Image) -> None:
        """One frame on every stream."""
        clicks = enumerate(self._clicks, start=1) if self._seq == 0 else ()
        prompts = tuple(Prompt.clicks(number, [point]) for number, point in clicks)
        request = StepRequest(frame_seq=self._seq + 1, image=prepared, prompts=prompts)
        results = self._engine.step([(session, request) for session in self._sessions])
        self._seq += 1
        for result in reversed(results):
            if isinstance(result, MaskletError):
                raise result
            self._last = result

    def masks(self) -> Masks:
        """The last masks, at frame size."""
        if self._last is None:
            raise RuntimeError("no step was made")
        return np.stack([found.mask for found in self._last.objects])

    def state_bytes(self) -> int:
        """Memories, pointers, and the frames and answers that may still be corrected: all that would be exported."""
        return sum(len(self._engine.export_state(session)) for session in self._sessions)


class PeerRunner:
    """`transformers`: one session per stream, one after the other, from normalised pixels to low-resolution logits."""

    def __init__(self, load: Load, state: State) -> None:
        from peer_transformers import PeerStream, build_peer

        model = build_peer(load.variant, state, image_size=load.size, dtype=load.dtype, device=load.device)
        self._streams = [PeerStream(model, image_size=load.size) for _ in range(load.streams)]
        self._load = load
        self._logits = torch.zeros(0)
        for stream in self._streams:
            for number, point in enumerate(load.clicks(), start=1):
                stream.click(number, point)

    def prepare(self, image: Image) -> torch.Tensor:
        """Normalise, on the device."""
        from peer_transformers import normalise

        return normalise(image, dtype=self._load.dtype, device=self._load.device)

    def step(self, prepared: torch.Tensor) -> None:
        """One frame on every stream."""
        logits = [stream.step(prepared) for stream in self._streams]
        self._logits = logits[0]
        if self._load.device != "cpu":
            torch.cuda.synchronize()

    def trim(self) -> None:
        """See `PeerStream.trim`."""
        for stream in self._streams:
            stream.trim()

    def masks(self) -> Masks:
        """The last masks, at low resolution."""
        return (self._logits > 0).cpu().numpy()

    def state_bytes(self) -> int:
        """See `PeerStream.state_bytes`; trimmed."""
        return sum(stream.state_bytes() for stream in self._streams)


def seeded_state(variant: str, size: int, *, seed: int = 7) -> State:
    """Random weights for both sides, biased as trained ones are.

    Objects never count as absent (their masks would be empty), and one of the three candidate masks is clearly the
    best (or rounding would decide which one is taken, and masks in two precisions could not be compared).
    """
    state = dict(build(variant, input_size=size, seed=seed).state_dict())
    score, quality = (
        f"sam_mask_decoder.{head}.layers.2.bias" for head in ("pred_obj_score_head", "iou_prediction_head")
    )
    preference = torch.tensor([0.0, 3.0, -3.0, -3.0])
    return state | {score: state[score] + 100.0, quality: state[quality] + preference}


def synthetic_frames(size: int, *, seed: int = 11) -> Iterator[Image]:
    """[size, size, 3] uint8 frames without end: bright squares that drift over a coarse texture."""
    rng = np.random.default_rng(seed)
    texture = np.kron(rng.integers(40, 160, (8, 8, 3)), np.ones((size // 8, size // 8, 1))).astype(np.uint8)
    starts, side = rng.integers(0, size, (4, 2)), max(4, size // 6)
    time_step = 0
    while True:
        frame = texture.copy()
        for number, start in enumerate(starts):
            y, x = (start + time_step * (number + 1) * size // 200) % (size - side)
            frame[y : y + side, x : x + side] = 255 - 50 * number
        yield frame
        time_step += 1


def timed_step(runner: Runner, image: Image) -> float:
    """Seconds one step takes, preparation left out."""
    prepared = runner.prepare(image)
    started = time.perf_counter()
    runner.step(prepared)
    return time.perf_counter() - started


def mask_iou(one: Masks, other: Masks) -> float:
    """Mean over objects of intersection over union; two empty masks agree."""
    union = (one | other).sum(axis=(1, 2))
    shared = (one & other).sum(axis=(1, 2))
    return float(np.where(union > 0, shared / np.maximum(union, 1), 1.0).mean())
