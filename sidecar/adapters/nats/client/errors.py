"""Errors of the bus, translated: JetStream's error codes and nats-py's exceptions into `sidecar.errors`.

Two tables say everything. What a code means to the caller decides the class: somebody else was first
(`Conflict`), try again (`BusUnavailable`), or trying again does not help (`BusRefused`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from sidecar.errors import BusRefused, BusUnavailable, Conflict, ErrorCode, SidecarError


class NotFound(BusRefused):
    """JetStream knows no such stream, message or consumer (code 404)."""


class ApiError(msgspec.Struct, frozen=True):
    """The `error` member of a JetStream answer. `err_code` is the server's own number."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class _Meaning(msgspec.Struct, frozen=True):
    kind: type[SidecarError]
    code: ErrorCode | None = None


_STORE_FAILED = 10077
FULL_RETRY_S = 1.0

# Numbers from nats-server's errors.json; tried against 2.15 where tests name them.
_BY_ERR_CODE: dict[int, _Meaning] = {
    10071: _Meaning(Conflict),  # wrong last sequence
    10070: _Meaning(Conflict),  # wrong last message id
    10164: _Meaning(BusUnavailable),  # R3: another message that checks the same fence is in flight
    10158: _Meaning(BusUnavailable),  # duplicate message id is in process
    _STORE_FAILED: _Meaning(BusRefused, "queue_full"),  # maximum messages exceeded, total or a subject's
    10054: _Meaning(BusRefused, "payload_too_large"),  # message size exceeds the stream's maximum
    10097: _Meaning(BusRefused, "payload_too_large"),  # header size exceeds maximum allowed
    10023: _Meaning(BusUnavailable),  # insufficient resources
    10028: _Meaning(BusUnavailable),  # memory resources exceeded
    10047: _Meaning(BusUnavailable),  # storage resources exceeded
    10008: _Meaning(BusUnavailable),  # JetStream system temporarily unavailable
    10009: _Meaning(BusUnavailable),  # cluster: no leader elected
    10118: _Meaning(BusUnavailable),  # stream is offline
    10194: _Meaning(BusUnavailable),  # stream is offline, with the reason
    10167: _Meaning(BusUnavailable),  # too many requests
    10005: _Meaning(BusUnavailable),  # no suitable peers for placement: fewer servers up than replicas
    10039: _Meaning(BusRefused),  # JetStream is not enabled for the account
    10076: _Meaning(BusRefused),  # JetStream is not enabled
    10052: _Meaning(BusRefused),  # a stream's update is not possible
    10074: _Meaning(BusRefused),  # more than one replica needs a cluster
    10122: _Meaning(BusRefused, "invalid_request"),  # expected last sequence header refused
    10166: _Meaning(BusRefused, "invalid_request"),  # per-message TTL is disabled
    10165: _Meaning(BusRefused, "invalid_request"),  # invalid per-message TTL
    10111: _Meaning(BusRefused, "invalid_request"),  # rollup not permitted
    10188: _Meaning(BusRefused, "invalid_request"),  # message schedules are disabled
}

# By the name of nats-py's class, so that this table does not load the library.
_BY_EXCEPTION: dict[str, _Meaning] = {
    "TimeoutError": _Meaning(BusUnavailable),
    "FlushTimeoutError": _Meaning(BusUnavailable),
    "DrainTimeoutError": _Meaning(BusUnavailable),
    "NoRespondersError": _Meaning(BusUnavailable),
    "NoServersError": _Meaning(BusUnavailable),
    "StaleConnectionError": _Meaning(BusUnavailable),
    "UnexpectedEOF": _Meaning(BusUnavailable),
    "OutboundBufferLimitError": _Meaning(BusUnavailable),
    "ConnectionClosedError": _Meaning(BusUnavailable),
    "ConnectionDrainingError": _Meaning(BusUnavailable),
    "ConnectionReconnectingError": _Meaning(BusUnavailable),
    "ProtocolError": _Meaning(BusUnavailable),
    "SlowConsumerError": _Meaning(BusUnavailable),
    "ServiceUnavailableError": _Meaning(BusUnavailable),
    "NoStreamResponseError": _Meaning(BusUnavailable),
    "OSError": _Meaning(BusUnavailable),
    "MaxPayloadError": _Meaning(BusRefused, "payload_too_large"),
    "KeyWrongLastSequenceError": _Meaning(Conflict),
    "NotFoundError": _Meaning(NotFound),
    "Error": _Meaning(BusRefused),
}


def api_error(error: ApiError, what: str) -> SidecarError:
    """The error to raise for JetStream's answer to `what`; `details` carry the server's numbers."""
    meaning = _BY_ERR_CODE.get(error.err_code) or _by_code(error.code)
    return meaning.kind(
        f"NATS refused {what}: {error.description or 'without a reason'}",
        code=meaning.code,
        details={"code": error.code, "err_code": error.err_code},
    )


def store_error(error: ApiError, subject: str) -> SidecarError:
    """The error to raise when a message was not stored.

    A stream that is full is a refusal for whoever asks for something new. What jobs say of themselves (documents
    and events) waits until there is room again: their work is done, and paid for.
    """
    is_own = subject.startswith("$KV.") or ".v1.log." in subject
    if error.err_code == _STORE_FAILED and is_own and "bytes" in error.description:
        return BusUnavailable(
            f"the stream of {subject} is full: {error.description}",
            retry_after=FULL_RETRY_S,
            details={"code": error.code, "err_code": error.err_code},
        )
    return api_error(error, f"to store {subject}")


def _by_code(code: int) -> _Meaning:
    if code == 404:
        return _Meaning(NotFound)
    return _Meaning(BusUnavailable if code in {408, 429, 500, 503} else BusRefused)


def bus_error(error: Exception, what: str) -> SidecarError:
    """The error to raise for an exception of nats-py or of the socket under it, met while doing `what`."""
    err_code = getattr(error, "err_code", None)
    if isinstance(err_code, int) and err_code:
        code = getattr(error, "code", None)
        return api_error(ApiError(code or 0, err_code, str(getattr(error, "description", ""))), what)
    for cls in type(error).__mro__:
        meaning = _BY_EXCEPTION.get(cls.__name__)
        if meaning is not None:
            return meaning.kind(f"NATS failed at {what}: {_text(error)}", code=meaning.code)
    return BusRefused(f"NATS failed at {what}: {_text(error)}")


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


@contextmanager
def mapped(what: str) -> Iterator[None]:
    """Let no exception of nats-py out of the block: raise its translation, `from` it.

    Errors of `sidecar.errors` pass through, and so does whatever belongs neither to nats-py nor to the socket.
    """
    try:
        yield
    except SidecarError:
        raise
    except Exception as e:
        if not _is_foreign(e):
            raise
        raise bus_error(e, what) from e


def _is_foreign(error: Exception) -> bool:
    return isinstance(error, OSError | TimeoutError) or type(error).__module__.partition(".")[0] == "nats"
