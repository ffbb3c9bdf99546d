"""From gRPC status back to the classes of `masklet.errors`, by the stable reason in ErrorInfo."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from masklet.errors import (
    AccessDenied,
    AdmissionRefused,
    BackendUnavailable,
    LimitExceeded,
    MaskletError,
    RequestError,
    SessionClosed,
    error_classes,
)

Detail = TypeVar("Detail", bound=Message)
_DETAILS_KEY = "grpc-status-details-bin"
_DOMAIN = "masklet"
_BY_CODE: dict[grpc.StatusCode, type[MaskletError]] = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitExceeded,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
    grpc.StatusCode.INVALID_ARGUMENT: RequestError,
    grpc.StatusCode.CANCELLED: SessionClosed,
}
_ON_THE_WAY = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
_TOO_LARGE = re.compile(r"larger than max|exceeds .*(max|limit)", re.IGNORECASE)  # in the words of several gRPCs
_START_HINT = "start one with `masklet serve`, or give the address of another"


def error_from_rpc(error: grpc.aio.AioRpcError, address: str) -> MaskletError:
    """The error a failed call stands for; one without masklet's ErrorInfo never reached a masklet server's code."""
    pairs = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    packed = dict(pairs).get(_DETAILS_KEY)
    if packed is not None:
        return error_from_status(status_pb2.Status.FromString(_as_bytes(packed)))
    code, details = error.code(), error.details() or "no details"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and not _TOO_LARGE.search(details):  # a proxy that lets no more in
        return AdmissionRefused(f"{address} takes no more calls now: {details}")
    if code is grpc.StatusCode.UNAVAILABLE:
        cause = details.rsplit(": ", 1)[-1]
        return BackendUnavailable(f"no masklet server answers at {address} ({cause}); {_START_HINT}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return BackendUnavailable(f"the server at {address} did not answer in time ({details})")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return MaskletError(f"the server at {address} is not a masklet server, or an older one ({details})")
    return _BY_CODE.get(code, MaskletError)(f"{address}: {code.name}: {details}")


def lost_on_the_way(error: grpc.aio.AioRpcError) -> bool:
    """Whether a call failed without a word from masklet: a connection lost, a proxy's refusal, a server gone."""
    said = dict(cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ()))
    return _DETAILS_KEY not in said and error.code() in _ON_THE_WAY


def error_from_status(status: status_pb2.Status) -> MaskletError:
    """The error a google.rpc.Status stands for; an unknown reason (a newer server) becomes a plain MaskletError."""
    found: type[MaskletError] = MaskletError
    retry_after_s: float | None = None
    field: str | None = None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = _unpacked(detail, error_details_pb2.ErrorInfo())
            found, field = _class_of(info), info.metadata.get("field") or field
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = _unpacked(detail, error_details_pb2.RetryInfo()).retry_delay
            retry_after_s = delay.seconds + delay.nanos / 1e9
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            violations = _unpacked(detail, error_details_pb2.BadRequest()).field_violations
            field = violations[0].field if violations else field
    return found(status.message, retry_after_s=retry_after_s, field=field)


def _class_of(info: error_details_pb2.ErrorInfo) -> type[MaskletError]:
    if info.domain != _DOMAIN:
        return MaskletError
    return error_classes().get(info.reason, MaskletError)


def _unpacked(packed: Any, into: Detail) -> Detail:
    packed.Unpack(into)
    return into


def _as_bytes(value: str | bytes) -> bytes:
    return value.encode("latin-1") if isinstance(value, str) else value
