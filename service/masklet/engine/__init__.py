"""Tracking: many sessions, one batch.

Steps of a request: `Engine.step` -> `collate` -> `Forward.run` (encode frames, read memories, decode, apply prompts,
encode memories) -> commit -> `StepResult`.
"""

from masklet.engine.engine import Engine
from masklet.engine.settings import EngineSettings

__all__ = ["Engine", "EngineSettings"]
