"""The queue of requests: stream `LLM_REQ`, read without consumers."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing

from sidecar.adapters.nats.client.message import BusMessage, decode_headers
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StoredMessage, StreamReader, split_headers
from sidecar.adapters.nats.heads import Head, HeadPass
from sidecar.errors import BusRefused
from sidecar.models.authors import is_aimed
from sidecar.models.subjects import HEADER_DEADLINE, HEADER_JOB_ID, REQUEST_STREAM, Subjects, is_name
from sidecar.ports.bus import Doorbell, Lane, LaneCounts, RequestHead, StoredRequest

_ODD_TOKENS = ("*", ">", "\ufffd")
_ODD_SCAN = 10_000


class NatsIntake:
    """`Intake` over JetStream.

    A subject can hold anything but blanks and empty tokens: wildcards as literal tokens, control characters,
    bytes that are no UTF-8. A lane is what lies behind the prefix, first token and rest, so it can always be
    made. Where a lane cannot be asked for by its name, because the name is a pattern or was not readable,
    `read` looks for it among the first 10,000 requests above `after_seq`, which move on as the queue does.

    Cost: `backlog` is one request per 100,000 lanes; `read` one request; `heads` three and one more for each few
    hundred; `get` one, two at a miss of a
    replicated stream; `delete` and `submit` one.
    """

    def __init__(self, mux: Mux, subjects: Subjects, *, is_replicated: bool = False) -> None:
        self._mux = mux
        self._root = f"{subjects.root}.request."
        self._doorbells = f"{subjects.root}.sys.doorbell."
        self._reader = StreamReader(mux, REQUEST_STREAM, is_replicated=is_replicated)
        self._is_replicated = is_replicated
        self._heads = HeadPass(mux, REQUEST_STREAM, self._reader, below=self._root.encode())

    async def listen(self, on_doorbell: Callable[[Doorbell], None]) -> None:
        def hear(message: BusMessage) -> None:
            doorbell = self._doorbell(message)
            if doorbell is not None:
                on_doorbell(doorbell)

        await self._mux.subscribe(self._doorbells + ">", hear)

    async def backlog(self) -> LaneCounts:
        contents = await self._reader.contents(self._root + ">")
        return LaneCounts({self._lane(subject): n for subject, n in contents.counts.items()}, contents.last_seq)

    async def last_seq(self) -> int:
        return (await self._reader.contents()).last_seq

    async def read(self, lane: Lane, *, after_seq: int, limit: int) -> Sequence[StoredRequest]:
        subject = f"{self._root}{lane.tenant}.{lane.job_class}"
        if any(odd in subject for odd in _ODD_TOKENS):
            return await self._read_odd(lane, after_seq, limit)
        found, _ = await self._reader.batch(subject, seq=after_seq + 1, limit=limit)
        if not found and self._is_replicated:
            # A follower that lags must not make a lane look empty for ever.
            first = await self._reader.next(subject, seq=after_seq + 1)
            found = [first] if first else []
        return [self._stored(item) for item in found]

    async def heads(
        self, *, first: int, last: int, tenant: str | None = None, job_class: str | None = None
    ) -> AsyncGenerator[Sequence[RequestHead], None]:
        named = (tenant or "*", job_class or "*")
        pattern = self._root + (">" if named == ("*", "*") else ".".join(named))
        async with aclosing(self._heads.read(pattern, first=first, last=last)) as parts:
            async for part in parts:
                yield [self._head(found) for found in part]

    def _head(self, found: Head) -> RequestHead:
        given = decode_headers(found.headers) if found.headers else {}
        bell = Doorbell(
            found.seq,
            self._lane(found.subject),
            found.size,
            given.get(HEADER_JOB_ID),
            given.get(HEADER_DEADLINE),
        )
        return RequestHead(bell, found.stored_at)

    async def get(self, seq: int) -> StoredRequest | None:
        found = await self._reader.get(seq)
        return self._stored(found) if found else None

    async def delete(self, seq: int) -> None:
        await self._reader.delete(seq)

    async def submit(self, lane: Lane, payload: bytes, headers: Mapping[str, str]) -> int:
        if not (is_name(lane.tenant) and is_name(lane.job_class)):
            raise BusRefused(f"{lane.tenant}.{lane.job_class} is not a lane", code="invalid_request")
        subject = f"{self._root}{lane.tenant}.{lane.job_class}"
        return (await self._mux.store(subject, payload, headers=headers)).seq

    async def _read_odd(self, lane: Lane, after_seq: int, limit: int) -> Sequence[StoredRequest]:
        found: list[StoredRequest] = []
        looked_at = 0
        async for item in self._reader.scan(self._root + ">", seq=after_seq + 1):
            looked_at += 1
            if self._lane(item.subject) == lane:
                found.append(self._stored(item))
            if len(found) == limit or looked_at == _ODD_SCAN:
                break
        return found

    def _doorbell(self, message: BusMessage) -> Doorbell | None:
        """None for what is no doorbell of the server's: anybody's words on the subject are only that."""
        own, server = split_headers(message.raw_headers)
        seq, size = server.get("Nats-Sequence", ""), server.get("Nats-Msg-Size", "0")
        subject = server.get("Nats-Subject", "")
        if not (seq.isdecimal() and size.isdecimal() and subject.startswith(self._root)):
            return None
        given = decode_headers(own)
        return Doorbell(
            int(seq),
            self._lane(subject),
            int(size),
            given.get(HEADER_JOB_ID),
            given.get(HEADER_DEADLINE),
        )

    def _lane(self, subject: str) -> Lane:
        tenant, _, job_class = subject.removeprefix(self._root).partition(".")
        return Lane(tenant, job_class)

    def _stored(self, found: StoredMessage) -> StoredRequest:
        headers = found.headers
        if is_aimed(found.payload, headers):
            self._mux.foreign_writes.met(
                REQUEST_STREAM, subject=found.subject, seq=found.seq, payload=found.payload
            )
        return StoredRequest(found.seq, self._lane(found.subject), found.payload, headers, found.stored_at)
