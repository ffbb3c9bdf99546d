"""Following single frames through their stages. Off by default: then everything here does nothing.

What opens spans needs the extra `tracing` and lives in `masklet.observability.spans`, imported only if it is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from masklet.config import TracingConfig
from masklet.errors import ConfigError, install_hint
from masklet.observability.metrics import Metrics

_EXTRA = "opentelemetry"


class FrameTrace(Protocol):
    """Follows the frames of one session, by number; frames that were never begun, or have ended, are passed over.

    Times are those of a monotonic clock, in seconds.
    """

    def begin(self, frame_seq: int, received_s: float, caller: Mapping[str, str]) -> None:
        """A frame was received; `caller` is the metadata of the call that brought it, where `traceparent` is read."""
        ...

    def stage(self, frame_seq: int, name: str, started_s: float, ended_s: float) -> None:
        """A frame has passed one of `metrics.STAGES`."""
        ...

    def end(self, frame_seq: int, outcome: str) -> None:
        """Nothing more happens to a frame; `outcome` is "answered", or why it was not."""
        ...

    def stop(self) -> None:
        """The session is over and nobody reads any more: frames that are still followed have been abandoned."""
        ...


class Tracing(Protocol):
    """Where spans go. An async context manager, for the life of the service."""

    def session(self, session_id: str) -> FrameTrace:
        """For the frames of one session."""
        ...

    async def __aenter__(self) -> Self:
        """Begin to send."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what is left, for a short time at most."""
        ...


class NoTracing:
    """Tracing that is off: of all sessions, and of each."""

    def session(self, session_id: str) -> FrameTrace:
        """Nothing is followed."""
        return self

    def begin(self, frame_seq: int, received_s: float, caller: Mapping[str, str]) -> None:
        """Nothing."""

    def stage(self, frame_seq: int, name: str, started_s: float, ended_s: float) -> None:
        """Nothing."""

    def end(self, frame_seq: int, outcome: str) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""

    async def __aenter__(self) -> Self:
        """Nothing."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing."""


def make_tracing(config: TracingConfig, metrics: Metrics) -> Tracing:
    """Tracing as configured; `metrics` counts what was sent. Raises ConfigError if it is on and not installed."""
    if not config.sample_ratio:
        return NoTracing()
    try:
        from masklet.observability.spans import SpanTracing
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(_EXTRA):
            raise
        ratio = config.sample_ratio
        message = f"tracing.sample_ratio is {ratio:g}, which needs {error.name}: {install_hint('tracing')}"
        raise ConfigError(message, field="tracing.sample_ratio") from error
    return SpanTracing(config, metrics)
