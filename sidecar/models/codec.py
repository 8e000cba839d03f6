"""Bytes to messages and back. Whatever bytes come in, the only error raised is `InvalidRequest`.

Where a JSON object repeats a key, the last one counts (RFC 8259 leaves it open; telling would cost a second
parse). What went wrong is worked out by `sidecar.models.decode_errors`, only after a decoder refused.
"""

import re
from collections.abc import Callable
from itertools import islice
from typing import Any, TypeVar

import msgspec

from sidecar.errors import InvalidRequest
from sidecar.models.base import Timestamp
from sidecar.models.event import DATA_OF, Event, EventType
from sidecar.models.job import JobState
from sidecar.models.plain import UNREADABLE
from sidecar.models.request import JobRequest

T = TypeVar("T")

# Bytes of a payload that may hold any numbers: a few milliseconds' worth of the dearest.
MOST_UNSEEN = 8_192
MOST_DEAR_NUMBERS = 1_000
DEAR_NUMBERS = f"more than {MOST_DEAR_NUMBERS} numbers with exponents of 200 and more"
_DEAR_NUMBER = re.compile(rb"[eE][+-]?[23][0-9]{2}")

_JSON_SPACE = b" \t\r\n"


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """An event whose data waits for its type to be known."""

    job: str
    tenant: str
    type: EventType
    attempt: int
    n: int
    time: Timestamp
    metadata: dict[str, Any] = {}
    data: msgspec.Raw


_decoders: dict[Any, Callable[[bytes], Any]] = {}
_decode_request = msgspec.json.Decoder(JobRequest).decode
_encoder = msgspec.json.Encoder()


def encode(message: Any) -> bytes:
    """The message as UTF-8 JSON. Numbers that JSON has no word for (NaN, infinity) become null.

    Half surrogate pairs, which models sometimes stream and UTF-8 cannot carry, become U+FFFD.
    """
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError:
        return _encoder.encode(without_surrogates(msgspec.to_builtins(message)))


def decode_request(payload: bytes) -> JobRequest:
    """A job request. Raises InvalidRequest with the path of the field and the remedy."""
    if len(payload) > MOST_UNSEEN:
        _refuse_dear_numbers(payload, "")
    try:
        return _decode_request(payload or b"{}")
    except UNREADABLE as e:
        raise _explain(e, payload or b"{}", JobRequest) from e


def decode_plain_or_request(payload: bytes) -> JobRequest:
    """A job request, or plain UTF-8 text (whatever does not begin with `{`) as one user message.

    Raises InvalidRequest; also for a payload without any text.
    """
    if payload.lstrip(_JSON_SPACE)[:1] == b"{":
        return decode_request(payload)
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as e:
        raise _explain(e, payload, JobRequest) from e
    if not text.strip():
        raise InvalidRequest("the request is empty: send a question as plain text, or a JSON request")
    return decode(_encoder.encode({"messages": [{"role": "user", "content": text}]}), JobRequest)


def decode_event(payload: bytes) -> Event:
    """An event with its data in the type that the envelope names. Fields not known here are ignored."""
    envelope = decode(payload, _Envelope)
    data = decode(bytes(envelope.data), DATA_OF[envelope.type], path="data")
    return Event(
        job=envelope.job,
        tenant=envelope.tenant,
        type=envelope.type,
        attempt=envelope.attempt,
        n=envelope.n,
        time=envelope.time,
        metadata=envelope.metadata,
        data=data,
    )


def decode_state(payload: bytes) -> JobState:
    """A job's state document."""
    return decode(payload, JobState)


def state_or_none(payload: bytes) -> JobState | None:
    """A job's state document; None for what is none, where others beside it matter more."""
    try:
        return decode_state(payload)
    except InvalidRequest:
        return None


def decode(payload: bytes, kind: type[T], *, path: str = "") -> T:
    """A message of type `kind`. An empty payload stands for `{}`: all fields at their defaults.

    `path` is where the payload lies within a greater message. Raises InvalidRequest.
    """
    if len(payload) > MOST_UNSEEN:
        _refuse_dear_numbers(payload, path)
    try:
        message: T = (_decoders.get(kind) or _decoder(kind))(payload or b"{}")
    except UNREADABLE as e:
        raise _explain(e, payload or b"{}", kind, path) from e
    return message


def _refuse_dear_numbers(payload: bytes, path: str) -> None:
    if has_dear_numbers(payload):
        raise InvalidRequest(f"it holds {DEAR_NUMBERS}: send them as texts", path=path)


def has_dear_numbers(payload: bytes) -> bool:
    """Whether so many numbers are near the ends of what a double can hold that decoding would take long.

    Each of them takes five hundred times as long as any other.
    """
    return sum(1 for _ in islice(_DEAR_NUMBER.finditer(payload), MOST_DEAR_NUMBERS + 1)) > MOST_DEAR_NUMBERS


def _decoder(kind: Any) -> Callable[[bytes], Any]:
    decoder = _decoders[kind] = msgspec.json.Decoder(kind).decode
    return decoder


def _explain(error: Exception, payload: bytes, kind: Any, path: str = "") -> InvalidRequest:
    from sidecar.models import decode_errors

    return decode_errors.explain(error, payload, kind, prefix=path)


def without_surrogates(value: Any) -> Any:
    """Plain values in which half surrogate pairs are U+FFFD, and whole ones the character they stand for."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {without_surrogates(k): without_surrogates(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_surrogates(v) for v in value]
    return value
