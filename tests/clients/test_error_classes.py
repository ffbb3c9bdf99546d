"""Status to error: every reason comes back as its class, and errors of gRPC itself are told apart."""

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from masklet.errors import (
    AccessDenied,
    AdmissionRefused,
    BackendUnavailable,
    InvalidPrompt,
    LimitExceeded,
    MaskletError,
    error_classes,
)
from masklet_client.status import error_from_rpc, error_from_status


def _status(reason: str, *details: object, domain: str = "masklet") -> status_pb2.Status:
    status = status_pb2.Status(code=3, message="what is wrong")
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain=domain), *details):
        status.details.add().Pack(detail)
    return status


def _rpc_error(code: grpc.StatusCode, *trailing: tuple[str, bytes]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details="said grpc", debug_error_string=None
    )


@pytest.mark.parametrize("reason", sorted(error_classes()))
def test_every_reason_comes_back_as_its_class(reason: str) -> None:
    error = error_from_status(_status(reason))
    assert type(error) is error_classes()[reason] and str(error) == "what is wrong"


def test_retry_delay_and_field_come_back() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    assert error_from_status(_status("ADMISSION_REFUSED", retry)).retry_after_s == 1.5
    bad = error_details_pb2.BadRequest(field_violations=[{"field": "prompt.box", "description": "inside out"}])
    assert error_from_status(_status("PROMPT_INVALID", bad)).field == "prompt.box"


def test_what_the_server_packs_is_what_comes_out() -> None:
    from masklet.server.status import to_status

    for sent in (AdmissionRefused("full", retry_after_s=2.0), InvalidPrompt("no", field="prompt.points")):
        error = error_from_status(to_status(sent))
        assert (type(error), str(error)) == (type(sent), str(sent))
        assert (error.retry_after_s, error.field) == (sent.retry_after_s, sent.field)


def test_unknown_reason_and_foreign_domain_are_plain_errors() -> None:
    assert type(error_from_status(_status("FROM_THE_FUTURE"))) is MaskletError
    assert type(error_from_status(_status("PROMPT_INVALID", domain="example.com"))) is MaskletError


def test_details_in_the_trailer_win_over_the_code() -> None:
    packed = _status("SESSION_EXPIRED").SerializeToString()
    error = error_from_rpc(_rpc_error(grpc.StatusCode.NOT_FOUND, ("grpc-status-details-bin", packed)), "here:1")
    assert type(error) is error_classes()["SESSION_EXPIRED"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, BackendUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, BackendUnavailable),
        (grpc.StatusCode.UNAUTHENTICATED, AccessDenied),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, AdmissionRefused),
        (grpc.StatusCode.UNIMPLEMENTED, MaskletError),
        (grpc.StatusCode.INTERNAL, MaskletError),
    ],
)
def test_status_without_details_goes_by_its_code_and_names_the_address(
    code: grpc.StatusCode, kind: type[MaskletError]
) -> None:
    error = error_from_rpc(_rpc_error(code), "here:1")
    assert type(error) is kind and "here:1" in str(error) and "said grpc" in str(error)


@pytest.mark.parametrize(
    "details",
    [
        "CLIENT: Received message larger than max (9 vs. 8)",
        "gRPC message exceeds maximum size 4194304: 4200000",
        "Received message exceeds the maximum configured message size.",
        "received metadata size exceeds hard limit (9000 vs. 8192)",
    ],
)
def test_a_message_too_large_for_the_transport_will_not_pass_later(details: str) -> None:
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), grpc.aio.Metadata(), details, None
    )
    assert type(error_from_rpc(error, "here:1")) is LimitExceeded
