"""The error tree. Only the server's interceptor maps it to gRPC status; the client maps it back to these classes.

MaskletError
 +- ConfigError                a configuration key, value or file                 CONFIG_INVALID
 +- WeightsError               a checkpoint: missing, truncated, of another kind  WEIGHTS_INVALID
 +- DatasetError               annotated video on disk: missing, of another kind  DATASET_INVALID
 +- RequestError               the client's fault
 |   +- ProtocolViolation      e.g. first message not `open`                      PROTOCOL_VIOLATION
 |   +- InvalidOpen            `open` asks for something that is not offered      OPEN_INVALID
 |   +- SequenceGap            request seq skipped                                SEQUENCE_GAP
 |   +- InvalidFrame           payload cannot be decoded, wrong size              FRAME_INVALID
 |   +- InvalidPrompt          click outside the frame, box inside out, ...       PROMPT_INVALID
 |   +- UnknownObject          no such object id                                  OBJECT_UNKNOWN
 |   +- UnknownFrame           not in the history window                          FRAME_UNKNOWN
 |   +- LimitExceeded          more than the server allows                        LIMIT_EXCEEDED
 |   +- IdleTimeout            nothing sent for too long                          IDLE_TIMEOUT
 +- SessionError
 |   +- SessionNotFound        no such session                                    SESSION_NOT_FOUND
 |   +- SessionExpired         detached longer than its time to live              SESSION_EXPIRED
 |   +- SessionSuperseded      a newer stream owns the session                    SESSION_SUPERSEDED
 |   +- SessionStateLost       the memory bank is gone                            SESSION_STATE_LOST
 |   +- SessionClosed          ended by an operator                               SESSION_CLOSED
 +- AccessDenied               token missing, forged or of another tenant         ACCESS_DENIED
 +- AdmissionRefused           no room; try later                                 ADMISSION_REFUSED
 |   +- OverCapacity           too many objects times frames per second           OVER_CAPACITY
 +- ServerDraining             going away; try another                            SERVER_DRAINING
 +- BackendError               the backend failed on this request                 BACKEND_FAILED
     +- BackendUnavailable     the backend cannot be reached                      BACKEND_UNAVAILABLE
     +- BackendUncertain       whether it did what was asked is not known         BACKEND_FAILED
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Fault(StrEnum):
    """Whose mistake an error is."""

    CLIENT = "client"
    SERVER = "server"
    OPERATOR = "operator"


class MaskletError(Exception):
    """Any error this package raises on purpose. `reason` is stable, `str()` is for people and names value and limit."""

    reason: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False
    fault: ClassVar[Fault] = Fault.SERVER

    def __init__(self, message: str, *, retry_after_s: float | None = None, field: str | None = None) -> None:
        """`field`: the request field at fault, dotted; `retry_after_s`: when trying again makes sense."""
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.field = field


class ConfigError(MaskletError):
    """A configuration key, value or file is wrong."""

    reason = "CONFIG_INVALID"
    fault = Fault.OPERATOR


class WeightsError(MaskletError):
    """A checkpoint is missing, truncated, or of another kind or variant."""

    reason = "WEIGHTS_INVALID"
    fault = Fault.OPERATOR


class DatasetError(MaskletError):
    """A folder of annotated video is missing, empty, of an unknown layout, or does not agree with itself."""

    reason = "DATASET_INVALID"
    fault = Fault.OPERATOR


class RequestError(MaskletError):
    """The client's request cannot be carried out as sent."""

    reason = "REQUEST_INVALID"
    fault = Fault.CLIENT


class ProtocolViolation(RequestError):
    """A message that is not allowed now, for example a first message that is not `open`."""

    reason = "PROTOCOL_VIOLATION"


class InvalidOpen(RequestError):
    """`open` asks for something that is not offered."""

    reason = "OPEN_INVALID"


class SequenceGap(RequestError):
    """A request `seq` was skipped."""

    reason = "SEQUENCE_GAP"


class InvalidFrame(RequestError):
    """A frame's payload cannot be decoded or has another size than declared."""

    reason = "FRAME_INVALID"


class InvalidPrompt(RequestError):
    """A prompt that makes no sense: a click outside the frame, a box inside out, a mask of the wrong size."""

    reason = "PROMPT_INVALID"


class UnknownObject(RequestError):
    """No object has this id."""

    reason = "OBJECT_UNKNOWN"


class UnknownFrame(RequestError):
    """The frame was never answered, or has left the history window."""

    reason = "FRAME_UNKNOWN"


class LimitExceeded(RequestError):
    """More than the server allows."""

    reason = "LIMIT_EXCEEDED"


class IdleTimeout(RequestError):
    """Nothing was sent for too long."""

    reason = "IDLE_TIMEOUT"
    retryable = True


class SessionError(MaskletError):
    """The session cannot go on."""

    reason = "SESSION_ERROR"


class SessionNotFound(SessionError):
    """No such session."""

    reason = "SESSION_NOT_FOUND"
    fault = Fault.CLIENT


class SessionExpired(SessionError):
    """The session was detached for longer than its time to live."""

    reason = "SESSION_EXPIRED"
    fault = Fault.CLIENT


class SessionSuperseded(SessionError):
    """A newer stream owns the session."""

    reason = "SESSION_SUPERSEDED"
    fault = Fault.CLIENT


class SessionStateLost(SessionError):
    """The memory bank of the session is gone."""

    reason = "SESSION_STATE_LOST"
    retryable = True


class SessionClosed(SessionError):
    """The session was ended by an operator."""

    reason = "SESSION_CLOSED"


class AccessDenied(MaskletError):
    """A credential or token is missing, forged, or belongs to another tenant."""

    reason = "ACCESS_DENIED"
    fault = Fault.CLIENT


class AdmissionRefused(MaskletError):
    """There is no room now; try again later."""

    reason = "ADMISSION_REFUSED"
    retryable = True


class OverCapacity(AdmissionRefused):
    """What is asked for would take more objects times frames per second than is left beside those admitted before."""

    reason = "OVER_CAPACITY"


class ServerDraining(MaskletError):
    """The server is going away; try another."""

    reason = "SERVER_DRAINING"
    retryable = True


class BackendError(MaskletError):
    """The backend failed on this request."""

    reason = "BACKEND_FAILED"


class BackendUnavailable(BackendError):
    """The backend cannot be reached."""

    reason = "BACKEND_UNAVAILABLE"
    retryable = True


class BackendUncertain(BackendError):
    """The backend's answer was lost or makes no sense: what was asked may have been done, or not.

    Only `routing` has to tell it from its parent, whose reason it bears.
    """


def error_classes() -> dict[str, type[MaskletError]]:
    """The classes of the tree by their `reason`, for mapping a status back to its class; a parent before its child."""
    found: dict[str, type[MaskletError]] = {}
    pending: list[type[MaskletError]] = [MaskletError]
    while pending:
        cls = pending.pop()
        found.setdefault(cls.reason, cls)
        pending.extend(cls.__subclasses__())
    return found


def install_hint(extra: str) -> str:
    """How to get one of the optional parts of the package, for the end of a message."""
    return f"install masklet's extra {extra!r} (in its source tree: pip install -e '.[{extra}]')"
