"""Every metric the service exports, in one place: prefix `masklet_`, base units, no session ids or addresses in labels.

A metric is an attribute here; the code that knows the fact drives it. Names and labels are part of the public face:
dashboards and alerts are written against them, and `deploy/README.md` lists them all. Label values in capitals are the
`reason` of an error, those in small letters are ours.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from itertools import product

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from masklet.errors import AdmissionRefused, ServerDraining, SessionExpired, SessionStateLost
from masklet.types import BackendStats, DropReason, FrameCodec, ModelDescription, StateOrigin

LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.033, 0.05, 0.066, 0.08, 0.1, 0.133, 0.2, 0.333, 0.5, 1.0, 2.0, 5.0)
CALL_BUCKETS_S = (*LATENCY_BUCKETS_S, 10.0, 20.0, 60.0)  # an image, or a session's state, may take as long on a CPU
RECOVERY_BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
DURATION_BUCKETS_S = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0)
DETACHED_BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
LAG_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
STAGES = ("queue", "decode", "inference", "encode", "write")
_DIGEST = 12  # characters of a SHA-256 that tell weights apart
_SURVIVED = (StateOrigin.INTACT, StateOrigin.MIGRATED, StateOrigin.RESTORED, StateOrigin.RESEEDED)


class Metrics:
    """The service's metrics; `registry` holds them, a fresh one unless given, so that tests and servers do not collide.

    What can be named beforehand is exported as 0 from the start: a rate that begins with its first event misses it.

    Attributes:
        registry: where a scrape reads them.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        # For the whole process: they are a series beside each counter, and nothing here reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry() if registry is None else registry
        self._batches_seen = 0
        self._steps_seen = 0
        self._add_frames()
        self._add_streams()
        self._add_sessions()
        self._add_recoveries()
        self._add_freshness()
        self._add_capacity()
        self._add_service()
        self._add_kubernetes()
        self._add_process()

    def _add_frames(self) -> None:
        self.frames_received = self._counter("frames_received", "Frames received, accepted or not.", "codec")
        _begin(self.frames_received, product(FrameCodec))
        self.frame_results = self._counter(
            "frame_results", "What became of frames: answered, or dropped for a reason.", "outcome", "reason"
        )
        _begin(self.frame_results, [("answered", "none"), ("lost", DropReason.CONNECTION_LOST)])
        _begin(self.frame_results, product(["dropped"], DropReason))
        self.object_frames = self._counter("object_frames", "Masks answered with: one per object and frame.")
        self.frame_latency = self._histogram("frame_latency_seconds", "From receiving a frame to writing its masks.")
        self.stage = self._histogram("stage_seconds", "Time of an answered frame in each stage.", "stage")
        _begin(self.stage, product(STAGES))
        self.prompts = self._counter("prompts", "Prompts by what they say and what became of them.", "kind", "outcome")
        _begin(self.prompts, product(["points", "box", "mask"], ["applied", "refused"]))
        self.requests_repeated = self._counter("requests_repeated", "Requests ignored as repeats of an earlier seq.")

    def _add_streams(self) -> None:
        self.streams_active = self._gauge("streams_active", "Streams being served.")
        self.stream_closed = self._counter("stream_closed", "Streams ended, by reason.", "reason")
        _begin(self.stream_closed, product(["close", "cancelled"]))
        self.rpcs = self._counter("rpcs", "Calls ended, by method and gRPC code.", "method", "code")
        self.rpc_seconds = self._histogram(
            "rpc_seconds", "Duration of calls that are not streams.", "method", buckets=CALL_BUCKETS_S
        )

    def _add_sessions(self) -> None:
        self.sessions = self._gauge("sessions", "Sessions by state.", "state")
        self.sessions_limit = self._gauge("sessions_limit", "Sessions this service takes (limits.max_sessions).")
        self.session_duration = self._histogram(
            "session_duration_seconds", "From opening a session to its end.", buckets=DURATION_BUCKETS_S
        )
        self.sessions_rejected = self._counter("sessions_rejected", "Sessions refused, by reason.", "reason")
        refusals = [ServerDraining.reason, AdmissionRefused.reason]
        refusals += [error.reason for error in AdmissionRefused.__subclasses__()]
        _begin(self.sessions_rejected, product(refusals))
        self.resumes = self._counter(
            "resumes", "Sessions to be resumed, by where their memory came from and the outcome.", "origin", "outcome"
        )
        _begin(self.resumes, product(_SURVIVED, ["resumed"]))
        _begin(self.resumes, product(["none"], [SessionExpired.reason, SessionStateLost.reason]))
        self.session_detached = self._histogram(
            "session_detached_seconds",
            "From a session's losing its stream to its having one again.",
            buckets=DETACHED_BUCKETS_S,
        )
        self.session_state_lost = self._counter(
            "session_state_lost", "Sessions whose memory is gone, noticed while tracking or when resumed.", "when"
        )
        _begin(self.session_state_lost, product(["tracking", "resume"]))

    def _add_recoveries(self) -> None:
        self.recoveries = self._counter(
            "recoveries",
            "Sessions whose Triton failed or drained: recovered, or the reason why not.",
            "origin",
            "outcome",
        )
        _begin(self.recoveries, product(_SURVIVED[1:], ["recovered"]))
        _begin(self.recoveries, [("none", SessionStateLost.reason)])
        self.session_recovery = self._histogram(
            "session_recovery_seconds",
            "From the loss of a session's Triton to going on elsewhere.",
            buckets=RECOVERY_BUCKETS_S,
        )
        self.checkpoint_seconds = self._histogram(
            "checkpoint_seconds", "Fetching a session's state.", buckets=CALL_BUCKETS_S
        )
        self.checkpoints = self._counter(
            "checkpoints",
            "Sessions' states: kept, evicted for others, refused as too large, or not fetched.",
            "outcome",
        )
        _begin(self.checkpoints, product(["kept", "evicted", "refused", "failed"]))
        self.checkpoint_bytes = self._gauge("checkpoint_bytes", "Bytes of sessions' states kept against failures.")
        self.checkpoint_bytes_limit = self._gauge(
            "checkpoint_bytes_limit", "Bytes there are for them (routing.checkpoint_bytes); 0 without Triton."
        )

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
        self.session_load = self._gauge("session_load", "Objects times frames per second: done, or reserved.")
        self.session_capacity = self._gauge("session_capacity", "What is taken of it; 0: not limited, or not known.")
        self.triton_endpoints = self._gauge("triton_endpoints", "Tritons by state.", "state")
        self.triton_ejections = self._counter("triton_ejections", "Tritons that failed while they served.")
        self.batches = self._counter("batches", "Batches run by the backend.")
        self.batched_steps = self._counter("batched_steps", "Frames and corrections in them.")
        self.batch_size = self._gauge("batch_size", "Mean steps per batch since the last sample.")
        self.bank_bytes = self._gauge("bank_bytes", "Bytes held in memory banks.")
        self.banks = self._gauge("banks", "Memory banks held.")

    def _add_service(self) -> None:
        self.ready = self._gauge("ready", "1 while sessions are wanted, 0 while loading or draining.")
        self.draining = self._gauge("draining", "1 from the first signal on.")
        self.drain_started = self._gauge("drain_started_time_seconds", "When draining began, Unix time; 0: not yet.")
        self.drain_timeout = self._gauge("drain_timeout_seconds", "How long draining may take (server.drain_...).")
        self.event_loop_lag = self._histogram(
            "event_loop_lag_seconds", "How late the event loop wakes a sleeper.", buckets=LAG_BUCKETS_S
        )
        self.trace_spans = self._counter("trace_spans", "Spans sent to the collector, or lost with it.", "outcome")
        _begin(self.trace_spans, product(["sent", "lost"]))
        self.build_info = Info("masklet_build", "The service's build, and what it runs.", registry=self.registry)

    def _add_kubernetes(self) -> None:
        self.kubernetes_synced = self._gauge(
            "kubernetes_synced_time_seconds", "When the API last confirmed what is known of pods, Unix time; 0: never."
        )
        self.kubernetes_errors = self._counter(
            "kubernetes_errors", "Requests to the Kubernetes API that failed.", "operation", "reason"
        )
        operations, failures = ["list", "watch", "lease", "pod"], ["unreachable", "denied", "refused"]
        _begin(self.kubernetes_errors, [*product(operations, failures), *product(operations[:2], ["gone"])])
        self.kubernetes_leader = self._gauge("kubernetes_leader", "1 while this service writes deletion costs.")
        self.kubernetes_deletion_costs = self._counter("kubernetes_deletion_costs", "Deletion costs written on pods.")

    def _add_process(self) -> None:
        """Under the names that every Python service has for them, but for the threads, which none has."""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        threads = self._gauge("process_threads", "Threads of the process, those of libraries included.")
        threads.set_function(_count_threads)

    def begin_calls(self, methods: Iterable[str]) -> None:
        """Which methods there are, by their full names: their calls are counted from 0, fine or failed inside."""
        _begin(self.rpcs, product(methods, ["OK", "INTERNAL", "UNKNOWN", "DATA_LOSS"]))

    def begin_drain(self) -> None:
        """No new sessions from now on."""
        self.ready.set(0)
        self.draining.set(1)
        self.drain_started.set_to_current_time()

    def describe_build(self, model: ModelDescription, *, version: str) -> None:
        """What runs here: `version` of the package, and the model."""
        labels = {"version": version, "model": model.model, "weights": model.weights_sha256[:_DIGEST]}
        labels |= {"backend": model.backend, "device": model.device, "precision": model.precision}
        self.build_info.info(labels)

    def observe_backend(self, stats: BackendStats) -> None:
        """Sets what the backend holds, and the mean batch size since the last call."""
        self.banks.set(stats.sessions)
        self.bank_bytes.set(stats.bank_bytes)
        self.session_load.set(stats.load)
        self.session_capacity.set(stats.capacity)
        batches = stats.batches - self._batches_seen
        steps = stats.batched_steps - self._steps_seen
        self._batches_seen, self._steps_seen = stats.batches, stats.batched_steps
        counted = batches > 0 and steps > 0  # below 0: a Triton left, and took its counts along
        if counted:
            self.batches.inc(batches)
            self.batched_steps.inc(steps)
        self.batch_size.set(steps / batches if counted else 0.0)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"masklet_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"masklet_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = LATENCY_BUCKETS_S
    ) -> Histogram:
        return Histogram(f"masklet_{name}", text, labels, buckets=buckets, registry=self.registry)


def _begin(metric: Counter | Histogram, values: Iterable[tuple[str, ...]]) -> None:
    for one in values:
        metric.labels(*one)


def _count_threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:  # not Linux: those that Python knows of
        return threading.active_count()
