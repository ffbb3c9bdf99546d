"""A Kubernetes API server as far as masklet asks one: real HTTP on a free port, with faults to order.

It grants what `masklet.routing.kubernetes_rights` says is needed, and refuses everything else.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from masklet.config import KubernetesConfig
from masklet.routing.kubernetes_rights import RBAC, Right

_PATH = re.compile(r"/api(?:s/(?P<group>[^/]+))?/v1/namespaces/(?P<ns>[^/]+)/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?")
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch"}
_LOOK_S = 0.01
_ACCOUNT = "system:serviceaccount:masklet:masklet-front"

Json = dict[str, Any]


class ApiServer:
    """What the cluster holds, and how its API behaves.

    Attributes:
        slices: EndpointSlices by name.
        leases: Leases by name.
        pods: pods by name.
        requests: verb, resource and options of every request that was granted.
        denied: resources that nobody may touch.
        silent: watches are begun and then nothing comes, not even their end.
        failing: HTTP status of every answer; 0: it works.
        gone: "status" or "event": how watches say 410; "": they do not.
        retry_after_s: said with failures.
        cut: what watches say before they break off.
        selectors: label selectors asked for.
    """

    def __init__(self) -> None:
        self.slices: dict[str, Json] = {}
        self.leases: dict[str, Json] = {}
        self.pods: dict[str, Json] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.denied: set[str] = set()
        self.silent = False
        self.failing = 0
        self.gone = ""
        self.retry_after_s = 0
        self.cut = b""
        self.selectors: set[str] = set()
        self.lock = threading.RLock()
        self._version = 100
        self._events: list[tuple[int, Json]] = []
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self.port = 0

    def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        api = self

        class Handler(_Handler):
            server_api = api

        self._server = _listening(self.port, Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        """Nobody listens any more, watches end."""
        server, self._server = self._server, None
        if server and self._thread:
            server.shutdown()
            server.server_close()
            self._thread.join()

    @property
    def up(self) -> bool:
        return self._server is not None

    def put(self, name: str, *endpoints: Json, kind: str = "IPv4", **more: Any) -> None:
        """A slice of the service "triton"."""
        with self.lock:
            self._version += 1
            change = "MODIFIED" if name in self.slices else "ADDED"
            metadata = {"name": name, "namespace": "masklet", "resourceVersion": str(self._version)}
            one = {"metadata": metadata, "addressType": kind, "endpoints": list(endpoints)}
            one["ports"] = [{"name": "grpc", "port": 8001, "protocol": "TCP"}]
            self.slices[name] = {**one, **more}
            self._events.append((self._version, {"type": change, "object": self.slices[name]}))

    def remove(self, name: str) -> None:
        with self.lock:
            self._version += 1
            one = self.slices.pop(name)
            one = {**one, "metadata": {**one["metadata"], "resourceVersion": str(self._version)}}
            self._events.append((self._version, {"type": "DELETED", "object": one}))

    def bookmark(self) -> int:
        """All watches hear of a version without a change; which."""
        with self.lock:
            self._version += 5
            metadata = {"resourceVersion": str(self._version)}
            self._events.append((self._version, {"type": "BOOKMARK", "object": {"metadata": metadata}}))
            return self._version

    def add_pod(self, name: str, **annotations: str) -> None:
        with self.lock:
            self._version += 1
            metadata = {"name": name, "namespace": "masklet", "uid": f"uid-{name}", "annotations": annotations}
            self.pods[name] = {"metadata": {**metadata, "resourceVersion": str(self._version)}}

    def annotations(self, name: str) -> dict[str, str]:
        return dict(self.pods[name]["metadata"]["annotations"])

    def holder(self, name: str = "masklet-deletion-cost") -> str:
        return str(self.leases.get(name, {}).get("spec", {}).get("holderIdentity", ""))

    def write(self, store: dict[str, Json], name: str, found: Json, *, patch: bool = False) -> Json | None:
        """The new object; None: somebody else has changed it meanwhile."""
        with self.lock:
            old = store.get(name, {}).get("metadata", {})
            said = found.get("metadata", {}).get("resourceVersion")
            if said is not None and said != old.get("resourceVersion"):
                return None
            self._version += 1
            metadata = {"name": name, **old, **found.get("metadata", {}), "resourceVersion": str(self._version)}
            if patch:
                annotations = {**(old.get("annotations") or {}), **(found["metadata"].get("annotations") or {})}
                found = {**store[name], **found}
                metadata["annotations"] = annotations
            store[name] = {**found, "metadata": metadata}
            return store[name]

    def events_after(self, version: int) -> list[tuple[int, Json]]:
        with self.lock:
            return [(number, event) for number, event in self._events if number > version]

    def count(self, verb: str, resource: str) -> int:
        return len(self.options(verb, resource))

    def options(self, verb: str, resource: str) -> list[dict[str, str]]:
        """Of all such requests."""
        return [options for *about, options in self.requests if about == [verb, resource]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of its business."""


def _listening(port: int, handler: type[BaseHTTPRequestHandler]) -> _Server:
    """On a port that was ours before, if it is not 0: somebody's passing connection may have it just now."""
    until_s = time.monotonic() + 20
    while True:
        try:
            return _Server(("127.0.0.1", port), handler)
        except OSError:
            if not port or time.monotonic() > until_s:
                raise
            time.sleep(_LOOK_S)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_api: ApiServer

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def _serve(self) -> None:
        api, url = self.server_api, urlsplit(self.path)
        if api._server is not self.server:  # the connection is older than the outage
            self.close_connection = True
            return None
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else {}
        found = _PATH.fullmatch(url.path)
        options = {name: values[0] for name, values in parse_qs(url.query).items()}
        if not found:
            return self._status(404, "no such path")
        verb = "watch" if options.get("watch") in ("true", "True") else _VERBS[self.command]
        if verb == "get" and not found["name"]:
            verb = "list"
        if (
            not _granted(found["group"] or "", found["resource"], verb, found["name"])
            or found["resource"] in api.denied
        ):
            text = f'{found["resource"]} is forbidden: User "{_ACCOUNT}" cannot {verb} resource "{found["resource"]}"'
            return self._status(403, text)
        if api.failing:
            return self._status(api.failing, "as ordered")
        api.requests.append((verb, found["resource"], options))
        handle = {"endpointslices": self._slices, "leases": self._leases, "pods": self._pods}[found["resource"]]
        handle(verb, found["name"] or "", options, body)

    do_GET = do_POST = do_PUT = do_PATCH = _serve

    def _slices(self, verb: str, name: str, options: dict[str, str], body: Json) -> None:
        api = self.server_api
        api.selectors.add(options.get("labelSelector", ""))
        if verb == "list":
            with api.lock:
                metadata = {"resourceVersion": str(api._version)}
                return self._json(200, {"items": list(api.slices.values()), "metadata": metadata})
        if api.gone == "status":
            return self._status(410, "too old resource version")
        self._begin_watch()
        if api.gone == "event":
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            self._chunk(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            return self._chunk(b"")
        if api.cut:
            self._chunk(api.cut)
            self.close_connection = True
            return None
        return self._events(int(options["resourceVersion"]), time.monotonic() + int(options["timeoutSeconds"]))

    def _events(self, version: int, until_s: float) -> None:
        api = self.server_api
        while api._server is self.server and (api.silent or time.monotonic() < until_s):
            if not api.silent:
                for number, event in api.events_after(version):
                    version = number
                    self._chunk(json.dumps(event).encode() + b"\n")
            time.sleep(_LOOK_S)
        if api.silent or api._server is not self.server:
            self.close_connection = True
        else:
            self._chunk(b"")

    def _leases(self, verb: str, name: str, options: dict[str, str], body: Json) -> None:
        api = self.server_api
        if verb == "get":
            return self._object(api.leases, name)
        name = body["metadata"]["name"]
        with api.lock:
            if verb == "create" and name in api.leases:
                return self._status(409, "already exists")
            written = api.write(api.leases, name, body)
        return self._json(201, written) if written else self._status(409, "the object has been modified")

    def _pods(self, verb: str, name: str, options: dict[str, str], body: Json) -> None:
        api = self.server_api
        if verb == "get" or name not in api.pods:
            return self._object(api.pods, name)
        written = api.write(api.pods, name, body, patch=True)
        return self._json(200, written) if written else self._status(409, "the object has been modified")

    def _object(self, store: dict[str, Json], name: str) -> None:
        found = store.get(name)
        return self._json(200, found) if found else self._status(404, f"{name} not found")

    def _status(self, code: int, message: str) -> None:
        self._json(code, {"kind": "Status", "code": code, "message": message})

    def _json(self, code: int, found: Json) -> None:
        content = json.dumps(found).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        if code >= 500 and self.server_api.retry_after_s:
            self.send_header("Retry-After", str(self.server_api.retry_after_s))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _begin_watch(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()


def _granted(group: str, resource: str, verb: str, name: str | None) -> bool:
    return any(_covers(right, group, resource, verb=verb, name=name) for right in RBAC)


def _covers(right: Right, group: str, resource: str, *, verb: str, name: str | None) -> bool:
    return (
        (right.group, right.resource) == (group, resource)
        and verb in right.verbs
        and (not right.names or name in right.names)
    )


async def until(true: Callable[[], object], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(_LOOK_S)


@contextmanager
def api_server() -> Iterator[ApiServer]:
    """A running one."""
    api = ApiServer()
    api.start()
    try:
        yield api
    finally:
        with suppress(OSError):
            api.stop()


def kubeconfig(port: int) -> Json:
    """That names a server on this host."""
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "masklet"}}
    user = {"name": "u", "user": {"token": "t"}}
    return {"current-context": "x", "clusters": [cluster], "contexts": [context], "users": [user]}


SETTINGS = KubernetesConfig(
    request_timeout_s=5, watch_timeout_s=1, retry_min_s=0.01, retry_max_s=0.05, lease_duration_s=3
)


def endpoint(host: str, *, pod: str | None = None, **conditions: bool | None) -> Json:
    """One endpoint of a slice; without conditions it says none."""
    found: Json = {"addresses": [host]}
    if conditions:
        found["conditions"] = conditions
    if pod:
        found["targetRef"] = {"kind": "Pod", "name": pod, "namespace": "masklet", "uid": f"uid-{pod}"}
    return found
