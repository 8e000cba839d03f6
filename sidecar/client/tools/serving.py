"""One tool's calls: taken in order, so many at once, told of cancellation, answered once."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from nats.aio.msg import Msg

from sidecar.client.bus import Bus
from sidecar.client.tools.calls import Call, Outcomes, identity_of
from sidecar.client.tools.context import context_of
from sidecar.client.tools.definition import Tool
from sidecar.client.tools.replies import (
    BUSY,
    CANCELLED,
    FAILED,
    HEARTBEAT,
    STOPPING,
    TOO_LATE,
    Reply,
    error_reply,
    invalid_input,
)
from sidecar.client.tools.running import begin
from sidecar.client.tools.stopping import FAREWELL_S, ProviderEnd
from sidecar.errors import InvalidRequest, SidecarError

log = logging.getLogger(__name__)

CLOCK_TOLERANCE_S = 5.0
"""How much later than its deadline a call may run: its way takes time, and a caller that does not say how much
time is left wrote the deadline by another machine's clock."""


class ToolServer:
    """Answers the calls of one tool; `receive` never blocks. Calls wait until `open` says that they may run."""

    def __init__(self, tool: Tool[..., Any], bus: Bus, *, root: str) -> None:
        """`root`: where the sidecar's subjects lie; nothing is replied to there."""
        self.tool = tool
        self._bus = bus
        self._forbidden = ("$", f"{root}.")
        # The bound the tool's author gave: calls above it wait here, and say so by heartbeats.
        self._slots = asyncio.Semaphore(tool.concurrency)
        self._calls: set[Call] = set()
        self._outcomes = Outcomes()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_open = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """How many calls run or wait."""
        return len(self._calls)

    def open(self) -> None:
        self._is_open.set()

    def close(self, reason: str) -> None:
        """Run no more calls; those that wait are refused with `reason`."""
        self._is_open.clear()
        for call in list(self._calls):
            if not call.is_started:
                call.give_up(error_reply(STOPPING, reason))

    def receive(self, message: Msg) -> None:
        """Take a call. Who asks where no answer may go gets none."""
        if not message.reply or message.reply.startswith(self._forbidden):
            log.warning("a call of %s wants no reply, or one where none may go: dropped", self.tool.name)
            return
        loop = asyncio.get_running_loop()
        context = context_of(message.headers or {})
        call = Call(
            context, identity_of(context), message.data, [message.reply], loop.time(), loop.create_future()
        )
        if call.is_repeatable and self._is_repeated(call):
            return
        if len(self._calls) >= self.tool.concurrency + self.tool.max_waiting:
            self._send(error_reply(BUSY, f"{self.tool.name} has too many calls waiting: try later"), call.replies)
            return
        self._calls.add(call)
        call.outcome.add_done_callback(lambda done: self._settled(call, done.result()))
        call.run = self._spawn(self._run(call))
        call.run.add_done_callback(lambda _: call.settle(error_reply(FAILED, "the tool's function was cancelled")))

    def _is_repeated(self, call: Call) -> bool:
        """Whether this call runs already, or has been answered: then its caller gets that outcome."""
        if call.identity is None:
            return False
        known = self._outcomes.get(call.identity, call.payload, now=call.arrived)
        if known is not None:
            self._send(known, call.replies)
            return True
        for other in self._calls:
            if other.identity == call.identity and other.payload == call.payload:
                other.replies.extend(call.replies)
                return True
        return False

    def cancel(self, message: Msg) -> None:
        """Tell the function that its call is not waited for any more."""
        identity = identity_of(context_of(message.headers or {}))
        if identity is None:
            return
        for call in list(self._calls):
            if call.identity == identity:
                call.give_up(error_reply(CANCELLED, "the call was cancelled"))

    def answer_probe(self, reply_to: str) -> None:
        """Say that somebody is here."""
        if not reply_to.startswith(self._forbidden):
            self._send(Reply(b""), [reply_to])

    def beat(self, *, older_s: float) -> None:
        """A sign of life for each call that has been here for `older_s`."""
        now = asyncio.get_running_loop().time()
        for call in self._calls:
            if now - call.arrived >= older_s:
                self._send(HEARTBEAT, list(call.replies))

    async def finish(self, end: ProviderEnd) -> None:
        """Wait for what runs and waits; what is left when the grace is over is told, and its callers too."""
        waiting = [call.outcome for call in self._calls]
        if waiting:
            await asyncio.wait(waiting, timeout=end.calls_left_s)
        for call in list(self._calls):
            call.give_up(error_reply(STOPPING, f"the provider of {self.tool.name} has stopped"))
        while self._tasks:
            _, pending = await asyncio.wait(self._tasks, timeout=end.limit_s(FAREWELL_S))
            for task in pending:
                task.cancel()
            if pending:
                log.warning("%d calls of %s do not end although they were cancelled", len(pending), self.tool.name)
                return

    async def _run(self, call: Call) -> None:
        await self._is_open.wait()
        try:
            arguments = self.tool.signature.input.decode(call.payload)
        except InvalidRequest as e:
            call.settle(invalid_input(e))
            return
        await self._slots.acquire()
        call.is_started = True
        late_s = call.context.late_s()
        if late_s > CLOCK_TOLERANCE_S:
            self._slots.release()
            call.settle(error_reply(TOO_LATE, f"the call's deadline passed {late_s:.0f} s ago"))
            return
        limit_s = min(self.tool.max_run_s, CLOCK_TOLERANCE_S - late_s)
        too_late = error_reply(TOO_LATE, f"{self.tool.name} took longer than {limit_s:.0f} s")
        timer = asyncio.get_running_loop().call_later(limit_s, call.give_up, too_late)
        try:
            call.settle(await self._begin(call, arguments))
        finally:
            timer.cancel()

    def _begin(self, call: Call, arguments: dict[str, Any]) -> asyncio.Future[Reply]:
        try:
            return begin(
                self.tool,
                arguments,
                call.context,
                limit_bytes=self._bus.max_payload,
                on_end=self._slots.release,
            )
        except RuntimeError:
            # No thread to be had.
            self._slots.release()
            raise

    def _settled(self, call: Call, reply: Reply) -> None:
        self._calls.discard(call)
        if call.identity is not None and call.is_repeatable and not reply.is_error:
            self._outcomes.put(call.identity, call.payload, reply, now=asyncio.get_running_loop().time())
        self._send(reply, call.replies)

    def _send(self, reply: Reply, subjects: list[str]) -> None:
        self._spawn(self._publish(reply, subjects))

    async def _publish(self, reply: Reply, subjects: list[str]) -> None:
        if reply is HEARTBEAT and not self._bus.is_connected:
            return
        for subject in subjects:
            try:
                await self._bus.publish(subject, reply.payload, headers=reply.headers)
            except SidecarError as e:
                log.warning("an answer of %s could not be sent: %s", self.tool.name, e)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
