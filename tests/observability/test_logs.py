from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from masklet.observability.logs import setup_logs


@pytest.fixture
def sink() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs = [logging.getLogger(name) for name in ("masklet", "opentelemetry")]
    before = [(log.handlers[:], log.propagate, log.level) for log in logs]
    setup_logs("info", stream=stream)
    yield stream
    for log, (handlers, propagate, level) in zip(logs, before, strict=True):
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(level)


def test_an_event_is_one_line_of_pairs(sink: io.StringIO) -> None:
    logging.getLogger("masklet.session").info("session opened", extra={"session": "ab12", "age_s": 0.25})
    (line,) = sink.getvalue().splitlines()
    assert line.startswith("time=20")
    assert line.endswith('level=info logger=masklet.session event="session opened" session=ab12 age_s=0.25')


def test_values_cannot_forge_lines_or_pairs(sink: io.StringIO) -> None:
    logging.getLogger("masklet").warning("odd", extra={"peer": 'x" level=error\nevent=fake'})
    (line,) = sink.getvalue().splitlines()
    assert line.endswith(r'peer="x\" level=error\nevent=fake"')


def test_a_trace_stays_on_the_line(sink: io.StringIO) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("masklet").exception("failed")
    (line,) = sink.getvalue().splitlines()
    assert "ValueError: broken" in line


def test_below_the_level_nothing_is_written(sink: io.StringIO) -> None:
    logging.getLogger("masklet").debug("noise")
    assert sink.getvalue() == ""


def test_of_opentelemetry_only_errors_are_shown(sink: io.StringIO) -> None:
    log = logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter")
    log.warning("Transient error, retrying")
    log.error("Failed to export traces")
    (line,) = sink.getvalue().splitlines()
    assert 'level=error logger=opentelemetry.exporter.otlp.proto.grpc.exporter event="Failed to export traces"' in line


def test_setting_up_twice_writes_once(sink: io.StringIO) -> None:
    setup_logs("info", stream=sink)
    logging.getLogger("masklet").info("once")
    assert len(sink.getvalue().splitlines()) == 1
