"""Every metric the service exports, in one place: prefix `masklet_`, base units, no session ids or addresses in labels.

A metric is an attribute here; the code that knows the fact drives it. Names and labels are part of the public face:
dashboards and alerts are written against them.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from masklet.types import BackendStats

LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.033, 0.05, 0.066, 0.08, 0.1, 0.133, 0.2, 0.333, 0.5, 1.0, 2.0, 5.0)
DURATION_BUCKETS_S = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0)
DETACHED_BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
LAG_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


class Metrics:
    """The service's metrics; `registry` holds them, a fresh one unless given, so that tests and servers do not collide.

    Attributes:
        registry: where a scrape reads them.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._batches_seen = 0
        self._steps_seen = 0
        self._add_frames()
        self._add_streams()
        self._add_recoveries()
        self._add_freshness()
        self._add_capacity()

    def _add_frames(self) -> None:
        self.frames_received = self._counter("frames_received", "Frames received, accepted or not.", "codec")
        self.frame_results = self._counter(
            "frame_results", "What became of frames: answered, or dropped for a reason.", "outcome", "reason"
        )
        self.frame_latency = self._histogram("frame_latency_seconds", "From receiving a frame to writing its masks.")
        self.stage = self._histogram("stage_seconds", "Time of an answered frame in each stage.", "stage")
        self.prompts = self._counter("prompts", "Prompts by what they say and what became of them.", "kind", "outcome")
        self.requests_repeated = self._counter("requests_repeated", "Requests ignored as repeats of an earlier seq.")

    def _add_streams(self) -> None:
        self.streams_active = self._gauge("streams_active", "Streams being served.")
        self.sessions = self._gauge("sessions", "Sessions by state.", "state")
        self.session_duration = Histogram(
            "masklet_session_duration_seconds",
            "From opening a session to its end.",
            buckets=DURATION_BUCKETS_S,
            registry=self.registry,
        )
        self.resumes = self._counter(
            "resumes",
            "Sessions to be resumed, by where their memory came from and the outcome.",
            "origin",
            "outcome",
        )
        self.session_detached = Histogram(
            "masklet_session_detached_seconds",
            "From a session's losing its stream to its having one again.",
            buckets=DETACHED_BUCKETS_S,
            registry=self.registry,
        )
        self.rpcs = self._counter("rpcs", "Calls ended, by method and gRPC code.", "method", "code")
        self.stream_closed = self._counter("stream_closed", "Streams ended, by reason.", "reason")
        self.sessions_rejected = self._counter("sessions_rejected", "Sessions refused, by reason.", "reason")

    def _add_recoveries(self) -> None:
        self.recoveries = self._counter(
            "recoveries",
            "Sessions whose Triton failed or drained: recovered, or the reason why not.",
            "origin",
            "outcome",
        )
        self.session_recovery = self._histogram(
            "session_recovery_seconds", "From the loss of a session's Triton to going on elsewhere."
        )
        self.checkpoint_seconds = self._histogram("checkpoint_seconds", "Fetching a session's state.")

    def _add_freshness(self) -> None:
        self.result_staleness = self._histogram(
            "result_staleness_seconds",
            "From capturing a frame, by the client's clock, to writing its masks; only if the client sends the time.",
        )
        self.time_since_last_result = self._gauge(
            "time_since_last_result_seconds", "The longest time any client connected has been waiting for a result."
        )

    def _add_capacity(self) -> None:
        self.frame_queue_depth = self._gauge("frame_queue_depth", "Frames waiting for their turn, all sessions.")
        self.session_load = self._gauge("session_load", "Objects times frames per second, of sessions in Tritons.")
        self.session_capacity = self._gauge(
            "session_capacity", "What usable Tritons take of it (routing.capacity_object_frames_s); 0: not set."
        )
        self.triton_endpoints = self._gauge("triton_endpoints", "Tritons by state.", "state")
        self.checkpoint_bytes = self._gauge("checkpoint_bytes", "Bytes of sessions' states kept against failures.")
        self.batch_size = self._gauge("batch_size", "Mean steps per batch since the last sample.")
        self.bank_bytes = self._gauge("bank_bytes", "Bytes held in memory banks.")
        self.banks = self._gauge("banks", "Memory banks held.")
        self.event_loop_lag = Histogram(
            "masklet_event_loop_lag_seconds",
            "How late the event loop wakes a sleeper.",
            buckets=LAG_BUCKETS_S,
            registry=self.registry,
        )
        self.build_info = Info("masklet_build", "The service's build.", registry=self.registry)

    def observe_backend(self, stats: BackendStats) -> None:
        """Sets what the backend holds, and the mean batch size since the last call."""
        self.banks.set(stats.sessions)
        self.bank_bytes.set(stats.bank_bytes)
        batches = stats.batches - self._batches_seen
        steps = stats.batched_steps - self._steps_seen
        self._batches_seen, self._steps_seen = stats.batches, stats.batched_steps
        self.batch_size.set(steps / batches if batches > 0 else 0.0)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"masklet_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"masklet_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"masklet_{name}", text, labels, buckets=LATENCY_BUCKETS_S, registry=self.registry)
