from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from masklet.observability.metrics import Metrics
from masklet.observability.sampler import sample_forever
from masklet.types import BackendStats


def value(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"masklet_{name}")


def test_two_sets_of_metrics_do_not_collide() -> None:
    first, second = Metrics(), Metrics()
    first.streams_active.inc()
    assert (value(first, "streams_active"), value(second, "streams_active")) == (1, 0)


def test_a_given_registry_is_used() -> None:
    registry = CollectorRegistry()
    assert Metrics(registry).registry is registry
    assert b"masklet_frame_latency_seconds" in generate_latest(registry)


def test_every_metric_bears_the_prefix_and_help() -> None:
    families = list(Metrics().registry.collect())
    assert len(families) > 15
    ours = [family for family in families if not family.name.startswith(("process_", "python_"))]
    assert all(family.name.startswith("masklet_") and family.documentation for family in ours)


def test_no_label_names_a_session_or_an_address() -> None:
    metrics = Metrics()
    labels = {label for held in vars(metrics).values() for label in getattr(held, "_labelnames", ())}
    assert labels >= {"codec", "reason", "stage"}
    assert labels.isdisjoint({"session", "session_id", "peer", "address", "tenant"})


@pytest.mark.parametrize(("steps", "mean"), [(8, 4.0), (2, 1.0)])
def test_the_batch_size_is_the_mean_since_the_last_sample(steps: int, mean: float) -> None:
    metrics = Metrics()
    metrics.observe_backend(BackendStats(sessions=3, bank_bytes=70, batches=10, batched_steps=10))
    metrics.observe_backend(BackendStats(sessions=3, bank_bytes=70, batches=12, batched_steps=10 + steps))
    assert (value(metrics, "batch_size"), value(metrics, "banks"), value(metrics, "bank_bytes")) == (mean, 3, 70)


async def test_sampling_drives_backend_and_loop_metrics() -> None:
    metrics = Metrics()
    sampling = asyncio.create_task(sample_forever(metrics, lambda: BackendStats(2, 5, 1, 1), period_s=0.01))
    await asyncio.sleep(0.1)
    sampling.cancel()
    await asyncio.wait([sampling])
    assert value(metrics, "banks") == 2
    assert (value(metrics, "event_loop_lag_seconds_count") or 0) >= 2


async def test_sampling_goes_on_while_the_backend_fails_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    answers: Iterator[BackendStats | Exception] = iter(
        [ZeroDivisionError(), ZeroDivisionError(), BackendStats(2, 5, 1, 1), ZeroDivisionError()]
    )

    def stats() -> BackendStats:
        answer = next(answers, BackendStats(3, 5, 1, 1))
        if isinstance(answer, Exception):
            raise answer
        return answer

    sampling = asyncio.create_task(sample_forever(metrics, stats, period_s=0.01))
    async with asyncio.timeout(10):
        while value(metrics, "banks") != 3:
            await asyncio.sleep(0.01)
    sampling.cancel()
    await asyncio.wait([sampling])
    assert caplog.text.count("cannot say what it holds") == 2


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("frame_results_total", {"outcome": "dropped", "reason": "queue_full"}),
        ("stage_seconds_count", {"stage": "write"}),
        ("prompts_total", {"kind": "mask", "outcome": "refused"}),
        ("session_state_lost_total", {"when": "resume"}),
        ("recoveries_total", {"origin": "restored", "outcome": "recovered"}),
        ("checkpoints_total", {"outcome": "evicted"}),
        ("sessions_rejected_total", {"reason": "ADMISSION_REFUSED"}),
        ("frames_received_total", {"codec": "png"}),
        ("kubernetes_errors_total", {"operation": "pod", "reason": "denied"}),
        ("kubernetes_errors_total", {"operation": "list", "reason": "refused"}),
    ],
)
def test_what_can_be_named_beforehand_is_zero_from_the_start(name: str, labels: dict[str, str]) -> None:
    assert Metrics().registry.get_sample_value(f"masklet_{name}", labels) == 0


@pytest.mark.parametrize(
    ("name", "labels", "longest_s"),
    [
        ("session_recovery_seconds", {}, 300),  # a session waits for a Triton to be started
        ("checkpoint_seconds", {}, 60),
        ("rpc_seconds", {"method": "/masklet.v1.SegmentationService/SegmentImage"}, 60),  # on a CPU
    ],
)
def test_buckets_reach_as_far_as_times_do(name: str, labels: dict[str, str], longest_s: float) -> None:
    metrics = Metrics()
    metrics.session_recovery.observe(longest_s)
    metrics.checkpoint_seconds.observe(longest_s)
    metrics.rpc_seconds.labels("/masklet.v1.SegmentationService/SegmentImage").observe(longest_s)
    read = metrics.registry.get_sample_value
    assert read(f"masklet_{name}_bucket", {**labels, "le": f"{longest_s:.1f}"}) == 1
    assert read(f"masklet_{name}_bucket", {**labels, "le": "5.0"}) == 0


def test_batches_are_counted_and_never_fall() -> None:
    metrics = Metrics()
    for batches, steps in ((10, 30), (4, 9), (6, 19)):  # the second: a Triton left
        metrics.observe_backend(BackendStats(sessions=0, bank_bytes=0, batches=batches, batched_steps=steps))
    assert (value(metrics, "batches_total"), value(metrics, "batched_steps_total")) == (12, 40)


@pytest.mark.parametrize(("batches", "steps"), [(12, 9), (9, 40), (9, 9)])
def test_a_triton_that_left_makes_no_batch_size(batches: int, steps: int) -> None:
    """It took its counts along; others may have run batches meanwhile."""
    metrics = Metrics()
    metrics.observe_backend(BackendStats(sessions=0, bank_bytes=0, batches=10, batched_steps=30))
    metrics.observe_backend(BackendStats(sessions=0, bank_bytes=0, batches=batches, batched_steps=steps))
    assert value(metrics, "batch_size") == 0
    assert (value(metrics, "batches_total"), value(metrics, "batched_steps_total")) == (10, 30)


def test_the_process_is_exported() -> None:
    samples = Metrics().registry.get_sample_value
    assert (samples("process_open_fds") or 0) > 2
    assert (samples("process_resident_memory_bytes") or 0) > 1e6
    assert (samples("masklet_process_threads") or 0) >= 1
    assert samples("python_gc_collections_total", {"generation": "2"}) is not None


def test_series_of_creation_times_are_not_exported() -> None:
    assert b"_created" not in generate_latest(Metrics().registry)
