"""The request/reply endpoints as one NATS micro service (ADR-32), on the mux.

Not `nats.micro`: its handlers run one after another for each subscription, and it sends the text of any
exception to the caller. Here each request is a task, and what goes out is an answer or an error we wrote.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from functools import partial

import msgspec

from sidecar import __version__
from sidecar.adapters.nats.client.connection import Subscription
from sidecar.adapters.nats.client.mux import BusMessage, Mux
from sidecar.adapters.nats.service import (
    QUEUE_GROUP,
    EndpointInfo,
    EndpointStats,
    Identity,
    Info,
    ServiceStats,
    error_reply,
)
from sidecar.errors import BusUnavailable, SidecarError, Temporary
from sidecar.models.base import rfc3339
from sidecar.models.shown import shown
from sidecar.models.subjects import Subjects
from sidecar.ports.bus import Endpoint, Query, Reply

log = logging.getLogger(__name__)

SERVICE_NAME = "llm-sidecar"
SHARED_SCOPE = "shared"

MayReply = Callable[[Sequence[str], str], bool]

_TENANT_INBOX = "_INBOX_"
_DESCRIPTION = "Amazon Bedrock behind NATS: jobs, tools, models"


def is_inbox(prefix: str, tokens: Sequence[str], reply: str) -> bool:
    """Whether the answer to a request with these tokens (tenant or scope first) may be sent to `reply`.

    A caller chooses its reply subject, and our permissions are wider than the caller's: not the server's own
    subjects, not ours, and of the inboxes that belong to a tenant (`_INBOX_<tenant>.`) only that tenant's.
    """
    if reply.startswith(("$", f"{prefix}.")):
        return False
    if reply.startswith(_TENANT_INBOX) and tokens and tokens[0] != SHARED_SCOPE:
        return reply.startswith(f"{_TENANT_INBOX}{tokens[0]}.")
    return True


class NatsEndpoints:
    """Implements port `Endpoints`.

    At most `max_in_flight` requests are answered at once; more are refused with code `throttled`. `stop` waits
    up to `drain_s` for answers under way. `may_reply(tokens, reply)` decides to which reply subjects answers
    may go, `is_inbox` unless given.
    """

    def __init__(
        self,
        mux: Mux,
        *,
        subjects: Subjects,
        max_in_flight: int = 4096,
        drain_s: float = 30.0,
        metadata: Mapping[str, str] | None = None,
        may_reply: MayReply | None = None,
    ) -> None:
        self._mux = mux
        self._subjects = subjects
        self._max_in_flight = max_in_flight
        self._drain_s = drain_s
        self._metadata = dict(metadata or {})
        self._may_reply = may_reply or partial(is_inbox, subjects.prefix)
        self._id = secrets.token_hex(11)
        self._started = rfc3339(time.time())
        self._endpoints: list[tuple[Endpoint, EndpointStats]] = []
        self._subscriptions: list[Subscription] = []
        self._control: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def id(self) -> str:
        """This instance's id, as PING tells it."""
        return self._id

    async def serve(self, endpoints: Sequence[Endpoint]) -> None:
        """Answer from now on, until `stop`; may be called again with further endpoints."""
        if not self._control:
            await self._serve_control()
        for endpoint in endpoints:
            queue = "" if endpoint.is_broadcast else QUEUE_GROUP
            subject = f"{self._subjects.root}.{endpoint.subject}"
            stats = EndpointStats(name=endpoint.name, subject=subject, queue_group=queue)
            self._endpoints.append((endpoint, stats))
            subscription = await self._mux.subscribe(subject, self._receiver(endpoint, stats), queue=queue)
            self._subscriptions.append(subscription)

    async def stop(self) -> None:
        """Take no more requests, finish those under way, and leave the list of services."""
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions.clear()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._drain_s)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for subscription in self._control:
            await subscription.unsubscribe()
        self._control.clear()
        self._endpoints.clear()

    async def _serve_control(self) -> None:
        for verb, describe in (("PING", self._ping), ("INFO", self._info), ("STATS", self._stats)):
            for suffix in ("", f".{SERVICE_NAME}", f".{SERVICE_NAME}.{self._id}"):

                def answer(message: BusMessage, describe: Callable[[], Identity] = describe) -> None:
                    if message.reply and self._may_reply((), message.reply):
                        self._mux.publish(message.reply, msgspec.json.encode(describe()))

                self._control.append(await self._mux.subscribe(f"$SRV.{verb}{suffix}", answer))

    def _ping(self) -> Identity:
        return Identity(name=SERVICE_NAME, id=self._id, version=__version__, metadata=self._metadata)

    def _info(self) -> Info:
        return Info(
            name=SERVICE_NAME,
            id=self._id,
            version=__version__,
            metadata=self._metadata,
            description=_DESCRIPTION,
            endpoints=[
                EndpointInfo(
                    name=stats.name,
                    subject=stats.subject,
                    queue_group=stats.queue_group,
                    metadata=dict(endpoint.metadata),
                )
                for endpoint, stats in self._endpoints
            ],
        )

    def _stats(self) -> ServiceStats:
        return ServiceStats(
            name=SERVICE_NAME,
            id=self._id,
            version=__version__,
            metadata=self._metadata,
            started=self._started,
            endpoints=[stats for _, stats in self._endpoints],
        )

    def _receiver(self, endpoint: Endpoint, stats: EndpointStats) -> Callable[[BusMessage], None]:
        skip = self._subjects.root.count(".") + 1

        def receive(message: BusMessage) -> None:
            reply = message.reply
            verb, *tokens = message.subject.split(".")[skip:]
            if reply and not self._may_reply(tokens, reply):
                stats.count(0, "reply subject refused")
                asked, wanted = shown(message.subject), shown(reply)
                log.warning("a request to %s asks for its answer at %s: not answered", asked, wanted)
                return
            query = Query(verb, tuple(tokens), message.payload, message.headers)
            if endpoint.quick is not None and (answer := endpoint.quick(query)) is not None:
                stats.count(0, None)
                self._send(reply, answer)
                return
            if len(self._tasks) >= self._max_in_flight:
                error = Temporary("too many requests are being answered: try again", code="throttled")
                stats.count(0, error.message)
                self._send(reply, error_reply(error))
                return
            task = asyncio.create_task(self._handle(endpoint, stats, query, reply))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return receive

    async def _handle(self, endpoint: Endpoint, stats: EndpointStats, query: Query, reply: str) -> None:
        """Answer one request, whatever happens, and count it."""
        begun = time.perf_counter_ns()
        error: SidecarError | None = None
        try:
            await self._answer(endpoint, query, reply)
        except SidecarError as e:
            error = e
        except asyncio.CancelledError:
            error = BusUnavailable("the sidecar is stopping: try again")
            raise
        except Exception:
            log.exception("endpoint %s failed", endpoint.name)
            error = SidecarError("the sidecar failed to answer; its log says more")
        finally:
            stats.count(time.perf_counter_ns() - begun, error.message if error is not None else None)
            if error is not None:
                self._send(reply, error_reply(error))

    async def _answer(self, endpoint: Endpoint, query: Query, reply: str) -> None:
        """Run the handler and send what it gives. Raises what it raises, and BusRefused for a reply too large."""
        result = endpoint.answer(query)
        if not isinstance(result, AsyncIterator):
            self._publish(reply, await result)
            return
        try:
            async for answer in result:
                self._publish(reply, answer)
                if self._mux.connection.is_congested:
                    await self._mux.connection.drained()
        finally:
            if isinstance(result, AsyncGenerator):
                await result.aclose()

    def _publish(self, reply: str, answer: Reply) -> None:
        if reply:
            self._mux.publish(reply, answer.payload, headers=answer.headers)

    def _send(self, reply: str, answer: Reply) -> None:
        """Send a reply that cannot be replaced; when NATS is away the caller's own timeout has to tell."""
        try:
            self._publish(reply, answer)
        except SidecarError as e:
            log.warning("a reply could not be sent: %s", e)
