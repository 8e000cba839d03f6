"""Calls of tools over the bus: request, heartbeats, reply, and word to the provider when nobody waits any more."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.tool_outcome import (
    MOST_REPLIES_PER_S,
    MOST_REPLY_BYTES,
    flooded,
    is_heartbeat,
    left_s,
    lost,
    nobody,
    not_sent,
    output,
    overdue,
    silent,
)
from sidecar.errors import BusRefused, BusUnavailable, Permanent, SidecarError, Temporary
from sidecar.models.subjects import HEADER_TIME_LEFT, call_cancelled
from sidecar.ports.tools import ToolCall
from sidecar.runtime.redaction import told

log = logging.getLogger(__name__)

MOST_SERVICES = 2000
MOST_SERVICES_BYTES = 32 * 1024 * 1024

_INFO = "$SRV.INFO"
_NOBODY = 503


@dataclass(slots=True, eq=False)
class NatsToolBus:
    """`ToolBus` over core NATS. `now` is the clock by which deadlines are meant, in seconds since 1970."""

    mux: Mux
    most_reply_bytes: int = MOST_REPLY_BYTES
    now: Callable[[], float] = time.time

    async def call(self, call: ToolCall) -> bytes:
        if not self.mux.connection.is_connected:
            raise not_sent(BusUnavailable("not connected to NATS"))
        try:
            now = self.now()
            async with asyncio.timeout(left_s(call, now)):
                reply = await self._reply(call, now)
        except BusUnavailable as e:
            raise self._unanswered(call, e) from e
        except BusRefused as e:
            if e.code == "rate_limited":
                self._tell_cancelled(call)
                raise flooded(call) from e
            raise Permanent(f"the call of the tool cannot be sent: {told(e)}", code="tool_failed") from e
        except TimeoutError as e:
            self._tell_cancelled(call)
            raise overdue(call) from e
        except asyncio.CancelledError:
            # The job was stopped or moves on: its provider need not work for nobody.
            self._tell_cancelled(call)
            raise
        return output(reply.payload, reply.headers, most_bytes=self.most_reply_bytes)

    async def services(self, *, wait_s: float) -> Sequence[bytes]:
        found: list[bytes] = []
        size = 0
        replies = self.mux.request_many(_INFO, idle_timeout_s=wait_s, most_per_s=2 * MOST_SERVICES)
        try:
            async with asyncio.timeout(wait_s), aclosing(replies):
                async for reply in replies:
                    size += len(reply.payload)
                    if len(found) == MOST_SERVICES or size > MOST_SERVICES_BYTES:
                        log.warning("too many services on the bus: the rest is not looked at")
                        break
                    found.append(reply.payload)
        except TimeoutError:
            return found
        except BusRefused as e:
            log.warning("looking for micro services: %s", e)
        except BusUnavailable:
            if not self.mux.connection.is_connected:
                raise
        return found

    async def _reply(self, call: ToolCall, now: float) -> BusMessage:
        """The first reply that is no heartbeat."""
        headers = call.headers
        if call.deadline is not None:
            # Also as a duration: whatever the provider's clock says, it then knows how long it has.
            headers = {**headers, HEADER_TIME_LEFT: f"{max(0.0, call.deadline - now):.3f}"}
        replies = self.mux.request_many(
            call.subject,
            call.payload,
            headers=headers,
            idle_timeout_s=call.timeout_s,
            most_per_s=MOST_REPLIES_PER_S,
        )
        async with aclosing(replies):
            async for reply in replies:
                if not is_heartbeat(reply.headers):
                    return reply
                if reply.payload and call.on_progress is not None:
                    call.on_progress(reply.payload)
        raise BusUnavailable(f"{call.subject} was not answered")

    def _unanswered(self, call: ToolCall, error: BusUnavailable) -> Temporary:
        if error.details.get("status") == _NOBODY:
            return nobody(call)
        if not self.mux.connection.is_connected:
            return lost(error)
        self._tell_cancelled(call)
        return silent(call)

    def _tell_cancelled(self, call: ToolCall) -> None:
        """A hint: a provider that does not hear it works in vain."""
        try:
            self.mux.publish(call_cancelled(call.subject), headers=call.headers)
        except SidecarError as e:
            log.info("a provider was not told of a cancelled call: %s", e)
