"""Answers requests fairly: each party in turn, with bounds on what waits, runs and goes out.

Who asks more than its share waits behind itself; past its bounds it is refused, cheaply and so often, and then not
heard at all. What decides is in `turnstile` and `outlet`; here it is done.
"""

import asyncio
import inspect
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Hashable, Mapping
from typing import Any

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.message import BusMessage, encode_publish
from sidecar.adapters.nats.fair.counts import EndpointCounts
from sidecar.adapters.nats.fair.deaf import Deaf
from sidecar.adapters.nats.fair.outlet import Outlet
from sidecar.adapters.nats.fair.turnstile import Admitted, Bound, Bounds, EndpointLoad, Ration, Turnstile
from sidecar.adapters.nats.service import EndpointStats, error_reply
from sidecar.config.settings import EndpointsSettings
from sidecar.errors import BusUnavailable, RateLimited, SidecarError
from sidecar.ports.bus import Endpoint, Parked, Query, Reply
from sidecar.runtime.grace import Grace

log = logging.getLogger(__name__)

# Beginning requests may take so much of one turn of the event loop, and other work has the next.
SLICE_S = 0.001
RETRY_AFTER_S = 1.0
# All parties together; each has `endpoints.refusals_per_s`.
MOST_REFUSALS_PER_S = 2000.0
WARNINGS_PER_S = 1.0
LEAST_FINISH_S = 0.2


def bounds_of(settings: EndpointsSettings) -> Bounds:
    return Bounds(
        seats=Bound(settings.tenant_in_flight, settings.max_in_flight),
        waiting=Bound(settings.tenant_waiting, settings.max_waiting),
        waiting_bytes=Bound(settings.tenant_bytes, settings.max_bytes),
        reply_bytes=Bound(settings.tenant_bytes, settings.max_bytes),
        asks=Bound(settings.tenant_asks, settings.max_asks),
        wait_s=settings.wait_s,
    )


class Served:
    """An endpoint that is subscribed to, and its counters; the service's own subjects have none."""

    def __init__(self, endpoint: Endpoint, stats: EndpointStats | None = None) -> None:
        self.endpoint = endpoint
        self.stats = stats
        # What streams has turns of its own: a long one does not keep its tenant's other requests waiting.
        self.is_stream = inspect.isasyncgenfunction(endpoint.answer)

    def count(self, elapsed_ns: int, error: SidecarError | None) -> None:
        """Errors by their code: a text may quote a tenant, and anybody may ask for statistics."""
        if self.stats is not None:
            self.stats.count(elapsed_ns, error.code if error is not None else None)

    def dropped(self, count: int) -> None:
        """So many requests were too many."""
        if self.stats is not None:
            self.stats.count(0, RateLimited.default_code, times=count)


class EndpointRequest:
    """A request that came, until it is answered. `party` is who pays for it with its turns."""

    __slots__ = ("message", "party", "reply", "served", "tokens", "verb")

    def __init__(
        self,
        served: Served,
        message: BusMessage,
        *,
        party: str,
        reply: str,
        verb: str = "",
        tokens: tuple[str, ...] = (),
    ) -> None:
        self.served = served
        self.message: BusMessage | None = message
        self.party = party
        self.verb = verb
        self.tokens = tokens
        self.reply = reply

    def query(self, parked: Parked) -> Query:
        message = self.message or BusMessage(b"")
        return Query(self.verb, self.tokens, message.payload, message.headers, parked)

    def handed_over(self, parked: Parked) -> Query:
        """The query, which is then the handler's alone: one that waits long need not keep the payload."""
        query = self.query(parked)
        self.message = None
        return query


class FairServer:
    """`counts` counts what becomes of requests."""

    def __init__(
        self,
        connection: Connection,
        settings: EndpointsSettings,
        counts: EndpointCounts,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._monotonic = monotonic
        self._settings = settings
        self._counts = counts
        self._tasks: set[asyncio.Task[None]] = set()
        self._turnstile = Turnstile[EndpointRequest](bounds_of(settings), on_free=self._wake)
        self._outlet = Outlet(connection, spawn=self._spawn)
        connection.hold_while(lambda: self._turnstile.is_full)
        self._is_woken = False
        self._spent: list[Admitted[EndpointRequest]] = []
        self._refusals: dict[str, Ration] = {}
        self._all_refusals = Ration(MOST_REFUSALS_PER_S)
        self._warnings = Ration(WARNINGS_PER_S)
        self._failures = Ration(WARNINGS_PER_S)
        self._deaf = Deaf[Served](self._count_dropped)
        self.dropped = self._deaf.dropped
        """The parties that are not heard now, by their bytes, and how many requests of theirs were dropped.
        Whoever receives looks here first, and counts there."""

    @property
    def load(self) -> Mapping[Hashable, EndpointLoad]:
        """What each party holds now, by its name and whether it is its streams."""
        return self._turnstile.parties()

    def offer(self, request: EndpointRequest) -> bool:
        """Take a request, to be answered in its turn. False when its party has too many."""
        served, message = request.served, request.message
        endpoint = served.endpoint
        is_taken = self._turnstile.offer(
            (request.party, served.is_stream),
            request,
            now=self._monotonic(),
            size=len(message.payload) if message is not None else 0,
            kind=endpoint.name,
            seats=endpoint.seats,
            is_ask=endpoint.is_ask,
        )
        if is_taken:
            self._begin_some()
        return is_taken

    def refuse(self, request: EndpointRequest) -> None:
        """Say that it is too much, so often that who means well learns of it; beyond that say nothing."""
        error = RateLimited(
            "too many requests of this tenant wait for an answer: ask again later", retry_after=RETRY_AFTER_S
        )
        request.served.count(0, error)
        if self.may_refuse(request.party) and self._outlet.is_open:
            self._counts.answered(request.served.endpoint.name, request.party, error.code)
            self._tell(request, error)
        else:
            self._counts.unheard(request.served.endpoint.name, request.party)

    def may_refuse(self, party: str) -> bool:
        """Whether another request of this party may be refused aloud; where not, it is not heard for a moment."""
        now = self._monotonic()
        ration = self._refusals.get(party)
        if ration is None:
            if len(self._refusals) >= self._settings.max_waiting:
                self._refusals.clear()
            ration = self._refusals[party] = Ration(self._settings.refusals_per_s)
        if not ration.take(now):
            self.do_not_hear(party)
            return False
        return self._all_refusals.take(now)

    def do_not_hear(self, party: str) -> None:
        """For a moment what this party asks is to be dropped and counted, by who receives it."""
        self._deaf.begin(party)

    def _count_dropped(self, party: str, dropped: Counter[Served]) -> None:
        for served, count in dropped.items():
            served.dropped(count)
            self._counts.unheard(served.endpoint.name, party, count)

    def warn(self, text: str, *args: object) -> None:
        """Log what strangers bring about, but not as often as they do."""
        if self._warnings.take(self._monotonic()):
            log.warning(f"{text} (others of this second are not logged)", *args)  # noqa: G004  # text is constant

    async def finish(self, grace: Grace) -> None:
        """Answer what was taken, within the grace; tell the rest that it was given up."""
        # A moment also where there is no grace left: asks that were just let go are answered in it.
        finishing = asyncio.ensure_future(self._finished())
        done, _ = await asyncio.wait({finishing}, timeout=LEAST_FINISH_S)
        if not done:
            await grace.finish(asyncio.wait({finishing}))
        finishing.cancel()
        for request in self._turnstile.clear():
            self._tell(request, _stopping())
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace.farewell_left_s)

    async def _finished(self) -> None:
        while self._tasks or self._turnstile.load.waiting:
            await asyncio.wait({*self._tasks, asyncio.ensure_future(asyncio.sleep(0))})

    # Requests are begun, as many as there is room for.

    def _wake(self) -> None:
        """A seat is free: look in the next turn of the loop, once for all that become free in this one."""
        if not self._is_woken:
            self._is_woken = True
            asyncio.get_running_loop().call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._is_woken = False
        spent, self._spent = self._spent, []
        for admitted in spent:
            admitted.close()
        self._begin_some()

    def _begin_some(self) -> None:
        now = self._monotonic()
        until = now + SLICE_S
        while (admitted := self._turnstile.next(now)) is not None:
            self._begin(admitted)
            now = self._monotonic()
            if now >= until:
                self._wake()
                break
        for request in self._turnstile.late():
            self.refuse(request)

    def _begin(self, admitted: Admitted[EndpointRequest]) -> None:
        request, answer = admitted.item, None
        endpoint = request.served.endpoint
        if endpoint.quick is not None and self._outlet.is_open:
            answer = endpoint.quick(request.query(admitted.parked))
        if answer is None:
            self._spawn(self._handle(admitted))
            return
        self._count(request, 0, None)
        self._send_now(request, answer)
        # It keeps its seat until the next turn of the loop: so many are answered in one as may be in flight.
        self._spent.append(admitted)
        self._wake()

    async def _handle(self, admitted: Admitted[EndpointRequest]) -> None:
        """Answer one request, whatever happens, and count it."""
        begun = time.perf_counter_ns()
        request = admitted.item
        error: SidecarError | None = None
        try:
            await self._answer(admitted)
        except SidecarError as e:
            error = e
        except asyncio.CancelledError:
            error = _stopping()
            raise
        except Exception:
            if self._failures.take(self._monotonic()):
                log.exception("endpoint %s failed", request.served.endpoint.name)
            error = SidecarError("the sidecar failed to answer; its log says more")
        finally:
            admitted.close()
            self._count(request, time.perf_counter_ns() - begun, error)
            if error is not None:
                self._tell(request, error)

    async def _answer(self, admitted: Admitted[EndpointRequest]) -> None:
        """Run the handler and send what it gives. Raises what it raises, and BusRefused for a reply too large."""
        endpoint = admitted.item.served.endpoint
        query = admitted.item.handed_over(admitted.parked)
        ready = endpoint.quick(query) if endpoint.quick is not None else None
        if ready is not None:
            await self._send(admitted, ready)
            return
        result = endpoint.answer(query)
        del query
        if not isinstance(result, AsyncIterator):
            await self._send(admitted, await result)
            return
        try:
            async for answer in result:
                await self._send(admitted, answer)
        finally:
            if isinstance(result, AsyncGenerator):
                await result.aclose()

    def _count(self, request: EndpointRequest, elapsed_ns: int, error: SidecarError | None) -> None:
        request.served.count(elapsed_ns, error)
        self._counts.answered(request.served.endpoint.name, request.party, error.code if error else "ok")

    # Replies go out.

    async def _send(self, admitted: Admitted[EndpointRequest], answer: Reply) -> None:
        reply = admitted.item.reply
        if reply:
            data = encode_publish(reply, "", answer.headers, answer.payload)
            admitted.made(len(data))
            if not self._outlet.send_now(data):
                await self._outlet.send(admitted.party, data)

    def _tell(self, request: EndpointRequest, error: SidecarError) -> None:
        self._send_now(request, error_reply(error))

    def _send_now(self, request: EndpointRequest, answer: Reply) -> None:
        """Send a reply that cannot be replaced; when NATS is away the caller's own timeout has to tell."""
        if not request.reply:
            return
        try:
            self._connection.send(encode_publish(request.reply, "", answer.headers, answer.payload))
        except SidecarError as e:
            self.warn("a reply could not be sent: %s", e)

    def _spawn(self, work: Coroutine[Any, Any, None], *, name: str | None = None) -> "asyncio.Task[None]":
        # Held in a set: the loop keeps only weak references to tasks.
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _stopping() -> BusUnavailable:
    return BusUnavailable("the sidecar is stopping: try again")
