"""What EndpointSlices say: which addresses there are, what is wanted of each, and which pods they are.

Slices are taken as the JSON that the API sent. Whatever is missing or odd in one endpoint costs that endpoint, not the
others: fields are optional more often than not (https://kubernetes.io/docs/concepts/services-networking/endpoint-slices).
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from masklet.routing.discovery import Found, Standing

_SERVICE = re.compile(r"k8s:([a-z0-9-]+)(?:\.([a-z0-9-]+))?:([a-z0-9-]+)")
_LOG = logging.getLogger(__name__)

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Service:
    """The service whose pods are looked for.

    Attributes:
        name: its name.
        namespace: empty: to be filled in.
        port: of its pods: a number, or a name that its slices give a number.
    """

    name: str
    namespace: str
    port: str

    @staticmethod
    def from_endpoint(endpoint: str) -> Service:
        """Of "k8s:name:port" or "k8s:name.namespace:port", as `triton.endpoints` was checked to be."""
        found = _SERVICE.fullmatch(endpoint)
        assert found is not None, endpoint
        return Service(found[1], found[2] or "", found[3])


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod by name; `uid` tells it from a later one of the same name."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the slices of a service say.

    Attributes:
        found: what is wanted of each address.
        pods: which pod an address is, where it is one.
    """

    found: Found
    pods: Mapping[str, Pod]


@dataclass(frozen=True, slots=True)
class _Entry:
    host: str
    address: str
    standing: Standing
    pod: Pod | None

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host


def read_slices(slices: Iterable[Json], port: str) -> Sighting:
    """What all slices of a service say together.

    An endpoint may be in several slices while it is moved between them, and a pod with an IPv4 and an IPv6 address is
    in slices of both kinds: each pod is named once, by its IPv4 address if it has one.
    """
    entries = _one_for_each_pod(_one_for_each_address(entry for one in slices for entry in _entries(one, port)))
    found = {entry.address: entry.standing for entry in entries}
    pods = {entry.address: entry.pod for entry in entries if entry.pod}
    return Sighting(found, pods)


def _entries(one: Json, port: str) -> Iterator[_Entry]:
    number = _port(one, port)
    for endpoint in _items(one, "endpoints"):
        entry = _entry(endpoint, number, str(_part(one, "metadata").get("namespace") or ""))
        if entry is not None:
            yield entry
        else:
            _LOG.debug("endpoint without a usable address or port", extra={"endpoint": repr(endpoint)[:200]})


def _entry(endpoint: Json, port: int | None, namespace: str) -> _Entry | None:
    addresses = endpoint.get("addresses")
    host = (
        _host(addresses[0]) if isinstance(addresses, list) and addresses else None
    )  # all mean the same: use the first
    if host is None or port is None:
        return None
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return _Entry(host, address, _standing(_part(endpoint, "conditions")), _pod(endpoint, namespace))


def _standing(conditions: Json) -> Standing:
    """What is not said is true of `ready` and false of `terminating`, as the API defines it."""
    if conditions.get("terminating") is True:
        return Standing.LEAVING
    return Standing.HELD if conditions.get("ready") is False else Standing.WANTED


def _port(one: Json, port: str) -> int | None:
    """A number is a pod's port whether the service names it or not; a name has to be in the slice."""
    if port.isdigit():
        return int(port)
    numbers = [item.get("port") for item in _items(one, "ports") if item.get("name") == port]
    return next((number for number in numbers if isinstance(number, int)), None)


def _host(text: object) -> str | None:
    try:
        return str(ipaddress.ip_address(text)) if isinstance(text, str) else None
    except ValueError:
        return None  # a host name: such slices are deprecated, and nothing fills them


def _pod(endpoint: Json, namespace: str) -> Pod | None:
    target = _part(endpoint, "targetRef")
    name = target.get("name")
    if target.get("kind") != "Pod" or not isinstance(name, str) or not name:
        return None
    return Pod(str(target.get("namespace") or namespace), name, str(target.get("uid") or ""))


def _one_for_each_address(entries: Iterable[_Entry]) -> list[_Entry]:
    kept: dict[str, _Entry] = {}
    for entry in entries:
        other = kept.get(entry.address)
        kept[entry.address] = entry if other is None else _newer(entry, other)
    return list(kept.values())


def _newer(one: _Entry, other: _Entry) -> _Entry:
    """Of two that name one address. A pod that terminates never comes back, but another may get its address."""
    same_pod = one.pod is None or other.pod is None or one.pod == other.pod
    order = (Standing.LEAVING, Standing.WANTED, Standing.HELD) if same_pod else tuple(Standing)
    return min(other, one, key=lambda entry: order.index(entry.standing))


def _one_for_each_pod(entries: list[_Entry]) -> list[_Entry]:
    by_pod: dict[Pod | str, _Entry] = {}
    for entry in sorted(entries, key=lambda one: (one.is_ipv6, one.address)):
        by_pod.setdefault(entry.pod or entry.address, entry)
    return list(by_pod.values())


def _part(of: Json, name: str) -> Json:
    part = of.get(name)
    return part if isinstance(part, dict) else {}


def _items(of: Json, name: str) -> list[Json]:
    items = of.get(name)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
