"""Addresses of servers. gRPC takes nearly any text for one, and port 107893 for 42357."""

from __future__ import annotations

import re
from collections.abc import Sequence

from masklet.errors import InvalidOpen

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+(%\w+)?\]|[^\s:/@\[\]]+):(\d{1,5})")
_OTHER_NAMES = re.compile(r"(unix|ipv4|ipv6):.*\D.*|dns:///.+")  # gRPC's own


def parse_addresses(given: str | Sequence[str]) -> tuple[str, ...]:
    """Addresses from a list, or from one text with commas between them.

    Raises:
        InvalidOpen: there is none, or one is not HOST:PORT.
    """
    parts = given.split(",") if isinstance(given, str) else given
    found = tuple(part.strip() for part in parts if part.strip())
    if not found:
        raise InvalidOpen("no server address is given, must be host:port", field="address")
    return tuple(_checked(address) for address in found)


def _checked(address: str) -> str:
    named = _HOST_PORT.fullmatch(address)
    if not (named and 1 <= int(named[3]) <= 65535) and not _OTHER_NAMES.fullmatch(address):
        expected = "HOST:PORT, the port 1 to 65535, an IPv6 address in brackets"
        raise InvalidOpen(f"address is {address!r}, must be {expected}", field="address")
    return address
