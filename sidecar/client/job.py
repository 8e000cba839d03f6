"""A handle on one job."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal

import msgspec

from sidecar.client.feed import Feed
from sidecar.client.follow import Follower, wait_result
from sidecar.client.order import START, Place
from sidecar.client.results import JobResult
from sidecar.client.text import TextPiece, text_of
from sidecar.errors import BusUnavailable, CallTimeout
from sidecar.models.api import CancelReply, ReplayRequest
from sidecar.models.event import Event
from sidecar.models.job import JobState

if TYPE_CHECKING:
    from sidecar.client.client import SidecarClient


class Job:
    """One job, submitted here or anywhere: `SidecarClient.submit` and `SidecarClient.job` give it.

    May be read by several tasks at once, and again after its end. What goes on on the bus (reconnects, server
    restarts, another replica taking over) does not show, except as waiting. `sequence` is the request's place
    in the stream, None for a job that was not submitted through this handle.
    """

    def __init__(
        self, client: "SidecarClient", job_id: str, *, sequence: int | None = None, feed: Feed | None = None
    ) -> None:
        self.id = job_id
        self.tenant = client.tenant
        self.sequence = sequence
        self._client = client
        self._ahead = feed
        self._result: JobResult | None = None

    def __repr__(self) -> str:
        return f"<Job {self.tenant}:{self.id}>"

    async def events(self, *, after: Place = START) -> AsyncGenerator[Event, None]:
        """All events of the job, past ones first, each once and in order; ends after the `result`.

        `after` is an (attempt, n) to go on from. A higher `attempt` means that the output begins anew. Where
        events have expired, `n` has a hole. Raises UnknownJob for an id that nobody knows, BusUnavailable when
        the sidecar does not answer at the start or the client is closed, AccessDenied.
        """
        feed = await self._feed("*")
        try:
            follower = Follower(self, feed, after=Place(*after), is_accepted=self.sequence is not None)
            async with aclosing(follower.events()) as events:
                async for event in events:
                    whole = await self._client.resolved(event)
                    if isinstance(whole.data, JobResult):
                        self._result = whole.data
                    yield whole
        finally:
            await feed.close()

    async def text(self, *, on_restart: Literal["raise", "mark"] = "raise") -> AsyncGenerator[TextPiece, None]:
        """The answer's text as it comes; the whole text at once where the request did not ask to stream.

        When the answer begins anew after text was given, raises TextRestarted; with `on_restart="mark"` the
        next piece has `restarts` set instead. Raises JobFailed or JobCancelled at the end of a job that did
        not succeed, EventsLost where pieces have expired, and what `events` raises.
        """
        async with (
            aclosing(self.events()) as events,
            aclosing(text_of(events, on_restart=on_restart)) as pieces,
        ):
            async for piece in pieces:
                yield piece

    async def result(self, *, timeout_s: float | None = None) -> JobResult:
        """How the job ended. Failed, cancelled and rejected jobs are results too: see `raise_for_state`.

        Raises CallTimeout when `timeout_s` is over (the job goes on), UnknownJob, BusUnavailable when the
        sidecar does not answer at the start or the client is closed.
        """
        if self._result is not None:
            return self._result
        try:
            async with asyncio.timeout(timeout_s):
                feed = await self._feed("result")
                try:
                    result = await wait_result(self, feed, is_accepted=self.sequence is not None)
                    self._result = await self._client.objects.resolved(result)
                finally:
                    await feed.close()
        except TimeoutError as e:
            raise CallTimeout(f"job {self.id} has no result after {timeout_s} s; it goes on", limit="total") from e
        return self._result

    async def cancel(self, *, reason: str | None = None, timeout_s: float | None = None) -> CancelReply:
        """Ask for the job to be cancelled; works in any state, also before it was read, and more than once.

        The reply comes with the job's end, or after a second: `cancelled` says that the job ended so, `requested`
        that its end is still to come (it shows in the events and the result), and neither that it ended otherwise.
        Raises BusUnavailable when the sidecar does not answer.
        """
        return await self._client.cancel(self.id, reason=reason, timeout_s=timeout_s)

    async def state(self) -> JobState:
        """The job's state document. Raises UnknownJob, BusUnavailable."""
        return await self._client.get(self.id)

    async def replay(self, after: Place) -> AsyncGenerator[bytes, None]:
        """The stored events after a place, still encoded; `events` is what applications want."""
        request = msgspec.json.encode(ReplayRequest(attempt=after.attempt, n=after.n))
        subject = self._client.subjects.endpoint("replay", self.tenant, self.id)
        replies = self._client.ask_for_many(subject, request)
        async with aclosing(replies):
            async for payload in replies:
                yield payload

    async def _feed(self, kind: Literal["*", "result"]) -> Feed:
        """The feed that was opened before the job was submitted, for its first reader; else a new one."""
        feed, self._ahead = self._ahead, None
        if feed is not None:
            return feed
        if self._client.is_closed:
            raise BusUnavailable("the client was closed")
        return await self._client.bus.subscribe(
            self._client.subjects.event(self.tenant, self.id, kind), is_dirty=True
        )
