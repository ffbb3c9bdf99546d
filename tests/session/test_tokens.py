"""Resume tokens under attack, and the file their keys come from."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masklet.errors import AccessDenied, ConfigError, LimitExceeded, MaskletError, SessionExpired
from masklet.session.tokens import MAX_TOKEN_BYTES, ResumeClaim, TokenSigner, read_keys

OLD, NEW = b"o" * 32, b"n" * 32
CLAIM = ResumeClaim("0123456789abcdef" * 2, "acme", 3, "triton-2:8001", "48x64 interactive block", 999_000_000)


class Wall:
    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def test_what_was_signed_is_what_is_read() -> None:
    signer = TokenSigner([NEW])
    assert signer.verify(signer.sign(CLAIM, lifetime_s=60), tenant="acme") == CLAIM


def test_a_token_is_read_as_before() -> None:
    """Two numbers come last: when it was opened, or, of an older version, made; and when it expires."""
    signer = TokenSigner([NEW], wall=Wall())
    claims = json.loads(signer.sign(CLAIM, lifetime_s=60)[1:-32])
    assert claims == [CLAIM.session_id, "acme", 3, CLAIM.location, CLAIM.shape, CLAIM.opened_ms, 1_000_060_000]


def test_keys_rotate_the_first_signs_and_all_are_accepted() -> None:
    before, after = TokenSigner([OLD]), TokenSigner([NEW, OLD])
    assert after.verify(before.sign(CLAIM, lifetime_s=60), tenant="acme") == CLAIM
    with pytest.raises(AccessDenied):
        before.verify(after.sign(CLAIM, lifetime_s=60), tenant="acme")


def test_without_keys_only_the_process_itself_accepts_its_tokens() -> None:
    with pytest.raises(AccessDenied):
        TokenSigner().verify(TokenSigner().sign(CLAIM, lifetime_s=60), tenant="acme")


def test_a_token_expires() -> None:
    wall = Wall()
    signer = TokenSigner([NEW], wall=wall)
    token = signer.sign(CLAIM, lifetime_s=60)
    wall.now_s += 59.9
    signer.verify(token, tenant="acme")
    wall.now_s += 0.2
    with pytest.raises(SessionExpired, match=r"expired 0\.1 s ago"):
        signer.verify(token, tenant="acme")


@pytest.mark.parametrize("tenant", ["", "acm", "acme2", "ACME"])
def test_a_foreign_tenant_is_refused(tenant: str) -> None:
    signer = TokenSigner([NEW])
    with pytest.raises(AccessDenied, match="somebody else"):
        signer.verify(signer.sign(CLAIM, lifetime_s=60), tenant=tenant)


@given(st.data())
def test_no_changed_byte_goes_unnoticed(data: st.DataObject) -> None:
    signer = TokenSigner([NEW])
    token = bytearray(signer.sign(CLAIM, lifetime_s=60))
    token[data.draw(st.integers(0, len(token) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(AccessDenied):
        signer.verify(bytes(token), tenant="acme")


@given(st.integers(0, 400))
def test_a_truncated_token_is_refused(length: int) -> None:
    signer = TokenSigner([NEW])
    token = signer.sign(CLAIM, lifetime_s=60)
    with pytest.raises(AccessDenied):
        signer.verify(token[: min(length, len(token) - 1)], tenant="acme")


@given(st.binary(max_size=MAX_TOKEN_BYTES))
def test_garbage_is_refused_and_never_shown(token: bytes) -> None:
    with pytest.raises(AccessDenied) as caught:
        TokenSigner([NEW]).verify(token)
    assert str(caught.value) == f"the resume token of {len(token)} bytes is not one of this service"


def test_a_huge_token_is_refused_by_its_length() -> None:
    with pytest.raises(LimitExceeded, match="1025 bytes, the limit is 1024"):
        TokenSigner([NEW]).verify(b"x" * (MAX_TOKEN_BYTES + 1))


def test_keys_come_from_a_file_in_hexadecimal_or_base64(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# rotated\n{NEW.hex()}\n\n  {base64.b64encode(OLD).decode()}  \n")
    assert read_keys(path) == (NEW, OLD)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "holds no key"),
        ("# nothing\n", "holds no key"),
        ("ab" * 31, "line 1: the key has 31 bytes, at least 32"),
        (f"{'ab' * 32}\nnot!a!key", "line 2: the key is neither"),
        ("\xff", "not plain text"),
    ],
)
def test_a_bad_key_file_is_a_clear_error_without_the_key(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_keys(path)
    assert "not!a!key" not in str(caught.value)


def test_a_missing_key_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MaskletError, match="cannot be read: No such file"):
        read_keys(tmp_path / "none")
