"""Following a job: stored events first, then live ones, each once, in order, until its result.

Live messages are hints that can be lost (a reconnect, a slow reader, a route not yet known to the server), so
a place that is missing is filled by replay, a feed that may have missed something is caught up, and a job that
is quiet is looked at now and then.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from sidecar.client.errors import UnknownJob
from sidecar.client.feed import Feed
from sidecar.client.order import Place, Verdict, judge
from sidecar.client.results import JobResult, decode_event, final_event
from sidecar.errors import Permanent, Temporary
from sidecar.models.event import Event
from sidecar.models.job import JobState

FIRST_CHECK_S = 2.0
"""How long a job may be quiet before it is looked at; doubled each time, up to `LAST_CHECK_S`."""
LAST_CHECK_S = 60.0
_FILL_PAUSES_S = (0.0, 0.1, 0.5)
_MAX_PAUSE_S = 5.0
_UNKNOWN_CHECKS = 2


class Stored(Protocol):
    """What is stored of one job, as the sidecar serves it."""

    def replay(self, after: Place) -> AsyncGenerator[bytes, None]:
        """Payloads of all events after a place, in order. Raises Temporary, UnknownJob."""
        ...

    async def state(self) -> JobState:
        """Raises Temporary (the bus is away, or too much was asked), UnknownJob."""
        ...


class Follower:
    """One reader's way through one job. `is_accepted`: the job was acknowledged, so it must turn up."""

    def __init__(self, stored: Stored, feed: Feed, *, after: Place, is_accepted: bool) -> None:
        self._stored = stored
        self._feed = feed
        self._last = after
        self._is_known = is_accepted
        self._unknown_checks = 0

    async def events(self) -> AsyncGenerator[Event, None]:
        """Raises UnknownJob, or BusUnavailable where not even the first look at the job worked."""
        quiet_s = FIRST_CHECK_S
        while True:
            message = None if self._feed.take_dirty() else await self._feed.next(quiet_s)
            if message is None:
                self._feed.take_dirty()
                quiet_s = min(quiet_s * 2, LAST_CHECK_S)
                more: AsyncGenerator[Event, None] = self._catch_up()
            else:
                quiet_s = FIRST_CHECK_S
                more = self._receive(message.payload)
            async with aclosing(more):
                async for event in more:
                    yield event
                    if event.type == "result":
                        return

    async def _receive(self, payload: bytes) -> AsyncGenerator[Event, None]:
        place, event = decode_event(payload)
        verdict = judge(self._last, place)
        is_result = event is not None and event.type == "result"
        if verdict is Verdict.GAP:
            filling = self._fill(place)
            async with aclosing(filling):
                async for earlier in filling:
                    yield earlier
                    if earlier.type == "result":
                        return
            verdict = judge(self._last, place)
        # A result is the end whatever its number: somebody may have ended the job who did not know the count.
        if verdict is Verdict.DUPLICATE and not is_result:
            return
        self._last = max(self._last, place)
        self._is_known = True
        if event is not None:
            yield event

    async def _fill(self, place: Place) -> AsyncGenerator[Event, None]:
        """What is stored before `place`. Waits while the sidecar is away: to go on would be a silent hole."""
        pauses = iter(_FILL_PAUSES_S)
        pause_s = next(pauses)
        while judge(self._last, place) is Verdict.GAP:
            await asyncio.sleep(pause_s)
            try:
                async with aclosing(self._replay()) as stored:
                    async for event in stored:
                        yield event
            except Temporary:
                pause_s = min(max(pause_s, 0.1) * 2, _MAX_PAUSE_S)
                continue
            following = next(pauses, None)
            if following is None:
                return
            pause_s = following

    async def _replay(self) -> AsyncGenerator[Event, None]:
        """Stored events after the last seen. A hole is asked for once more, then taken as lost for good."""
        confirmed: Place | None = None
        while True:
            hole: Place | None = None
            async with aclosing(self._stored.replay(self._last)) as payloads:
                async for payload in payloads:
                    place, event = decode_event(payload)
                    is_result = event is not None and event.type == "result"
                    verdict = judge(self._last, place)
                    if verdict is Verdict.GAP and place != confirmed:
                        hole = place
                        break
                    if verdict is Verdict.DUPLICATE and not is_result:
                        continue
                    self._last = max(self._last, place)
                    self._is_known = True
                    if event is not None:
                        yield event
            if hole is None:
                return
            confirmed = hole

    async def _catch_up(self) -> AsyncGenerator[Event, None]:
        """All that may have been missed, and the result when the job is over although no event said so."""
        try:
            async with aclosing(self._replay()) as stored:
                async for event in stored:
                    yield event
            state = await self._stored.state()
            self._is_known = True
            if not state.is_terminal:
                return
            # The state is written after the last event and before the result, so this replay is complete.
            async with aclosing(self._replay()) as stored:
                async for event in stored:
                    yield event
            final = final_event(state, after=self._last)
            if final is not None:
                yield final
        except UnknownJob:
            self._unknown_checks += 1
            if not self._is_known and self._unknown_checks >= _UNKNOWN_CHECKS:
                raise
        except Temporary:
            if not self._is_known:
                raise


async def wait_result(stored: Stored, feed: Feed, *, is_accepted: bool) -> JobResult:
    """A job's result, whatever else its feed brings. Raises UnknownJob, BusUnavailable like `Follower.events`."""
    quiet_s = FIRST_CHECK_S
    unknown_checks = 0
    is_known = is_accepted
    while True:
        message = None if feed.take_dirty() else await feed.next(quiet_s)
        if message is not None:
            if message.is_result:
                return _result_of(message.payload)
            is_known = True
            continue
        feed.take_dirty()
        quiet_s = min(quiet_s * 2, LAST_CHECK_S)
        try:
            state = await stored.state()
        except UnknownJob:
            unknown_checks += 1
            if not is_known and unknown_checks >= _UNKNOWN_CHECKS:
                raise
        except Temporary:
            if not is_known:
                raise
        else:
            is_known = True
            if state.is_terminal and state.result is not None:
                return JobResult.of(state.result)


def _result_of(payload: bytes) -> JobResult:
    _, event = decode_event(payload)
    if event is None or not isinstance(event.data, JobResult):
        raise Permanent("what came on the job's result subject is not a result")
    return event.data
