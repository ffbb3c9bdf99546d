"""What a load test does: how many cameras, how fast, and what happens to them; bounded in streams and time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load test. Everything combines: a ramp may have spikes, churn and kills.

    Attributes:
        streams: cameras at a time, once the ramp is over.
        rate_hz: frames per second of each camera.
        duration_s: how long frames are due.
        warm_up_s: frames due before this are counted apart and left out of all latencies.
        objects: objects clicked on when a session opens.
        height: height of the frames in pixels (generated ones).
        width: width of the frames in pixels (generated ones).
        clip_frames: frames held in memory, sent forwards and backwards in turn.
        source: a video file or a folder of pictures to send; empty: generated frames.
        click_x: where the object of a `source` is clicked, as a share of the width.
        click_y: the same, of the height.
        policy: drop policy, "latest" or "block".
        max_staleness_s: under "latest", frames older than this are dropped; 0: never.
        mask_encoding: "rle", "png", "bits" or "none".
        corrections: share of frames that come with another click.
        in_step: all cameras' frames are due at the same moments, instead of spread evenly.
        ramp_s: cameras are added one by one over this time.
        spike_streams: more cameras that come all at once.
        spike_at_s: when they come.
        spike_s: how long they stay; 0: to the end.
        churn_per_s: cameras that leave per second, each at once replaced by a new one.
        storm_every_s: connections are cut again and again with this pause, until `duration_s`; 0: never. A storm is
            moved by up to a third of the pause so that it does not fall on cameras that come or go.
        storm_share: share of the cameras then present whose connection is cut each time, rounded to whole cameras
            and at least one; they resume. 0: none.
        kills: what else happens, each "SECONDS SIGNAL TARGET", "SECONDS start TARGET" or "SECONDS run COMMAND"; a
            target is "server", "triton" (those started by --start) or a process id.
        retry_refused: a refused camera comes again when RetryInfo says.
        drain_s: how long to wait for answers after the last frame was due.
        settle_s: pause after the last stream, before what is left in the server is counted.
        prime_s: the streams run for so long once before anything is counted, so that what the server allocates on
            first use is not taken for a leak; 0: they do not, and what is left afterwards is not judged. Nor is
            it after kills.
        slo_ms: the SLO's p99 latency in milliseconds.
        slo_bad_share: frames that may be dropped or go unanswered or unsent, as a share of those due.
        lag_ms: the generator's own p99 lag in milliseconds above which a result is void.
        seed: of the corrections, and of whose connection a storm cuts.
    """

    streams: int = 4
    rate_hz: float = 5.0
    duration_s: float = 30.0
    warm_up_s: float = 3.0
    objects: int = 1
    height: int = 360
    width: int = 640
    clip_frames: int = 48
    source: str = ""
    click_x: float = 0.5
    click_y: float = 0.5
    policy: str = "latest"
    max_staleness_s: float = 0.0
    mask_encoding: str = "rle"
    corrections: float = 0.0
    in_step: bool = False
    ramp_s: float = 0.0
    spike_streams: int = 0
    spike_at_s: float = 0.0
    spike_s: float = 0.0
    churn_per_s: float = 0.0
    storm_every_s: float = 0.0
    storm_share: float = 0.0
    kills: tuple[str, ...] = ()
    retry_refused: bool = True
    drain_s: float = 10.0
    settle_s: float = 2.0
    prime_s: float = 0.0
    slo_ms: float = 100.0
    slo_bad_share: float = 0.01
    lag_ms: float = 5.0
    seed: int = 0


MAX_STREAMS = 2000
MAX_DURATION_S = 6 * 3600.0
MAX_SESSIONS = 100_000
RANGES: dict[str, tuple[float, float]] = {
    "streams": (1, MAX_STREAMS),
    "rate_hz": (0.1, 240),
    "duration_s": (1, MAX_DURATION_S),
    "warm_up_s": (0, MAX_DURATION_S),
    "objects": (1, 8),
    "height": (32, 4096),
    "width": (32, 4096),
    "clip_frames": (2, 600),
    "click_x": (0, 1),
    "click_y": (0, 1),
    "max_staleness_s": (0, 60),
    "corrections": (0, 1),
    "ramp_s": (0, MAX_DURATION_S),
    "spike_streams": (0, MAX_STREAMS),
    "spike_at_s": (0, MAX_DURATION_S),
    "spike_s": (0, MAX_DURATION_S),
    "churn_per_s": (0, 50),
    "storm_every_s": (0, MAX_DURATION_S),
    "storm_share": (0, 1),
    "drain_s": (0.1, 120),
    "settle_s": (0, 600),
    "prime_s": (0, 600),
    "slo_ms": (1, 60_000),
    "slo_bad_share": (0, 1),
    "lag_ms": (0.1, 1000),
    "seed": (0, 2**31 - 1),
}
CHOICES = {"policy": ("latest", "block"), "mask_encoding": ("rle", "png", "bits", "none")}
