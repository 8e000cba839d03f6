"""The request/reply endpoints as one NATS micro service (ADR-32), on a connection that may be theirs alone.

Not `nats.micro`: its handlers run one after another for each subscription, and it sends the text of any
exception to the caller. Here each request is a task, and what goes out is an answer or an error we wrote;
`fair_server` sees to it that no tenant's requests are in the way of another's.
"""

import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from sidecar import __version__
from sidecar.adapters.nats.client.connection import Connection, Subscription
from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.subscription import Handler
from sidecar.adapters.nats.fair.counts import CONTROL, EndpointCounts, EndpointFigures
from sidecar.adapters.nats.fair.deaf import dropper
from sidecar.adapters.nats.fair.server import EndpointRequest, FairServer, Served
from sidecar.adapters.nats.fair.turnstile import Ration
from sidecar.adapters.nats.service import QUEUE_GROUP, EndpointInfo, EndpointStats, Identity, Info, ServiceStats
from sidecar.config.settings import EndpointsSettings
from sidecar.errors import SidecarError
from sidecar.models.base import rfc3339
from sidecar.models.shown import shown
from sidecar.models.subjects import Subjects
from sidecar.ports.bus import Endpoint, Query, Reply
from sidecar.runtime.grace import Grace

log = logging.getLogger(__name__)

SERVICE_NAME = "llm-sidecar"
SHARED_SCOPE = "shared"
# ADR-32 wants versions as semver has them: 0.2.0.dev1 is 0.2.0-dev1 there.
VERSION = re.sub(r"^(\d+\.\d+\.\d+)\.?(?=[a-z])", r"\1-", __version__)
MOST_CONTROL_PER_S = 100.0
# How long the server may take to say that it sends no more requests.
LAST_REQUESTS_S = 0.5

MayReply = Callable[[Sequence[str], str], bool]

_CONTROL = CONTROL.encode()
_TENANT_INBOX = "_INBOX_"
_DESCRIPTION = "Amazon Bedrock behind NATS: jobs, tools, models"


# What can be published to: neither empty tokens nor wildcards, and no more than the server takes in a line.
_SUBJECT = re.compile(r"(?=.{1,1024}\Z)[^\s.*>\x00-\x1f\x7f]+(?:\.[^\s.*>\x00-\x1f\x7f]+)*")


def is_inbox(prefix: str, tokens: Sequence[str], reply: str) -> bool:
    """Whether the answer to a request with these tokens (tenant or scope first) may be sent to `reply`.

    A caller chooses its reply subject, and our permissions are wider than the caller's: not the server's own
    subjects, not ours, and of the inboxes that belong to a tenant (`_INBOX_<tenant>.`) only that tenant's.
    """
    if not _SUBJECT.fullmatch(reply) or reply.startswith(("$", f"{prefix}.")):
        return False
    if reply.startswith(_TENANT_INBOX) and tokens and tokens[0] != SHARED_SCOPE:
        return reply.startswith(f"{_TENANT_INBOX}{tokens[0]}.")
    return True


class NatsEndpoints:
    """Implements port `Endpoints`.

    `may_reply(tokens, reply)` decides to which reply subjects answers may go, `is_inbox` unless given. `monotonic`
    is the clock of what waits and of rates.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        subjects: Subjects,
        settings: EndpointsSettings | None = None,
        metadata: Mapping[str, str] | None = None,
        may_reply: MayReply | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._monotonic = monotonic
        self._subjects = subjects
        self._metadata = dict(metadata or {})
        self._may_reply = may_reply or partial(is_inbox, subjects.prefix)
        self._id = secrets.token_hex(11)
        self._started = rfc3339(now())
        self._endpoints: list[tuple[Endpoint, EndpointStats]] = []
        self._subscriptions: list[tuple[Endpoint, Subscription]] = []
        self._control: list[Subscription] = []
        self._counts = EndpointCounts()
        self._server = FairServer(connection, settings or EndpointsSettings(), self._counts, monotonic=monotonic)
        self._control_ration = Ration(MOST_CONTROL_PER_S)
        self._encoded_info: bytes | None = None

    @property
    def id(self) -> str:
        """This instance's id, as PING tells it."""
        return self._id

    @property
    def figures(self) -> EndpointFigures:
        """What has become of requests, and what is held now."""
        return self._counts.figures(self._server.load)

    async def serve(self, endpoints: Sequence[Endpoint]) -> None:
        """Answer from now on, until `stop`; may be called again with further endpoints."""
        if not self._control:
            await self._serve_control()
        for endpoint in endpoints:
            queue = "" if endpoint.is_broadcast else QUEUE_GROUP
            subject = f"{self._subjects.root}.{endpoint.subject}"
            stats = EndpointStats(name=endpoint.name, subject=subject, queue_group=queue)
            self._endpoints.append((endpoint, stats))
            self._encoded_info = None
            served = Served(endpoint, stats)
            is_dropped = dropper(self._server.dropped, served, position=self._subjects.root.count(".") + 2)
            subscription = await self._connection.subscribe(
                subject, self._receiver(served), queue=queue, is_dropped=is_dropped
            )
            self._subscriptions.append((endpoint, subscription))

    async def drain(self, grace: Grace) -> None:
        """Take no more asks; those that the server has sent already are taken."""
        await self._leave([one for one in self._subscriptions if one[0].is_ask], grace)

    async def stop(self, grace: Grace) -> None:
        """Take no more requests, finish those under way, and leave the list of services."""
        await self._leave(self._subscriptions, grace)
        await self._server.finish(grace)
        # Until the server has heard of it, a PING would be sent here and wait for an answer in vain.
        limit_s = min(LAST_REQUESTS_S, grace.farewell_left_s)
        await self._connection.drain(self._control, timeout_s=limit_s)
        self._control.clear()
        self._endpoints.clear()

    async def _leave(self, left: Sequence[tuple[Endpoint, Subscription]], grace: Grace) -> None:
        self._subscriptions = [one for one in self._subscriptions if one not in left]
        limit_s = min(LAST_REQUESTS_S, grace.farewell_left_s)
        await self._connection.drain([subscription for _, subscription in left], timeout_s=limit_s)

    async def _serve_control(self) -> None:
        for verb, describe in (("PING", self._ping), ("INFO", self._info), ("STATS", self._stats)):
            served = Served(Endpoint(f"$SRV.{verb}", "", _never, quick=partial(_described, describe)))
            for suffix in ("", f".{SERVICE_NAME}", f".{SERVICE_NAME}.{self._id}"):
                receive = self._control_receiver(served)
                subscription = await self._connection.subscribe(
                    f"$SRV.{verb}{suffix}", receive, is_dropped=self._drops_control
                )
                self._control.append(subscription)

    def _ping(self) -> bytes:
        return msgspec.json.encode(
            Identity(name=SERVICE_NAME, id=self._id, version=VERSION, metadata=self._metadata)
        )

    def _info(self) -> bytes:
        """Encoded once: schemas make it some 60 KB."""
        if self._encoded_info is None:
            info = Info(
                name=SERVICE_NAME,
                id=self._id,
                version=VERSION,
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
            self._encoded_info = msgspec.json.encode(info)
        return self._encoded_info

    def _stats(self) -> bytes:
        return msgspec.json.encode(
            ServiceStats(
                name=SERVICE_NAME,
                id=self._id,
                version=VERSION,
                metadata=self._metadata,
                started=self._started,
                endpoints=[stats for _, stats in self._endpoints],
            )
        )

    # These are called by the reading loop: what comes in costs next to nothing until its turn.

    def _receiver(self, served: Served) -> Handler:
        skip = self._subjects.root.count(".") + 1

        def receive(subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
            message = BusMessage(payload, header, subject=subject, reply=reply)
            verb, *tokens = message.subject.split(".")[skip:]
            party = tokens[0] if tokens else ""
            request = EndpointRequest(
                served, message, party=party, reply=message.reply, verb=verb, tokens=tuple(tokens)
            )
            self._receive(message, request)

        return receive

    def _receive(self, message: BusMessage, request: EndpointRequest) -> None:
        reply = request.reply
        if reply and not self._may_reply(request.tokens, reply):
            if request.served.stats is not None:
                request.served.stats.count(0, "reply subject refused")
            if self._server.may_refuse(request.party):
                asked, wanted = shown(message.subject), shown(reply)
                self._server.warn("a request to %s asks for its answer at %s: not answered", asked, wanted)
            return
        if not self._server.offer(request):
            self._server.refuse(request)

    def _drops_control(self, subject: bytes) -> bool:
        return _CONTROL in self._server.dropped

    def _control_receiver(self, served: Served) -> Handler:
        """The protocol of services has no refusals: who asks too often is not heard."""

        def receive(subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
            if not reply:
                return
            message = BusMessage(payload, header, subject=subject, reply=reply)
            if not self._control_ration.take(self._monotonic()):
                self._server.do_not_hear(CONTROL)
            elif self._may_reply((), message.reply):
                self._server.offer(EndpointRequest(served, message, party=CONTROL, reply=message.reply))

        return receive


def _described(describe: Callable[[], bytes], query: Query) -> Reply:
    return Reply(describe())


async def _never(query: Query) -> Reply:
    raise SidecarError(f"{query.verb} is answered at once")
