"""Durations, all of them kept: a histogram with a bounded relative error that adds up over processes."""

from __future__ import annotations

from dataclasses import dataclass

from hdrh.histogram import HdrHistogram

_LONGEST_US = 600_000_000
_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Spread:
    """A histogram in a few numbers; milliseconds. All 0 if `count` is."""

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class Times:
    """An HdrHistogram of seconds: 1 us to 10 minutes, to `digits` digits. Longer ones count as 10 minutes."""

    def __init__(self, digits: int = _DIGITS) -> None:
        self._histogram = HdrHistogram(1, _LONGEST_US, digits)

    def record(self, seconds: float) -> None:
        """Count one; below 0 counts as 0."""
        self._histogram.record_value(min(max(round(seconds * 1e6), 0), _LONGEST_US))

    def add(self, other: Times) -> None:
        """Count all of another."""
        self._histogram.add(other._histogram)

    def __len__(self) -> int:
        """How many were recorded."""
        return int(self._histogram.total_count)

    def quantile_ms(self, percent: float) -> float:
        """The value that `percent` of all do not exceed, in milliseconds; 0 if there are none."""
        return float(self._histogram.get_value_at_percentile(percent)) / 1e3 if len(self) else 0.0

    def spread(self) -> Spread:
        """The usual numbers."""
        mean_ms = float(self._histogram.get_mean_value()) / 1e3 if len(self) else 0.0
        p50, p90, p95, p99, p999, most = (self.quantile_ms(percent) for percent in (50, 90, 95, 99, 99.9, 100))
        return Spread(len(self), mean_ms, p50, p90, p95, p99, p999, most)

    def encode(self) -> str:
        """All of it, in HdrHistogram's own format (base64)."""
        return str(self._histogram.encode().decode())

    @classmethod
    def decode(cls, text: str) -> Times:
        """What `encode` gave."""
        made = cls()
        made._histogram = HdrHistogram.decode(text.encode())
        return made

    def __getstate__(self) -> str:
        """Histograms of C arrays do not travel between processes by themselves."""
        return self.encode()

    def __setstate__(self, text: str) -> None:
        self._histogram = HdrHistogram.decode(text.encode())
