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
        max_mask_pixels: pixels of all masks of one answer; frames so large that `max_objects` have more may have fewer
            objects. A front keeps the masks of each session's newest answer, a byte a pixel.
        max_points_per_prompt: points in one prompt.
        max_prompts_per_frame: prompts waiting for one frame.
        max_prompts_per_object: those of them for one object: each is a pass of the decoder that all sessions of a batch
            wait for.
        max_sessions: sessions at a time, detached ones included.
        max_frame_rate_hz: frames per second that a client may announce; room is kept for them.
    """

    max_frame_bytes: int = 8 * 1024 * 1024
    max_frame_height: int = 4096
    max_frame_width: int = 4096
    max_frame_pixels: int = 16_800_000
    max_objects: int = 64
    max_mask_pixels: int = 64 * 1920 * 1080
    max_points_per_prompt: int = 64
    max_prompts_per_frame: int = 128
    max_prompts_per_object: int = 16
    max_sessions: int = 64
    max_frame_rate_hz: float = 240.0


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How streams behave.

    Attributes:
        first_message_timeout_s: a stream whose `open` does not come in this time is ended, and so is a probe of health
            whose request does not.
        idle_timeout_s: a stream without requests for this long is ended; so is any other call whose request has not
            come in full in this time.
        max_session_age_s: a session is ended after this long, whichever servers it was at.
        resume_ttl_s: a session whose connection was lost may be resumed for this long; 0: it ends with its stream.
            After `close` its last answers can be read for as long.
        resume_key_file: keys for resume tokens, the same for all fronts: one a line, hexadecimal or base64, 32 bytes or
            more; the first signs, all are accepted. Empty: a random key, so that only this process accepts its tokens.
        ring_messages: answers kept in case the connection they were written to is dead, at most.
        ring_bytes: the same, in bytes.
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
    resume_key_file: str = ""
    ring_messages: int = 256
    ring_bytes: int = 16 * 1024 * 1024
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
        variant: "nano" or a published one, for example "sam2.1_hiera_tiny"; empty: that of the weights, else "nano".
        weights: path of a checkpoint; empty: those that come with the package ("nano" has some); "random", or empty for
            a variant that has none: drawn from `seed` (untrained, for trying things out).
        seed: seed of the random weights.
        input_size: model input height and width in pixels, divisible by 32; 0: the variant's own.
        device: "cpu", "cuda", "cuda:N" or "auto".
        precision: "float32" or "bfloat16" or "auto".
        memory_precision: how the memory bank is kept, "float32" or "bfloat16".
        threads: CPU threads; 0: all cores.
        encode_ahead: on two CPU cores or more, frames that wait behind others are encoded meanwhile, on half of the
            threads: more frames per second for who sends faster than is answered, the same latency for who does not.
        max_batch: sessions in one batch at most.
        calibration_s: once loaded, the model is run for about this long at most (never less than two frames) to measure
            how many objects times frames per second it makes, see `RoutingConfig`; 0: this is not measured.
    """

    variant: str = ""
    weights: str = ""
    seed: int = 0
    input_size: int = 0
    device: str = "auto"
    precision: str = "auto"
    memory_precision: str = "float32"
    threads: int = 0
    encode_ahead: bool = True
    max_batch: int = 16
    calibration_s: float = 1.0


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where the service listens, and how it stops.

    Attributes:
        host: address of the gRPC port.
        port: gRPC port; 0: any free one.
        metrics_host: address of the Prometheus metrics port.
        metrics_port: Prometheus metrics port (HTTP); 0: any free one.
        backend: "embedded" (the model in this process), "triton" (in Triton), or "fake" (no model: to try clients).
        drain_delay_s: after the first signal health says so, and only so much later streams are sent away and new ones
            refused: longer than the proxy before the service takes to look (Envoy as in deploy/envoy: 1 s). 0: at once.
        drain_timeout_s: how long streams may go on after that.
        session_service: serve SessionService, for operators.
        reflection: serve gRPC reflection.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9464
    backend: str = "embedded"
    drain_delay_s: float = 0.0
    drain_timeout_s: float = 30.0
    session_service: bool = True
    reflection: bool = True


@dataclass(frozen=True, slots=True)
class TritonConfig:
    """How the service reaches Triton, and how much the model there takes.

    Attributes:
        endpoints: host:port of Triton's gRPC port, for the backend "triton"; several with commas between.
            "dns:host:port" stands for all addresses of the name, looked up again and again. "k8s:service:port" or
            "k8s:service.namespace:port" stands for the pods behind a Kubernetes service, as its EndpointSlices say
            (extra `kubernetes`); port is the pods', by number or by its name in the service.
        transport: how frames get there: "shm" (shared memory of one host), "raw" (RGB bytes), "jpeg" (lossy), "auto",
            which is shm if the model sees this host's, else raw.
        connect_timeout_s: how long to wait for a first Triton that is ready when the service starts.
        max_sessions: memory banks the model takes at a time; read by Triton's model.
        idle_timeout_s: the model forgets a session without requests for this long; read by Triton's model. Must outlast
            the service's session.idle_timeout_s and session.resume_ttl_s together; a service warns if it does not.
    """

    endpoints: tuple[str, ...] = ("127.0.0.1:8001",)
    transport: str = "auto"
    connect_timeout_s: float = 30.0
    max_sessions: int = 256
    idle_timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class RoutingConfig:
    """How much load is taken, on which of several Tritons a session lives, what is kept so that it can move.

    Load is counted in objects times frames per second. A session's is `open.target_frame_rate_hz` times its objects
    (at least one), or `reserved_object_frames_s` if its client names no rate; and never less than what it really does.
    A session is refused (OVER_CAPACITY) if its load does not fit beside the load there is; one that would be alone is
    always taken. A prompt that adds an object is refused likewise, the session goes on without it. While it runs, an
    image counts as a session whose client names no rate; with several objects, as one of a frame per second. Sessions
    that are resumed or recovered are not refused: they were admitted before. All of this holds for every backend; it
    ends with `admit_by_load = false`, and a backend of unknown capacity (calibration off, nothing declared) refuses
    nobody.

    Attributes:
        checkpoint_every_frames: a session's state is fetched anew after so many answered frames.
        checkpoint_min_interval_s: after prompts and removals it is fetched at once; but never sooner than this, nor
            than ten times as long as the last fetch took.
        checkpoint_bytes: all states kept; beyond that the oldest and largest give way.
        replay_frames: answered frames kept at most per session, to be replayed on top of its state.
        replay_bytes: all such frames, shared evenly between the sessions.
        recovery_timeout_s: how long a frame may wait for a Triton to recover its session on; its turn there, at most
            four are recovered at a time, and the recovery itself may each take as long again.
        recovery_attempts: Tritons that may fail under one frame before it is given up.
        retry_min_s: first pause before a Triton that failed is tried again; pauses double, with jitter.
        retry_max_s: longest such pause.
        canary_timeout_s: how long a Triton may take to show that it works before sessions are placed on it.
        health_period_s: pause between two looks at a Triton's health, which says when it drains.
        health_timeout_s: how long such a look may take; after two that failed the Triton is given up.
        step_timeout_s: a Triton that answers none of its requests for this long is given up, however healthy it says it
            is; longer than the slowest batch takes. So is one that leaves a single request unanswered for four times as
            long.
        dns_period_s: pause between two look-ups of a "dns:" endpoint.
        admit_by_load: whether load is limited at all; if not, only sessions are counted.
        capacity_object_frames_s: load that the embedded model, or one Triton, takes; 0: `capacity_share` of what it was
            measured to make after loading.
        capacity_share: how much of a measured capacity is given to sessions; the rest is for peaks.
        reserved_object_frames_s: load of a session whose client names no frame rate and that does less.
    """

    checkpoint_every_frames: int = 16
    checkpoint_min_interval_s: float = 0.5
    checkpoint_bytes: int = 512 * 1024 * 1024
    replay_frames: int = 64
    replay_bytes: int = 1024 * 1024 * 1024
    recovery_timeout_s: float = 30.0
    recovery_attempts: int = 3
    retry_min_s: float = 0.2
    retry_max_s: float = 2.0
    canary_timeout_s: float = 10.0
    health_period_s: float = 0.5
    health_timeout_s: float = 2.0
    step_timeout_s: float = 15.0
    dns_period_s: float = 5.0
    admit_by_load: bool = True
    capacity_object_frames_s: float = 0.0
    capacity_share: float = 0.7
    reserved_object_frames_s: float = 1.0


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """Which frames are followed with OpenTelemetry, and where their spans go.

    Attributes:
        sample_ratio: share of the frames that are traced, 0 to 1; 0: off, and nothing is needed for it. A stream whose
            caller sends a W3C `traceparent` is traced as that says: all its frames in the caller's trace, or none.
        endpoint: where a collector takes OTLP over gRPC: http://host:port, or https://host:port for TLS.
    """

    sample_ratio: float = 0.0
    endpoint: str = "http://127.0.0.1:4317"


@dataclass(frozen=True, slots=True)
class KubernetesConfig:
    """How the Kubernetes API is used; only with "k8s:" in triton.endpoints (RBAC: routing/kubernetes_rights.py).

    Attributes:
        kubeconfig: a kubeconfig file; empty: the pod's service account, or outside of a pod $KUBECONFIG or
            ~/.kube/config.
        namespace: of services that name none, and of the Lease; empty: the pod's own, or the kubeconfig's.
        request_timeout_s: how long the API may take to connect and to answer; a watch may be silent for this much
            longer than watch_timeout_s before it counts as dead.
        watch_timeout_s: a watch is ended by the server after this, and begun anew; whole seconds.
        resync_period_s: everything is listed anew this often, whatever the watch says.
        retry_min_s: first pause after a failure; pauses double, with jitter.
        retry_max_s: longest such pause, and the pause when access is denied.
        deletion_cost: say on Triton's pods (controller.kubernetes.io/pod-deletion-cost) how much load they have, so
            that scaling in takes the emptiest. One service does so at a time, the holder of the Lease.
        deletion_cost_period_s: how often it looks for changes worth writing.
        lease_name: of the Lease.
        lease_duration_s: a holder that was not heard of for this long has lost the Lease; whole seconds.
    """

    kubeconfig: str = ""
    namespace: str = ""
    request_timeout_s: float = 10.0
    watch_timeout_s: int = 60
    resync_period_s: float = 600.0
    retry_min_s: float = 0.5
    retry_max_s: float = 30.0
    deletion_cost: bool = False
    deletion_cost_period_s: float = 20.0
    lease_name: str = "masklet-deletion-cost"
    lease_duration_s: int = 30


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set."""

    server: ServerConfig = field(default_factory=ServerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    session: SessionConfig = field(default_factory=SessionConfig)
    triton: TritonConfig = field(default_factory=TritonConfig)
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    tracing: TracingConfig = field(default_factory=TracingConfig)
    kubernetes: KubernetesConfig = field(default_factory=KubernetesConfig)
