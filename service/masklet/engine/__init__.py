"""Tracking: many sessions, one batch.

Steps of a request: `Engine.step` -> `collate` -> `Forward.run` (encode frames, read memories, decode, apply prompts,
encode memories) -> commit -> `StepResult`. Frames may be encoded before their turn: `Engine.encode`.
"""

from masklet.engine.collate import EncodedFrame
from masklet.engine.engine import Engine
from masklet.engine.settings import EngineSettings

__all__ = ["EncodedFrame", "Engine", "EngineSettings"]
