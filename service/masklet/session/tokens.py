"""Resume tokens: who may go on with which session, signed so that any front with the key can tell.

    token = version (1 byte) | claims (JSON list, UTF-8) | HMAC-SHA256 of what comes before it (32 bytes)

A token says nothing about what it opens that its holder does not know, so it is signed and not encrypted (RFC 2104).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from masklet.errors import AccessDenied, ConfigError, LimitExceeded, SessionExpired

MAX_TOKEN_BYTES = 1024
MIN_KEY_BYTES = 32
_VERSION = b"\x01"
_MAC_BYTES = hashlib.sha256().digest_size
_PURPOSE = b"masklet resume token"  # the same key may sign other things one day
_FIELD = "open.resume_token"
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")


@dataclass(frozen=True, slots=True)
class ResumeClaim:
    """What a token says.

    Attributes:
        session_id: the session it opens.
        tenant: whose session it is; "" where nobody is told apart.
        epoch: the session's epoch when it was given out, from 1.
        location: where the backend said the session lives.
        shape: size and profile, as `Terms.shape` writes them.
        opened_ms: when the session was opened, milliseconds since the epoch. Older versions wrote the time of the
            token's own making there, and read over it.
    """

    session_id: str
    tenant: str
    epoch: int
    location: str
    shape: str
    opened_ms: int


class TokenSigner:
    """Signs with the first key, accepts all.

    To rotate: the new key last on every front, then first on every front, then, a lifetime later, without the old one.

    Args:
        keys: of at least 32 bytes each; none: a random one, so that only this process accepts its tokens.
        wall: seconds since the epoch; fronts must agree on it.
    """

    def __init__(self, keys: Sequence[bytes] = (), *, wall: Callable[[], float] = time.time) -> None:
        """Raises ConfigError for a key that is too short."""
        for key in keys:
            _check_key(key, "a resume key")
        self._keys = tuple(keys) or (secrets.token_bytes(MIN_KEY_BYTES),)
        self._wall = wall

    def wall_ms(self) -> int:
        """The time of day, milliseconds since the epoch."""
        return round(self._wall() * 1000)

    def sign(self, claim: ResumeClaim, *, lifetime_s: float) -> bytes:
        """A token that is accepted for `lifetime_s` seconds from now."""
        claims = [*astuple(claim), self.wall_ms() + round(lifetime_s * 1000)]
        signed = _VERSION + json.dumps(claims, separators=(",", ":")).encode()
        return signed + _mac(self._keys[0], signed)

    def verify(self, token: bytes, *, tenant: str = "") -> ResumeClaim:
        """What a token says.

        Raises:
            LimitExceeded: it is longer than any token.
            AccessDenied: it was not signed with one of the keys, or is of another tenant.
            SessionExpired: its time is over.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise LimitExceeded(
                f"the resume token has {len(token)} bytes, the limit is {MAX_TOKEN_BYTES}", field=_FIELD
            )
        signed, mac = token[:-_MAC_BYTES], token[-_MAC_BYTES:]
        genuine = [hmac.compare_digest(mac, _mac(key, signed)) for key in self._keys]
        if not signed.startswith(_VERSION) or not any(genuine):
            raise AccessDenied(f"the resume token of {len(token)} bytes is not one of this service", field=_FIELD)
        *claimed, expires_ms = json.loads(signed[len(_VERSION) :])
        claim = ResumeClaim(*claimed)
        if not hmac.compare_digest(claim.tenant.encode(), tenant.encode()):
            raise AccessDenied("the resume token belongs to somebody else", field=_FIELD)
        late_s = self._wall() - expires_ms / 1000
        if late_s >= 0:
            raise SessionExpired(f"the resume token expired {late_s:.1f} s ago", field=_FIELD)
        return claim


def read_keys(path: Path) -> tuple[bytes, ...]:
    """The keys of a file: one a line, hexadecimal or base64; empty lines and those that begin with # are skipped.

    Raises:
        ConfigError: an unreadable file, no key, or one that is not encoded so or too short.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise ConfigError(f"session.resume_key_file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"session.resume_key_file {path} is not plain text") from None
    named = [(f"{path}, line {number}", line.strip()) for number, line in enumerate(lines, 1)]
    keys = tuple(_decoded(text, place) for place, text in named if text and not text.startswith("#"))
    if not keys:
        raise ConfigError(f"session.resume_key_file {path} holds no key; one: `openssl rand -hex {MIN_KEY_BYTES}`")
    return keys


def _decoded(text: str, place: str) -> bytes:
    try:
        key = bytes.fromhex(text) if _HEX.fullmatch(text) else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise ConfigError(f"{place}: the key is neither hexadecimal nor base64") from None
    _check_key(key, place)
    return key


def _check_key(key: bytes, place: str) -> None:
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(f"{place}: the key has {len(key)} bytes, at least {MIN_KEY_BYTES} are needed")


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, _PURPOSE + signed, "sha256")
