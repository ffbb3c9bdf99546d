from __future__ import annotations

import pytest

from masklet.errors import AdmissionRefused, ServerDraining, SessionNotFound
from masklet.observability.metrics import Metrics
from masklet.session.registry import SessionRegistry, SessionState


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def registry(clock: Clock, metrics: Metrics) -> SessionRegistry:
    return SessionRegistry(2, metrics=metrics, clock=clock)


def sessions(metrics: Metrics, state: str) -> float | None:
    return metrics.registry.get_sample_value("masklet_sessions", {"state": state})


def test_sessions_are_listed_oldest_first(registry: SessionRegistry, clock: Clock) -> None:
    registry.add("b", peer="ipv4:1", size=(4, 6))
    clock.now_s += 5
    registry.add("a", peer="ipv4:2", size=(8, 8)).frames_answered = 3
    first, second = registry.list()
    assert (first.session_id, first.age_s, first.peer, first.size) == ("b", 5.0, "ipv4:1", (4, 6))
    assert (second.session_id, second.frames_answered, second.state) == ("a", 3, SessionState.ATTACHED)


def test_one_too_many_is_refused_and_may_try_again(registry: SessionRegistry, metrics: Metrics) -> None:
    registry.add("a", peer="", size=(1, 1))
    registry.add("b", peer="", size=(1, 1))
    with pytest.raises(AdmissionRefused, match="2 sessions are open, the limit is 2") as refused:
        registry.add("c", peer="", size=(1, 1))
    assert refused.value.retry_after_s
    labels = {"reason": "ADMISSION_REFUSED"}
    assert metrics.registry.get_sample_value("masklet_sessions_rejected_total", labels) == 1
    registry.remove("a")
    registry.add("c", peer="", size=(1, 1))


def test_closing_orders_the_stream_to_end(registry: SessionRegistry) -> None:
    record = registry.add("a", peer="", size=(1, 1))
    registry.close("a")
    assert record.closing
    assert record.ordered.is_set()
    with pytest.raises(SessionNotFound, match="'x'"):
        registry.close("x")


def test_draining_refuses_newcomers_and_orders_all_out(
    registry: SessionRegistry, clock: Clock, metrics: Metrics
) -> None:
    record = registry.add("a", peer="", size=(1, 1))
    registry.drain(30.0)
    assert (record.drain_at_s, record.state) == (clock.now_s + 30.0, SessionState.DRAINING)
    assert (sessions(metrics, "draining"), sessions(metrics, "attached")) == (1, 0)
    with pytest.raises(ServerDraining):
        registry.add("b", peer="", size=(1, 1))


async def test_waiting_for_empty_is_bounded(registry: SessionRegistry) -> None:
    assert await registry.wait_empty(1.0)
    registry.add("a", peer="", size=(1, 1))
    assert not await registry.wait_empty(0.01)
    registry.remove("a")
    registry.remove("a")
    assert await registry.wait_empty(1.0)


def test_a_session_s_duration_is_observed_once(registry: SessionRegistry, clock: Clock, metrics: Metrics) -> None:
    registry.add("a", peer="", size=(1, 1))
    clock.now_s += 7
    registry.remove("a")
    registry.remove("a")
    assert metrics.registry.get_sample_value("masklet_session_duration_seconds_sum") == 7
    assert metrics.registry.get_sample_value("masklet_session_duration_seconds_count") == 1
