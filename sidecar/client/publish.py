"""Publishing a request until JetStream has acknowledged it, under one message id."""

import asyncio
from collections.abc import Callable

import msgspec

from sidecar.client.bus import Bus
from sidecar.client.errors import QueueFull
from sidecar.errors import BusRefused, BusUnavailable, Permanent, SidecarError, Temporary
from sidecar.models.base import Open
from sidecar.models.plain import UNREADABLE

_TRY_TIMEOUT_S = 5.0
_FIRST_PAUSE_S = 0.1
_LAST_PAUSE_S = 2.0
_STORE_FAILED = 10077
"""The server's code when a stream's limits refuse a message: here the queue cap of one tenant and class."""
_TOO_LARGE = 10054


class _AckError(Open, frozen=True, kw_only=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class Ack(Open, frozen=True, kw_only=True):
    """JetStream's acknowledgement: the request's sequence, and whether it had been stored before."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _AckError | None = None


_DECODER = msgspec.json.Decoder(Ack)


async def publish_request(
    bus: Bus, subject: str, payload: bytes, *, headers: dict[str, str], timeout_s: float
) -> Ack:
    """Publish and wait for the acknowledgement; tries again after silence, which the message id makes safe.

    Raises QueueFull, Permanent, BusRefused at once, and BusUnavailable when `timeout_s` is over.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            reply = await bus.request(
                subject,
                payload,
                headers=headers,
                timeout_s=max(min(_TRY_TIMEOUT_S, deadline - loop.time()), 0.01),
            )
            return read_ack(reply.data)
        except QueueFull:
            raise
        except Temporary:
            if loop.time() + pause_s >= deadline:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LAST_PAUSE_S)


async def publish_anew(bus: Bus, subject: str, payload: bytes, *, headers: dict[str, str], before: Ack) -> Ack:
    """Publish a request that the stream took for a repetition, of a job that nobody knows. `headers` are without
    the message id, which the server remembers for minutes, also of what is long gone.

    Where the first one still waits to be read, this one is dropped when it is: one id is one job. Returns the
    acknowledgement; `before`, that of the repetition, where the stream does not take it.
    """
    try:
        reply = await bus.request(subject, payload, headers=headers, timeout_s=_TRY_TIMEOUT_S)
        return read_ack(reply.data)
    except Temporary:
        return before


def read_ack(payload: bytes) -> Ack:
    """The acknowledgement in a reply. Raises the error that it carries, BusRefused for a reply that is none."""
    try:
        ack = _DECODER.decode(payload)
    except UNREADABLE as e:
        raise BusRefused(f"the reply to the publish is no JetStream acknowledgement: {payload[:100]!r}") from e
    if ack.error is not None:
        raise _refusal(ack.error)
    if not ack.stream:
        raise BusRefused("the reply to the publish is no JetStream acknowledgement: it names no stream")
    return ack


_BY_ERR_CODE: dict[int, Callable[[str], SidecarError]] = {
    _STORE_FAILED: lambda text: QueueFull(f"the queue takes no more requests now: {text}"),
    _TOO_LARGE: lambda text: Permanent(f"the request is too large: {text}", code="payload_too_large"),
}


def _refusal(error: _AckError) -> SidecarError:
    build = _BY_ERR_CODE.get(error.err_code)
    if build is not None:
        return build(error.description)
    if error.code >= 500:
        return BusUnavailable(f"JetStream cannot store the request now: {error.description}")
    return BusRefused(f"JetStream refused the request: {error.description} ({error.err_code})")
