from __future__ import annotations

import logging

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from masklet import errors
from masklet.errors import MaskletError, error_classes
from masklet.server.status import public_error, status_code, to_status

EXPECTED = {
    "INTERNAL": "INTERNAL",
    "CONFIG_INVALID": "INTERNAL",
    "WEIGHTS_INVALID": "INTERNAL",
    "DATASET_INVALID": "INTERNAL",
    "REQUEST_INVALID": "INVALID_ARGUMENT",
    "PROTOCOL_VIOLATION": "INVALID_ARGUMENT",
    "OPEN_INVALID": "INVALID_ARGUMENT",
    "SEQUENCE_GAP": "OUT_OF_RANGE",
    "FRAME_INVALID": "INVALID_ARGUMENT",
    "PROMPT_INVALID": "INVALID_ARGUMENT",
    "OBJECT_UNKNOWN": "NOT_FOUND",
    "FRAME_UNKNOWN": "NOT_FOUND",
    "LIMIT_EXCEEDED": "INVALID_ARGUMENT",
    "IDLE_TIMEOUT": "DEADLINE_EXCEEDED",
    "SESSION_ERROR": "ABORTED",
    "SESSION_NOT_FOUND": "NOT_FOUND",
    "SESSION_EXPIRED": "NOT_FOUND",
    "SESSION_SUPERSEDED": "ABORTED",
    "SESSION_STATE_LOST": "ABORTED",
    "SESSION_CLOSED": "ABORTED",
    "ACCESS_DENIED": "PERMISSION_DENIED",
    "ADMISSION_REFUSED": "RESOURCE_EXHAUSTED",
    "OVER_CAPACITY": "RESOURCE_EXHAUSTED",
    "SERVER_DRAINING": "UNAVAILABLE",
    "BACKEND_FAILED": "INTERNAL",
    "BACKEND_UNAVAILABLE": "UNAVAILABLE",
}


def unpack(status: status_pb2.Status) -> dict[str, Message]:
    """Details by message name; fails if one comes twice."""
    kinds = ("ErrorInfo", "BadRequest", "RetryInfo", "QuotaFailure")
    found: dict[str, Message] = {}
    for detail in status.details:
        name = detail.TypeName().rpartition(".")[2]
        assert name in kinds
        assert name not in found
        found[name] = getattr(error_details_pb2, name)()
        detail.Unpack(found[name])
    return found


def test_the_whole_tree_has_the_codes_of_the_protocol() -> None:
    codes = {reason: status_code(cls("x")).name for reason, cls in error_classes().items()}
    assert codes == EXPECTED


@pytest.mark.parametrize("kind", error_classes().values(), ids=lambda kind: kind.reason)
def test_every_error_has_one_error_info_and_the_details_of_its_kind(kind: type[MaskletError]) -> None:
    status = to_status(kind("too much of it", field="open.width", retry_after_s=1.5))
    details = unpack(status)
    info = details.pop("ErrorInfo")
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, info.metadata["field"]) == (kind.reason, "masklet", "open.width")
    assert info.metadata["retry"] == ("true" if kind.retryable else "false")
    wanted = {"BadRequest"} if status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0] else set()
    wanted |= {"RetryInfo"} if kind.retryable else set()
    wanted |= {"QuotaFailure"} if issubclass(kind, errors.AdmissionRefused) else set()
    assert set(details) == wanted


def test_details_carry_the_values() -> None:
    details = unpack(to_status(errors.AdmissionRefused("64 sessions are open", retry_after_s=1.5)))
    retry, quota = details["RetryInfo"], details["QuotaFailure"]
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert isinstance(quota, error_details_pb2.QuotaFailure)
    assert retry.retry_delay.ToTimedelta().total_seconds() == 1.5
    assert quota.violations[0].description == "64 sessions are open"
    bad = unpack(to_status(errors.InvalidOpen("width is 0", field="open.width")))["BadRequest"]
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert (bad.field_violations[0].field, bad.field_violations[0].description) == ("open.width", "width is 0")


def test_without_field_or_delay_there_is_only_error_info() -> None:
    assert set(unpack(to_status(errors.InvalidOpen("x")))) == {"ErrorInfo"}
    assert set(unpack(to_status(errors.ServerDraining("x")))) == {"ErrorInfo"}


def test_long_messages_are_cut_so_that_headers_carry_them() -> None:
    status = to_status(errors.InvalidOpen("y" * 100_000, field="x"))
    assert status.message == "y" * 997 + "..."
    assert len(status.SerializeToString()) < 4096
    assert len(to_status(errors.InvalidOpen("😀" * 999)).message.encode()) <= 1000


def test_text_that_is_no_unicode_is_replaced() -> None:
    assert to_status(errors.InvalidOpen("a\udc80b")).message == "a?b"


@pytest.mark.parametrize("error", [ValueError("secret"), errors.ConfigError("secret"), MaskletError("secret")])
def test_internals_are_logged_and_not_told(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        shown = public_error(error)
    error_id = str(shown).rpartition("=")[2]
    assert "secret" not in str(shown)
    assert shown.reason == "INTERNAL"
    assert error_id in caplog.text
    assert "secret" in caplog.text


def test_errors_for_clients_are_told_as_they_are() -> None:
    error = errors.BackendError("out of memory on frame 3")
    assert public_error(error) is error
