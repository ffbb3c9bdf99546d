"""Logs as key=value lines, one event per line.

Fields are given to the standard logger as `extra`: `log.info("session opened", extra={"session": session_id})` becomes
`time=2025-01-01T00:00:00.000Z level=info logger=masklet.session event="session opened" session=...`.
"""

from __future__ import annotations

import json
import logging
import re
import time
from typing import TextIO

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}
_PLAIN = re.compile(r"[\w.:/@+,\[\]-]+")


class KeyValueFormatter(logging.Formatter):
    """Formats a record as `key=value` pairs; values with other than plain characters are quoted as JSON strings."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        pairs: dict[str, object] = {
            "time": self._time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        pairs |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            pairs["trace"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={_quote(value)}" for key, value in pairs.items())

    @staticmethod
    def _time(record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{seconds}.{int(record.msecs):03d}Z"


def setup_logs(level: str = "INFO", *, stream: TextIO | None = None) -> None:
    """Sends the `masklet` loggers to `stream` (stderr) as key=value lines, and nowhere else; call it once, in a CLI.

    So it does with errors of OpenTelemetry; that it tries again is not worth a line each time.
    """
    sink = logging.StreamHandler(stream)
    sink.setFormatter(KeyValueFormatter())
    for name, lowest in (("masklet", level.upper()), ("opentelemetry", "ERROR")):
        root = logging.getLogger(name)
        root.handlers[:] = [sink]
        root.propagate = False
        root.setLevel(lowest)


def _quote(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
