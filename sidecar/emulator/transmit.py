"""Carries out plans: writes bytes at their pace, and breaks connections where the plan says so."""

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence

from aiohttp import web

from sidecar.emulator.plan import End, Send, Step, Wait

_LINGER_ZERO = struct.pack("ii", 1, 0)


class Pace:
    """When the next tokens are due. `tokens_per_second` 0 means at once."""

    def __init__(self, tokens_per_second: float, *, jitter: Callable[[], float] | None = None) -> None:
        self._seconds_per_token = 1.0 / tokens_per_second if tokens_per_second > 0 else 0.0
        self._jitter = jitter
        self._due = asyncio.get_running_loop().time()

    async def wait_for(self, tokens: int) -> None:
        """Return once the model could have made `tokens` more."""
        if not (tokens and self._seconds_per_token):
            return
        pause = tokens * self._seconds_per_token
        self._due += pause * self._jitter() if self._jitter else pause
        delay = self._due - asyncio.get_running_loop().time()
        if delay > 0:
            await asyncio.sleep(delay)

    def shift(self, seconds: float) -> None:
        """Count a pause from elsewhere: what follows is later by as much."""
        self._due += seconds


async def transmit(
    response: web.StreamResponse,
    request: web.BaseRequest,
    steps: Sequence[Step],
    *,
    pace: Pace,
    on_sent: Callable[[int, int], None],
) -> None:
    """Write the steps to a prepared response; `on_sent(bytes, tokens)` is told of each write."""
    for step in steps:
        if isinstance(step, Send):
            await pace.wait_for(step.tokens)
            if step.data:
                await response.write(step.data)
            on_sent(len(step.data), step.tokens)
        elif isinstance(step, Wait):
            pace.shift(step.seconds)
            await asyncio.sleep(step.seconds)
        else:
            await _end(response, request, step)
            return


async def _end(response: web.StreamResponse, request: web.BaseRequest, end: End) -> None:
    if end.how == "eof":
        await response.write_eof()
    else:
        # What is still in the socket's buffer has to be seen by the client before the connection breaks.
        await asyncio.sleep(0.02)
        break_connection(request, is_reset=end.how == "reset")


def break_connection(request: web.BaseRequest, *, is_reset: bool) -> None:
    """Close the client's connection at once, with RST or with FIN."""
    transport = request.transport
    if transport is None:
        return
    if is_reset:
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        transport.abort()
    else:
        transport.close()
