"""Errors of the client library, and how an error reply of the sidecar becomes one.

All are `SidecarError`s: `code` is a code of the protocol, `is_retryable` says whether the same call may work
later, `details` are the sidecar's facts.
"""

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from sidecar.errors import (
    AccessDenied,
    CallTimeout,
    Conflict,
    ContextOverflow,
    ErrorCode,
    InvalidRequest,
    JobCancelled,
    ModelFailed,
    ModelUnavailable,
    Permanent,
    SidecarError,
    StreamInterrupted,
    Temporary,
    Throttled,
)
from sidecar.errors import NotReady as NotReady
from sidecar.errors import RateLimited as RateLimited
from sidecar.models.api import ErrorBody, ErrorReply
from sidecar.models.plain import UNREADABLE
from sidecar.models.result import ErrorInfo

if TYPE_CHECKING:
    from sidecar.client.results import JobResult

_RETRY_PAUSE_S = 0.2

SERVICE_ERROR_CODE = "Nats-Service-Error-Code"
SERVICE_ERROR = "Nats-Service-Error"


class QueueFull(Temporary):
    """The tenant's queue of this class holds all it may: the request was not stored. Slow down, then retry."""

    default_code = "queue_full"


class UnknownJob(Permanent):
    """No job with this id: never submitted, not read yet from a long queue, or older than the retention."""

    default_code = "not_found"


class UnknownObject(Permanent):
    """No object of this name in the tenant's bucket: never put there, deleted, or older than the retention."""

    default_code = "not_found"


class EventsLost(Permanent):
    """Events of the answer are not stored any more, so its text cannot be told piece by piece.

    The result still holds the whole text.
    """

    default_code = "stream_interrupted"


class TextRestarted(StreamInterrupted):
    """The answer began anew (a crash, or another model took over): what `Job.text` gave so far is void."""


class JobFailed(SidecarError):
    """The job ended without success. `result` tells everything; `is_retryable` whether a new job may do better."""

    def __init__(self, message: str, *, result: "JobResult") -> None:
        error = result.error
        super().__init__(
            message, code=error.code if error else None, details=dict(error.details) if error else None
        )
        self.result = result
        # Told by the sidecar for this one job, hence not by the class.
        self.is_retryable = error.retryable if error else False  # type: ignore[misc]


_Build = Callable[[ErrorBody], SidecarError]


def _plain(kind: type[SidecarError]) -> _Build:
    return lambda body: kind(body.message, code=cast(ErrorCode, body.code), details=body.details)


def _invalid(body: ErrorBody) -> SidecarError:
    error = InvalidRequest(body.message, path=str(body.details.get("path", "")), code=cast(ErrorCode, body.code))
    error.details.update(body.details)
    return error


def _timeout(body: ErrorBody) -> SidecarError:
    error = CallTimeout(body.message, limit=str(body.details.get("limit", "total")))
    error.details.update(body.details)
    return error


def _rate_limited(body: ErrorBody) -> SidecarError:
    given = body.details.get("retry_after_s")
    return RateLimited(
        body.message, details=body.details, retry_after=given if isinstance(given, int | float) else None
    )


def _not_ready(body: ErrorBody) -> SidecarError:
    given = body.details.get("retry_after_s")
    return NotReady(body.message, retry_after=float(given) if isinstance(given, int | float) else 1.0)


_BY_CODE: dict[str, _Build] = {
    "access_denied": _plain(AccessDenied),
    "conflict": _plain(Conflict),
    "context_overflow": _plain(ContextOverflow),
    "invalid_request": _invalid,
    "model_error": _plain(ModelFailed),
    "model_unavailable": _plain(ModelUnavailable),
    "not_found": _plain(UnknownJob),
    "not_ready": _not_ready,
    "queue_full": _plain(QueueFull),
    "quota_exceeded": _plain(Temporary),
    "rate_limited": _rate_limited,
    "stream_interrupted": _plain(StreamInterrupted),
    "throttled": _plain(Throttled),
    "timeout": _timeout,
}
_BY_STATUS: dict[str, _Build] = {
    "409": _plain(Conflict),
    "429": _plain(Throttled),
    "503": _plain(Temporary),
    "504": _timeout,
}


def from_reply(headers: Mapping[str, str], payload: bytes) -> SidecarError:
    """The error that an endpoint's error reply means, by its protocol code, else by its HTTP-like status.

    A reply without the protocol's body (an endpoint that is not ours) tells what its headers say.
    """
    status = headers.get(SERVICE_ERROR_CODE, "")
    try:
        body = msgspec.json.decode(payload, type=ErrorReply).error
    except UNREADABLE:
        body = ErrorBody(code="internal", message=headers.get(SERVICE_ERROR) or f"error {status}")
    build = _BY_CODE.get(body.code) or _BY_STATUS.get(status) or _plain(Permanent)
    return build(body)


def pause_after(error: Temporary) -> float:
    """How long to wait, in seconds, before what failed is tried again: as long as was asked for, and some more."""
    if error.retry_after is None:
        return _RETRY_PAUSE_S
    # Those who were refused together must not ask again together.
    return error.retry_after * (1.0 + random.random() / 2)  # noqa: S311


def from_outcome(state: str, error: ErrorInfo | None, *, job: str, result: "JobResult") -> SidecarError:
    """What a job that did not succeed is raised as: `JobCancelled` for `cancelled`, else `JobFailed`."""
    message = f"the job {job} ended as {state}" if job else f"the job ended as {state}"
    if error is not None:
        message += f": {error.message}"
    if state == "cancelled":
        details: dict[str, Any] = dict(error.details) if error else {}
        return JobCancelled(message, details=details)
    return JobFailed(message, result=result)
