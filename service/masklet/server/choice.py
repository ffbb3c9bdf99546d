"""The backend a configuration names; what it needs is imported here and only when it is named."""

from __future__ import annotations

from masklet.backends.base import Backend
from masklet.config import Config
from masklet.errors import ConfigError, install_hint
from masklet.observability.metrics import Metrics
from masklet.routing.discovery import Discovery, JoinedEndpoints, discover, split_endpoints
from masklet.routing.kubernetes import KubernetesEndpoints, kubernetes_endpoints
from masklet.routing.link import RoutedTo
from masklet.routing.router import RoutedBackend

_ENGINE_EXTRA = ("torch", "safetensors")
_TRITON_EXTRA = ("tritonclient",)


def make_backend(config: Config, *, metrics: Metrics | None = None) -> Backend:
    """The backend `config.server.backend` names; `metrics` is where it says what it does.

    Raises:
        ConfigError: the backend is unknown, or what it needs is not installed.
    """
    name = config.server.backend
    if name == "fake":
        from masklet.backends.fake import FakeBackend

        return FakeBackend(routing=config.routing)
    if name == "triton":
        return _triton_backend(config, metrics)
    if name != "embedded":
        raise ConfigError(f"server.backend is {name!r}, which this version does not have", field="server.backend")
    try:
        from masklet.backends.embedded import EmbeddedBackend
    except ModuleNotFoundError as error:
        raise _not_installed(error, name, "engine", _ENGINE_EXTRA) from error
    return EmbeddedBackend(config.model, routing=config.routing)


def _triton_backend(config: Config, metrics: Metrics | None) -> Backend:
    try:
        from masklet.backends.triton import TritonBackend
    except ModuleNotFoundError as error:
        raise _not_installed(error, "triton", "triton", _TRITON_EXTRA) from error
    triton, routing = config.triton, config.routing

    def connect(address: str) -> RoutedTo:  # the router tries again by itself
        return TritonBackend(
            address,
            transport=triton.transport,
            connect_timeout_s=0,
            quiet_s=config.session.idle_timeout_s + config.session.resume_ttl_s,
        )

    metrics = metrics or Metrics()
    pods = _pods(config, metrics)
    backend = RoutedBackend(
        _discovery(config, pods),
        connect,
        routing,
        first_timeout_s=triton.connect_timeout_s,
        metrics=metrics,
    )
    if pods is not None and config.kubernetes.deletion_cost:
        backend.run_beside(lambda: pods.costs(backend.survey).run())
    return backend


def _discovery(config: Config, pods: KubernetesEndpoints | None) -> Discovery:
    others, _ = split_endpoints(config.triton.endpoints)
    plain = discover(others, dns_period_s=config.routing.dns_period_s)
    if pods is None:
        return plain
    return JoinedEndpoints([plain, pods]) if others else pods


def _pods(config: Config, metrics: Metrics) -> KubernetesEndpoints | None:
    """Those behind "k8s:" endpoints, if there are any. Raises ConfigError."""
    _, theirs = split_endpoints(config.triton.endpoints)
    return kubernetes_endpoints(theirs, config.kubernetes, metrics=metrics) if theirs else None


def _not_installed(error: ModuleNotFoundError, backend: str, extra: str, needs: tuple[str, ...]) -> Exception:
    if error.name not in needs:
        return error
    message = f"server.backend is {backend!r}, which needs {error.name}: {install_hint(extra)}"
    return ConfigError(message, field="server.backend")
