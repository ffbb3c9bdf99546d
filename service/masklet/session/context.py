"""What every stream of a server shares."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from masklet.backends.base import Backend
from masklet.config import LimitsConfig, SessionConfig
from masklet.observability.metrics import Metrics
from masklet.observability.tracing import NoTracing, Tracing
from masklet.session.living import LiveSessions
from masklet.session.registry import SessionRegistry
from masklet.session.tokens import TokenSigner


@dataclass(frozen=True, slots=True)
class StreamContext:
    """Handed to each stream.

    Attributes:
        backend: where memory banks live; entered before, left after all streams.
        registry: the sessions of this server.
        limits: what clients may ask for.
        session: how streams behave.
        metrics: what is exported.
        clock: monotonic seconds; the clock of `ClientMessage.received_s`.
        signer: signs resume tokens; all fronts of a fleet have the same keys.
        live: the sessions; close it after all streams and before the backend.
        tracing: follows single frames; entered before, left after all streams.
    """

    backend: Backend
    registry: SessionRegistry
    limits: LimitsConfig
    session: SessionConfig
    metrics: Metrics
    clock: Callable[[], float] = time.monotonic
    signer: TokenSigner = field(default_factory=TokenSigner)
    live: LiveSessions = field(default_factory=LiveSessions)
    tracing: Tracing = field(default_factory=NoTracing)
