"""What a running job says while it runs: numbered events, one on its way at a time, deltas coalesced."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from sidecar.errors import BusRefused, BusUnavailable, Conflict, SidecarError
from sidecar.models.base import rfc3339
from sidecar.models.event import Delta, Event, EventData, EventType, Status, ToolActivity
from sidecar.models.job import JobState
from sidecar.models.result import Result
from sidecar.ports.bus import Clock, Publisher
from sidecar.runtime.retry import RetryDelay

log = logging.getLogger(__name__)

# What gathers while the bus is away must still fit a message: 1 MiB is NATS's default, a character up to 6 bytes.
LARGEST_DELTA = 128 * 1024
SMALLEST_DELTA = 512
# So often the document may be lost again before one event is stored.
MOST_REGAINS = 50


class _Write(NamedTuple):
    """Something else than an event that is stored under the job's fence, in its turn."""

    store: Callable[[int], Awaitable[None]]


class EventWriter:
    """The voice of one attempt of one job.

    Events leave in order, each fenced by the revision of the state document. At most one is on its way (at R3
    the server refuses a second), and what the model says meanwhile, but for at least `gather_s` seconds after
    the last delta left, goes into the next one. An event that the fence refuses is said again under the revision
    that `regain` gives. When the job turns out to be somebody else's (then that raises Conflict), or the bus
    refuses an event for good, `on_lost` is called once with the error, and nothing more is said.
    """

    def __init__(
        self,
        *,
        publisher: Publisher,
        clock: Clock,
        gather_s: float,
        regain: Callable[[], Awaitable[int]],
        on_lost: Callable[[SidecarError], None],
    ) -> None:
        self._regain = regain
        self._publisher = publisher
        self._clock = clock
        self._gather_s = gather_s
        self._on_lost = on_lost
        self._waiting: deque[EventData | _Write] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._deltas_may_leave_at = 0.0
        self._nap: asyncio.Future[None] | None = None
        self._is_urgent = False
        self._is_lost = False
        self._is_mute = False
        self._largest = LARGEST_DELTA
        self.said = 0
        """How many events of the attempt have been stored."""
        self._fence = 0
        self._state: JobState | None = None
        self._metadata: Mapping[str, Any] = {}
        self.screen_event: Callable[[Status | ToolActivity], Awaitable[Status | ToolActivity]] | None = None
        """What calls of tools and changes of state go through before they are said."""

    def begin(self, state: JobState, *, revision: int, metadata: Mapping[str, Any], n: int = 0) -> None:
        """Speak for this attempt from now on, `n` events of which have been said already."""
        self._state, self._fence, self._metadata, self.said = state, revision, metadata, n

    def moved(self, *, revision: int) -> None:
        """The state document was written again by the owner; call only after `flush`."""
        self._fence = revision

    def tool(self, activity: ToolActivity) -> None:
        self.say(activity)

    def delta(self, index: int, *, text: str | None = None, reasoning: str | None = None) -> None:
        waiting = self._waiting
        if waiting and type(last := waiting[-1]) is Delta and last.index == index:
            if text is not None and last.text is not None:
                waiting[-1] = Delta(index=index, text=last.text + text)
                return
            if reasoning is not None and last.reasoning is not None:
                waiting[-1] = Delta(index=index, reasoning=last.reasoning + reasoning)
                return
        self.say(Delta(index=index, text=text, reasoning=reasoning))

    def keep(self, store: Callable[[int], Awaitable[None]]) -> None:
        """Call `store` with the fence, after what was said before, and again until it is done.

        `flush` waits for it. What it raises but BusUnavailable is handled as for an event.
        """
        self.say(_Write(store))
        if self._nap is not None:
            self._wake()

    async def flush(self) -> None:
        """Wait until everything said so far is stored. Raises Conflict when the job was lost."""
        self._is_urgent = True
        if self._nap is not None:
            self._wake()
        while self._pump is not None:
            # The pump writes for everybody who said something: one caller's cancellation must not lose what
            # others said.
            await asyncio.shield(self._pump)
        self._is_urgent = False
        if self._is_lost:
            raise Conflict("the job belongs to another replica now")

    async def close(self) -> None:
        """Stop speaking; what was not stored yet is dropped."""
        self._waiting.clear()
        if self._pump is not None:
            self._pump.cancel()
            # Waited for: an event that left after this would stand behind the next owner's first.
            await asyncio.wait({self._pump})

    def say(self, data: EventData | _Write) -> None:
        """Have an event stored in its turn; deltas go by `delta`, what tools did by `tool`."""
        if self._is_mute:
            return
        self._waiting.append(data)
        if self._pump is None:
            # One pump a job: events are stored one after the other, in the order in which they were said.
            self._pump = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._waiting:
                if type(self._waiting[0]) is Delta:
                    await self._gather()
                data = self._waiting.popleft()
                if self.screen_event is not None and isinstance(data, ToolActivity | Status):
                    # Here, in the order of all else that is said, since it may take longer than a moment.
                    data = await self.screen_event(data)
                if type(data) is Delta:
                    data = self._piece(data)
                if await self._store(data):
                    if type(data) is Delta:
                        self._deltas_may_leave_at = self._clock.monotonic() + self._gather_s
                else:
                    self._shrink(data)
        except SidecarError as e:
            self._is_lost = isinstance(e, Conflict)
            self._is_mute = True
            self._waiting.clear()
            self._on_lost(e)
        finally:
            self._pump = None

    async def _store(self, data: EventData | _Write) -> bool:
        """Store what is said under the fence, however long the bus is away; where the document was only lost,
        under its new revision. False for a delta that is too large for the bus and can be made smaller.
        """
        event = None if isinstance(data, _Write) else self._event(data, self.said + 1)
        delay, regains = RetryDelay(self._clock, "storing an event", level=logging.DEBUG), 0
        while True:
            try:
                if isinstance(data, _Write):
                    await data.store(self._fence)
                elif event is not None:
                    await self._publisher.publish(event, fence=self._fence)
                    self.said += 1
                return True
            except Conflict:
                regains += 1
                if regains > MOST_REGAINS:
                    raise
                self._fence = await self._regain()
            except BusRefused as e:
                can_shrink = type(data) is Delta and self._largest > SMALLEST_DELTA
                if e.code != "payload_too_large" or not can_shrink:
                    raise
                return False
            except BusUnavailable as e:
                await delay.after(e)

    def _piece(self, data: Delta) -> Delta:
        """As much of a delta as fits the bus; the rest waits for its turn."""
        text = data.text if data.text is not None else data.reasoning or ""
        if len(text) <= self._largest:
            return data
        name = "text" if data.text is not None else "reasoning"
        self._waiting.appendleft(msgspec.structs.replace(data, **{name: text[self._largest :]}))
        return msgspec.structs.replace(data, **{name: text[: self._largest]})

    def _shrink(self, data: EventData | _Write) -> None:
        """The server takes smaller messages than most do: say it again in smaller pieces."""
        self._waiting.appendleft(data)
        self._largest //= 4

    async def _gather(self) -> None:
        while not self._is_urgent and len(self._waiting) == 1:
            wait_s = self._deltas_may_leave_at - self._clock.monotonic()
            if wait_s <= 0:
                return
            # A future of its own, so that flush can end the nap without ending the pump.
            nap = self._nap = asyncio.get_running_loop().create_future()
            timer = self._clock.call_later(wait_s, self._wake)
            try:
                await nap
            finally:
                timer.cancel()
                self._nap = None

    def _wake(self) -> None:
        if self._nap is not None and not self._nap.done():
            self._nap.set_result(None)

    def _event(self, data: EventData, n: int) -> Event:
        state = self._state
        assert state is not None, "begin() comes first"  # noqa: S101
        return Event(
            job=state.job,
            tenant=state.tenant,
            type=_TYPES[type(data)],
            attempt=state.attempt,
            n=n,
            time=rfc3339(self._clock.now()),
            metadata=dict(self._metadata),
            data=data,
        )


_TYPES: Mapping[type[msgspec.Struct], EventType] = {
    Status: "status",
    Delta: "delta",
    ToolActivity: "tool",
    Result: "result",
}
