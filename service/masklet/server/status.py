"""The only place where an error becomes a gRPC status: google.rpc.Status with exactly one ErrorInfo (AIP-193)."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from masklet import errors
from masklet.errors import MaskletError

DOMAIN = "masklet"
_MAX_MESSAGE_BYTES = 1000  # a status travels in HTTP/2 headers, 8 KiB by default: up to 3 times so long, and twice more
_LOG = logging.getLogger(__name__)

# The class nearest in the tree counts; what is not listed, not even by a parent, is ours alone: see `public_error`.
_CODES: dict[type[MaskletError], grpc.StatusCode] = {
    errors.RequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.SequenceGap: grpc.StatusCode.OUT_OF_RANGE,
    errors.UnknownObject: grpc.StatusCode.NOT_FOUND,
    errors.UnknownFrame: grpc.StatusCode.NOT_FOUND,
    errors.IdleTimeout: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.SessionError: grpc.StatusCode.ABORTED,
    errors.SessionNotFound: grpc.StatusCode.NOT_FOUND,
    errors.SessionExpired: grpc.StatusCode.NOT_FOUND,
    errors.AccessDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.AdmissionRefused: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ServerDraining: grpc.StatusCode.UNAVAILABLE,
    errors.BackendError: grpc.StatusCode.INTERNAL,
    errors.BackendUnavailable: grpc.StatusCode.UNAVAILABLE,
}


def status_code(error: MaskletError) -> grpc.StatusCode:
    """The gRPC code of an error."""
    return _listed_code(error) or grpc.StatusCode.INTERNAL


def public_error(error: BaseException) -> MaskletError:
    """What a client may be told: the error itself, or, where that would show internals, the id of a log line."""
    if isinstance(error, MaskletError) and _listed_code(error) is not None:
        return error
    error_id = uuid.uuid4().hex[:12]
    _LOG.error("internal error error_id=%s", error_id, exc_info=error)
    return MaskletError(f"internal error; the server logged it with error_id={error_id}")


def to_status(error: MaskletError) -> status_pb2.Status:
    """The error as google.rpc.Status: code, message, one ErrorInfo, and what else its kind calls for."""
    status = status_pb2.Status(code=status_code(error).value[0], message=_message(error))
    for detail in _details(error):
        status.details.add().Pack(detail)
    return status


def _listed_code(error: BaseException) -> grpc.StatusCode | None:
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), None)


def _message(error: MaskletError) -> str:
    text = str(error).encode(errors="replace")
    if len(text) > _MAX_MESSAGE_BYTES:
        text = text[: _MAX_MESSAGE_BYTES - 3] + b"..."
    return text.decode(errors="ignore")


def _details(error: MaskletError) -> Iterator[Message]:
    metadata = {"retry": "true" if error.retryable else "false"}
    if error.field:
        metadata["field"] = error.field
    yield error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    if error.field and status_code(error) is grpc.StatusCode.INVALID_ARGUMENT:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=_message(error))
        yield error_details_pb2.BadRequest(field_violations=[violation])
    if isinstance(error, errors.AdmissionRefused):
        quota = error_details_pb2.QuotaFailure.Violation(subject=error.field or "server", description=_message(error))
        yield error_details_pb2.QuotaFailure(violations=[quota])
    if error.retryable and error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        yield error_details_pb2.RetryInfo(retry_delay=delay)
