"""The calls to the Kubernetes API: the one module that knows the `kubernetes` package.

They block, for as long as `kubernetes.request_timeout_s` says at most, and belong in a thread. Objects are the JSON
that the API sent: the package's models refuse slices without endpoints, which are legal and common.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masklet.config import KubernetesConfig
from masklet.errors import ConfigError, install_hint
from masklet.routing.kubernetes_slices import Json, Pod, Service

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_SERVICE_LABEL = "kubernetes.io/service-name"
_MAX_TEXT = 500


class ApiProblem(Exception):  # not of the error tree: nobody outside of this room sees it
    """The API refused a request, or did not answer it.

    Attributes:
        operation: what was asked for: "list", "watch", "lease" or "pod".
        status: HTTP status; 0: there was no answer, or none that can be read.
        retry_after_s: what the API asked to wait; 0: it did not.
    """

    def __init__(self, operation: str, status: int, text: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(text[:_MAX_TEXT])
        self.operation = operation
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def reason(self) -> str:
        """In one word, for a metric."""
        names = {0: "unreachable", 401: "denied", 403: "denied", 404: "missing", 409: "conflict", 410: "gone"}
        return names.get(self.status, "refused")


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the API is and who we are there: what a kubeconfig or a pod's service account says.

    Attributes:
        client: an ApiClient.
        namespace: that of the service account or of the kubeconfig's context; empty: not said.
    """

    client: Any
    namespace: str


class KubernetesApi:
    """One service's access to the API; calls may come from several threads.

    Args:
        connection: see `connect`.
        settings: namespace and times.

    Attributes:
        namespace: in force where none is named.
    """

    def __init__(self, connection: Connection, settings: KubernetesConfig) -> None:
        from kubernetes import client

        self.namespace = settings.namespace or connection.namespace
        if not self.namespace:
            raise ConfigError(
                "kubernetes.namespace is empty, and nothing else names a namespace", field="kubernetes.namespace"
            )
        self._settings = settings
        self._client = connection.client
        self._timeouts_s = (settings.request_timeout_s, settings.request_timeout_s)
        self._slices = client.DiscoveryV1Api(connection.client)
        self._leases = client.CoordinationV1Api(connection.client)
        self._pods = client.CoreV1Api(connection.client)

    def close(self) -> None:
        """Close idle connections."""
        self._client.rest_client.pool_manager.clear()

    def list_slices(self, service: Service) -> tuple[list[Json], str]:
        """All slices of the service, and the resource version to watch from. Raises ApiProblem."""
        found = self._call(
            "list",
            self._slices.list_namespaced_endpoint_slice,
            service.namespace or self.namespace,
            label_selector=f"{_SERVICE_LABEL}={service.name}",
        )
        items, metadata = found.get("items") or [], found.get("metadata") or {}
        if not isinstance(items, list) or not isinstance(metadata, dict):
            raise ApiProblem("list", 0, f"the API's list is none: {found!r:.200}")
        return [item for item in items if isinstance(item, dict)], str(metadata.get("resourceVersion") or "")

    def watch_slices(self, service: Service, version: str) -> SliceWatch:
        """What changes from `version` on, for `kubernetes.watch_timeout_s` seconds."""
        return SliceWatch(self._slices, service, self._settings, namespace=self.namespace, version=version)

    def read_lease(self, name: str) -> Json:
        """The Lease. Raises ApiProblem, with status 404 if there is none."""
        return self._call("lease", self._leases.read_namespaced_lease, name, self.namespace)

    def create_lease(self, name: str, spec: Json) -> Json:
        """Make it. Raises ApiProblem, with status 409 if there is one."""
        body = {"metadata": {"name": name, "namespace": self.namespace}, "spec": spec}
        return self._call("lease", self._leases.create_namespaced_lease, self.namespace, _lease(body))

    def replace_lease(self, name: str, lease: Json) -> Json:
        """Write it, unless it has changed since it was read: ApiProblem with status 409."""
        return self._call("lease", self._leases.replace_namespaced_lease, name, self.namespace, _lease(lease))

    def read_pod(self, pod: Pod) -> Json:
        """The pod. Raises ApiProblem, with status 404 if it is gone."""
        return self._call("pod", self._pods.read_namespaced_pod, pod.name, pod.namespace)

    def annotate_pod(self, pod: Pod, *, version: str, annotations: dict[str, str]) -> None:
        """Set annotations, unless the pod has changed since `version` was read: ApiProblem with status 409."""
        body = {"metadata": {"resourceVersion": version, "annotations": annotations}}
        self._call("pod", self._pods.patch_namespaced_pod, pod.name, pod.namespace, body)

    def _call(self, operation: str, function: Callable[..., Any], *args: Any, **options: Any) -> dict[str, Any]:
        try:
            response = function(*args, **options, _preload_content=False, _request_timeout=self._timeouts_s)
            found = json.loads(response.data)
        except Exception as error:  # of the package, of urllib3, of TLS, of a token file
            raise _problem(operation, error) from error
        if not isinstance(found, dict):
            raise ApiProblem(operation, 0, f"the API answered {found!r:.200}, must be an object")
        return found


class SliceWatch:
    """One watch. Iterate it in a thread; `stop` may be called from another."""

    def __init__(self, api: Any, service: Service, settings: KubernetesConfig, *, namespace: str, version: str) -> None:
        from kubernetes import watch

        self._watch = watch.Watch(return_type="object")
        self._list = api.list_namespaced_endpoint_slice
        self._options = {
            "namespace": service.namespace or namespace,
            "label_selector": f"{_SERVICE_LABEL}={service.name}",
            "resource_version": version,
            "allow_watch_bookmarks": True,
            "timeout_seconds": settings.watch_timeout_s,
            # the server ends the watch; if it does not, because the connection is dead, we do
            "_request_timeout": (settings.request_timeout_s, settings.watch_timeout_s + settings.request_timeout_s),
        }

    def __iter__(self) -> Iterator[tuple[str, Json]]:
        """Kinds (ADDED, MODIFIED, DELETED, BOOKMARK) and slices. Raises ApiProblem; 410: list anew."""
        try:
            for event in self._watch.stream(self._list, **self._options):
                if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
                    raise ApiProblem("watch", 0, f"the API sent {event!r:.200}, must be an event")
                yield str(event.get("type")), event["object"]
        except (ApiProblem, GeneratorExit):
            raise
        except Exception as error:
            raise _problem("watch", error) from error

    def stop(self) -> None:
        """End it, also while it waits for the API."""
        self._watch.stop()


def connect(settings: KubernetesConfig) -> Connection:
    """By the kubeconfig that is set, the pod's service account, or the user's kubeconfig, in this order.

    Raises:
        ConfigError: the extra is not installed, or none of them is there.
    """
    if importlib.util.find_spec("kubernetes") is None:
        message = f'triton.endpoints has a "k8s:" endpoint, which needs kubernetes: {install_hint("kubernetes")}'
        raise ConfigError(message, field="triton.endpoints")
    from kubernetes import client, config

    configuration = client.Configuration()
    configuration.retries = False  # pauses between attempts are ours
    configuration.keep_alive = True
    try:
        namespace = _configure(configuration, config, settings.kubeconfig)
    except (config.ConfigException, OSError, ValueError) as error:
        where = f"kubernetes.kubeconfig is {settings.kubeconfig!r}: " if settings.kubeconfig else ""
        message = f"it is not known where the Kubernetes API is: {where}{str(error)[:_MAX_TEXT]}"
        raise ConfigError(message, field="kubernetes.kubeconfig") from error
    return Connection(client.ApiClient(configuration), namespace)


def _configure(configuration: Any, config: Any, kubeconfig: str) -> str:
    """Fills the configuration in; the namespace it comes with."""
    if kubeconfig:
        return _read_kubeconfig(configuration, config, kubeconfig)
    try:
        config.load_incluster_config(client_configuration=configuration)
        return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else ""
    except config.ConfigException as no_pod:
        try:
            return _read_kubeconfig(configuration, config, None)
        except config.ConfigException as no_user:
            text = f"no service account of a pod ({no_pod}), and no kubeconfig ({no_user})"
            raise config.ConfigException(text) from no_user


def _read_kubeconfig(configuration: Any, config: Any, path: str | None) -> str:
    config.load_kube_config(config_file=path, client_configuration=configuration)
    _, active = config.list_kube_config_contexts(config_file=path)
    return str((active or {}).get("context", {}).get("namespace") or "")


def _lease(body: Json) -> dict[str, Any]:
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **body}


def _problem(operation: str, error: Exception) -> ApiProblem:
    """What the API said, or why it said nothing."""
    status = getattr(error, "status", None)
    if not isinstance(status, int):
        return ApiProblem(operation, 0, f"{type(error).__name__}: {error}")
    headers = getattr(error, "headers", None) or {}
    wait = str(headers.get("Retry-After") or "")
    text = _message(getattr(error, "body", None)) or str(getattr(error, "reason", None) or error)
    return ApiProblem(operation, status, text, retry_after_s=float(wait) if wait.isdigit() else 0.0)


def _message(body: object) -> str:
    """Of a Status object."""
    try:
        found = json.loads(body) if isinstance(body, (str, bytes)) else None
    except ValueError:
        return ""
    return str(found.get("message") or "") if isinstance(found, dict) else ""
