"""The range of every configuration key that has one: one table."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from masklet.errors import ConfigError

_Rule = tuple[Callable[[Any], bool], str]


def _between(low: float, high: float) -> _Rule:
    return lambda value: low <= value <= high, f"{low:,} to {high:,}".replace(",", "")


def _one_of(*names: str) -> _Rule:
    return lambda value: value in names, "one of " + ", ".join(names)


def _matching(pattern: str, words: str) -> _Rule:
    return lambda value: re.fullmatch(pattern, value) is not None, words


def check_rule(key: str, value: object, source: str) -> None:
    """Raises ConfigError if `value` is out of range for `key`; `source` says where it came from. No rule: no error."""
    test, words = RULES.get(key, (lambda _: True, ""))
    if not test(value):
        raise ConfigError(f"{key} is {value!r}, must be {words} (from {source})", field=key)


_NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"  # of Kubernetes' objects and ports
_TO_65535 = r"0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_ENDPOINT = rf"(dns:)?(\[[0-9a-fA-F:]+\]|[^\s:]+):{_TO_65535}|k8s:{_NAME}(\.{_NAME})?:{_NAME}"


def _endpoints(found: tuple[str, ...]) -> bool:
    return bool(found) and all(re.fullmatch(_ENDPOINT, endpoint) for endpoint in found)


_DAY_S = 24 * 3600.0
_HOST = _matching(r"\S+", "a host name or address")
_PORT = _between(0, 65535)
RULES: dict[str, _Rule] = {
    "server.host": _HOST,
    "server.port": _PORT,
    "server.metrics_host": _HOST,
    "server.metrics_port": _PORT,
    "server.backend": _one_of("embedded", "fake", "triton"),
    "server.drain_delay_s": _between(0, 3600.0),
    "server.drain_timeout_s": _between(0, _DAY_S),
    "model.variant": _matching(r"\S*", "a variant name"),
    "model.input_size": (lambda size: size % 32 == 0 and 0 <= size <= 4096, "0, or divisible by 32 and at most 4096"),
    "model.device": _matching(r"auto|cpu|cuda(:\d+)?", "one of auto, cpu, cuda, cuda:N"),
    "model.precision": _one_of("auto", "float32", "bfloat16"),
    "model.memory_precision": _one_of("float32", "bfloat16"),
    "model.seed": _between(0, 2**63 - 1),
    "model.threads": _between(0, 4096),
    "model.max_batch": _between(1, 4096),
    "model.calibration_s": _between(0, 60),
    "limits.max_frame_bytes": _between(1024, 1 << 30),
    "limits.max_frame_height": _between(1, 16384),
    "limits.max_frame_width": _between(1, 16384),
    "limits.max_frame_pixels": _between(1, 16384**2),
    "limits.max_objects": _between(1, 65535),
    "limits.max_mask_pixels": _between(1, 1 << 40),
    "limits.max_points_per_prompt": _between(1, 65535),
    "limits.max_prompts_per_frame": _between(1, 65535),
    "limits.max_prompts_per_object": _between(1, 65535),
    "limits.max_sessions": _between(1, 65535),
    "limits.max_frame_rate_hz": _between(1, 100_000),
    "session.first_message_timeout_s": _between(0.01, _DAY_S),
    "session.idle_timeout_s": _between(0.01, _DAY_S),
    "session.max_session_age_s": _between(0.01, 365 * _DAY_S),
    "session.resume_ttl_s": _between(0, _DAY_S),
    "session.ring_messages": _between(0, 65536),
    "session.ring_bytes": _between(0, 1 << 30),
    "session.latest_queue_frames": _between(1, 1024),
    "session.block_queue_frames": _between(1, 1024),
    "session.lost_after_frames": _between(1, 1_000_000_000),
    "session.history_frames": _between(1, 1024),
    "session.max_conditioning_frames": _between(1, 65535),
    "triton.endpoints": (
        _endpoints,
        "host:port, dns:host:port or k8s:service.namespace:port, or several with commas between",
    ),
    "triton.transport": _one_of("auto", "shm", "raw", "jpeg"),
    "triton.connect_timeout_s": _between(0.1, _DAY_S),
    "triton.max_sessions": _between(1, 65535),
    "triton.idle_timeout_s": _between(0.01, 365 * _DAY_S),
    "routing.checkpoint_every_frames": _between(1, 65535),
    "routing.checkpoint_min_interval_s": _between(0, _DAY_S),
    "routing.checkpoint_bytes": _between(0, 1 << 40),
    "routing.replay_frames": _between(0, 65535),
    "routing.replay_bytes": _between(0, 1 << 40),
    "routing.recovery_timeout_s": _between(0, _DAY_S),
    "routing.recovery_attempts": _between(1, 1024),
    "routing.retry_min_s": _between(0.001, _DAY_S),
    "routing.retry_max_s": _between(0.001, _DAY_S),
    "routing.canary_timeout_s": _between(0.01, _DAY_S),
    "routing.health_period_s": _between(0.01, _DAY_S),
    "routing.health_timeout_s": _between(0.01, _DAY_S),
    "routing.step_timeout_s": _between(0.01, _DAY_S),
    "routing.dns_period_s": _between(0.01, _DAY_S),
    "routing.capacity_object_frames_s": _between(0, 1e9),
    "routing.capacity_share": _between(0.01, 1),
    "routing.reserved_object_frames_s": _between(0, 1e9),
    "tracing.sample_ratio": _between(0, 1),
    "tracing.endpoint": _matching(
        rf"https?://(\[[0-9a-fA-F:]+\]|[^\s:/]+):{_TO_65535}", "http://host:port or https://host:port"
    ),
    "kubernetes.namespace": _matching(rf"({_NAME})?", "a namespace or empty"),
    "kubernetes.request_timeout_s": _between(0.1, 3600),
    "kubernetes.watch_timeout_s": _between(1, 3600),
    "kubernetes.resync_period_s": _between(1, _DAY_S),
    "kubernetes.retry_min_s": _between(0.001, 3600),
    "kubernetes.retry_max_s": _between(0.001, 3600),
    "kubernetes.deletion_cost_period_s": _between(1, 3600),
    "kubernetes.lease_name": _matching(rf"{_NAME}(\.{_NAME})*", "a name of a Kubernetes object"),
    "kubernetes.lease_duration_s": _between(3, 3600),
}
