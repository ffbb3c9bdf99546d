"""The configuration tree: frozen dataclasses with defaults. `config_file` reads TOML, environment and flags into it."""

from __future__ import annotations

from dataclasses import dataclass, field

from masklet.types import Profile


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """What clients may ask for; checked before any work is done.

    Attributes:
        max_frame_bytes: largest encoded frame.
        max_frame_height: largest frame height in pixels.
        max_frame_width: largest frame width in pixels.
        max_frame_pixels: largest frame area in pixels.
        max_objects: objects tracked at a time in one session.
        max_points_per_prompt: points in one prompt.
        max_prompts_per_frame: prompts waiting for one frame.
        max_sessions: sessions at a time, detached ones included.
    """

    max_frame_bytes: int = 8 * 1024 * 1024
    max_frame_height: int = 4096
    max_frame_width: int = 4096
    max_frame_pixels: int = 16_800_000
    max_objects: int = 64
    max_points_per_prompt: int = 64
    max_prompts_per_frame: int = 128
    max_sessions: int = 64


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How streams behave.

    Attributes:
        first_message_timeout_s: a stream whose `open` does not come in this time is ended.
        idle_timeout_s: a stream without requests for this long is ended.
        max_session_age_s: a session is ended after this long.
        resume_ttl_s: a session whose connection was lost may be resumed for this long.
        latest_queue_frames: frames waiting under the drop policy `latest`.
        block_queue_frames: frames waiting under the drop policy `block`.
        lost_after_frames: an object absent for more frames than this is lost.
        history_frames: answered frames that may still be corrected.
        default_profile: profile of clients that name none.
        max_conditioning_frames: prompted frames attended to at most, unless the client says otherwise.
    """

    first_message_timeout_s: float = 10.0
    idle_timeout_s: float = 60.0
    max_session_age_s: float = 24 * 3600.0
    resume_ttl_s: float = 60.0
    latest_queue_frames: int = 2
    block_queue_frames: int = 4
    lost_after_frames: int = 300
    history_frames: int = 8
    default_profile: Profile = Profile.INTERACTIVE
    max_conditioning_frames: int = 4


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which network runs, and how.

    Attributes:
        variant: "nano" or a published variant, for example "sam2.1_hiera_tiny"; empty: that of the weights, else "nano".
        weights: path of a checkpoint; empty: those that come with the package ("nano" has some); "random", or empty for a
            variant that has none: drawn from `seed` (untrained, for trying things out).
        seed: seed of the random weights.
        input_size: model input height and width in pixels, divisible by 32; 0: the variant's own.
        device: "cpu", "cuda", "cuda:N" or "auto".
        precision: "float32" or "bfloat16" or "auto".
        memory_precision: how the memory bank is kept, "float32" or "bfloat16".
        threads: CPU threads; 0: all cores.
        max_batch: sessions in one batch at most.
    """

    variant: str = ""
    weights: str = ""
    seed: int = 0
    input_size: int = 0
    device: str = "auto"
    precision: str = "auto"
    memory_precision: str = "float32"
    threads: int = 0
    max_batch: int = 16


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where the service listens, and how it stops.

    Attributes:
        host: address of the gRPC port.
        port: gRPC port; 0: any free one.
        metrics_host: address of the Prometheus metrics port.
        metrics_port: Prometheus metrics port (HTTP); 0: any free one.
        backend: "embedded" (the model in this process), "triton" (in Triton), or "fake" (no model: to try clients).
        drain_timeout_s: how long streams may go on after the first signal.
        session_service: serve SessionService, for operators.
        reflection: serve gRPC reflection.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9464
    backend: str = "embedded"
    drain_timeout_s: float = 30.0
    session_service: bool = True
    reflection: bool = True


@dataclass(frozen=True, slots=True)
class TritonConfig:
    """How the service reaches Triton, and how much the model there takes.

    Attributes:
        endpoints: host:port of Triton's gRPC port, for the backend "triton".
        transport: how frames get there: "shm" (shared memory of one host), "raw" (RGB bytes), "jpeg" (lossy), "auto",
            which is shm if the model sees this host's, else raw.
        connect_timeout_s: how long to wait for a Triton that is not ready when the service starts.
        max_sessions: memory banks the model takes at a time; read by Triton's model.
        idle_timeout_s: the model forgets a session without requests for this long; read by Triton's model. Must outlast
            the service's session.idle_timeout_s and session.resume_ttl_s.
    """

    endpoints: tuple[str, ...] = ("127.0.0.1:8001",)
    transport: str = "auto"
    connect_timeout_s: float = 30.0
    max_sessions: int = 256
    idle_timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set."""

    server: ServerConfig = field(default_factory=ServerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    session: SessionConfig = field(default_factory=SessionConfig)
    triton: TritonConfig = field(default_factory=TritonConfig)
