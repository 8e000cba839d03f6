"""Reading a stream without consumers: direct get, and the leader where a follower may lag.

At one replica a direct get reads what was just written, so its answer is final. With more replicas any follower
may answer, up to moments late: `last` and `newest` then ask the leader alone (one request either way), and `get`
asks it after a 404 only, since a message under a sequence never changes.

The server appends its own headers (`Nats-Stream` first) to the publisher's, who may have sent the same names:
only what stands after the last `Nats-Stream` is the server's word.
"""

from base64 import b64decode
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from sidecar.adapters.nats.client.errors import NotFound
from sidecar.adapters.nats.client.message import BusMessage, decode_headers
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.streams.batches import stops_on_batches
from sidecar.errors import BusRefused, BusUnavailable, SidecarError
from sidecar.models.base import epoch
from sidecar.wire.headers import SERVER_HEADERS

TOMBSTONE = b"\r\nKV-Operation: "
"""Begins the header of a message that says a key was deleted or purged."""

_END_OF_BATCH = 204
_NOT_FOUND = 404
_BATCH = 1_000
_NS = 1_000_000_000
_BATCH_BYTES = 4 * 1024 * 1024
_MAX_SUBJECTS = 512
# A message that is gone already, and any other delete that failed: releases differ in which of them they say.
_DELETE_FAILED = frozenset({10043, 10057})

_encode = msgspec.json.Encoder().encode


class StoredMessage(NamedTuple):
    """A stored message. `own_headers` is the publisher's header block, `time` the server's RFC 3339 time."""

    seq: int
    subject: str
    payload: bytes
    own_headers: bytes
    time: str

    @property
    def headers(self) -> dict[str, str]:
        return decode_headers(self.own_headers) if self.own_headers else {}

    @property
    def is_tombstone(self) -> bool:
        return TOMBSTONE in self.own_headers

    @property
    def stored_at(self) -> float:
        return epoch(self.time)


class Contents(NamedTuple):
    """What a stream holds. `counts` maps the subjects asked for to their numbers of messages."""

    counts: Mapping[str, int]
    first_seq: int
    last_seq: int


def split_headers(raw: bytes) -> tuple[bytes, dict[str, str]]:
    """The publisher's header block, and the headers that the server appended (empty when it did not)."""
    at = raw.rfind(SERVER_HEADERS)
    if at < 0:
        return raw, {}
    # From the line break before them, where there is one.
    return raw[:at], decode_headers(raw[max(at - 2, 0) :])


class StreamReader:
    """Reads, and deletes by sequence, in one stream. `is_replicated`: whether it has more than one replica.

    Raises BusUnavailable and BusRefused like the mux.
    """

    def __init__(self, mux: Mux, stream: str, *, is_replicated: bool) -> None:
        self._mux = mux
        self._stream = stream
        self._is_replicated = is_replicated
        self._get = f"DIRECT.GET.{stream}"

    async def last(self, subject: str) -> StoredMessage | None:
        """The last message of a subject, as it was just written."""
        if self._is_replicated:
            return await self._ask_leader({"last_by_subj": subject})
        return self._single(await self._mux.request(self._mux.api_subject(f"{self._get}.{subject}")))

    async def get(self, seq: int) -> StoredMessage | None:
        """The message with a sequence, also when it was just written."""
        if seq < 1:
            return None
        message = await self._mux.request(self._mux.api_subject(self._get), b'{"seq":%d}' % seq)
        found = self._single(message)
        if found is None and self._is_replicated:
            return await self._ask_leader({"seq": seq})
        return found

    async def next(self, subject: str, *, seq: int) -> StoredMessage | None:
        """The first message that fits `subject` from `seq` on, asked of the leader."""
        return await self._ask_leader({"next_by_subj": subject, "seq": seq})

    async def newest(self, pattern: str) -> StoredMessage | None:
        """The last message that fits a pattern, asked of the leader."""
        return await self._ask_leader({"last_by_subj": pattern})

    async def batch(self, pattern: str, *, seq: int, limit: int) -> tuple[list[StoredMessage], bool]:
        """Up to `limit` messages that fit a pattern from `seq` on, in stored order, and whether there are more.

        Fewer than `limit` come when they would exceed a few megabytes, but at least one if there is one.
        """
        if self._must_walk:
            return await self._walked(pattern, seq, limit)
        body = {"next_by_subj": pattern, "seq": max(seq, 1), "batch": limit, "max_bytes": _BATCH_BYTES}
        found, pending = await self._batch(body)
        return found, bool(found) and pending > 0

    async def beyond(self, pattern: str, *, seq: int) -> int:
        """How many messages fit a pattern from `seq` on, where `count` needs to know."""
        return 0 if self._must_walk else await self._count_from(pattern, seq)

    async def count(self, pattern: str, *, start: int, before: int, most: int, beyond: int) -> int:
        """How many messages fit a pattern in the sequences [start, before); above `most` perhaps not all.

        `beyond` are those from `before` on.
        """
        if not self._must_walk:
            return max(0, await self._count_from(pattern, start) - beyond)
        count = 0
        async for item in self._walk(pattern, start):
            if item.seq >= before or count > most:
                break
            count += 1
        return count

    async def _count_from(self, pattern: str, seq: int) -> int:
        found, pending = await self._batch({"next_by_subj": pattern, "seq": max(seq, 1), "batch": 1})
        return 1 + pending if found else 0

    @property
    def _must_walk(self) -> bool:
        return stops_on_batches(self._mux.connection.server_version)

    async def _walk(self, pattern: str, seq: int) -> AsyncIterator[StoredMessage]:
        """All messages that fit a pattern from `seq` on, one request each. Leaving off early needs no closing."""
        seq = max(seq, 1)
        while True:
            body = _encode({"next_by_subj": pattern, "seq": seq})
            item = self._single(await self._mux.request(self._mux.api_subject(self._get), body))
            if item is None:
                return
            yield item
            seq = item.seq + 1

    async def _walked(self, pattern: str, seq: int, limit: int) -> tuple[list[StoredMessage], bool]:
        """What `batch` gives, from one request each."""
        found: list[StoredMessage] = []
        size = 0
        async for item in self._walk(pattern, seq):
            found.append(item)
            size += len(item.payload)
            if len(found) >= limit or size >= _BATCH_BYTES:
                return found, True
        return found, False

    async def scan(self, pattern: str, *, seq: int) -> AsyncIterator[StoredMessage]:
        """All messages that fit a pattern from `seq` on, in stored order, read in batches of bounded size.

        Nothing is open between two batches: leaving off early needs no closing.
        """
        has_more = True
        while has_more:
            found, has_more = await self.batch(pattern, seq=seq, limit=_BATCH)
            for item in found:
                seq = item.seq + 1
                yield item

    async def last_of(self, subjects: Iterable[str]) -> dict[str, StoredMessage]:
        """The last message of each subject that has one; followers may answer, moments late."""
        wanted, found = list(subjects), dict[str, StoredMessage]()
        while wanted:
            part = wanted[:_MAX_SUBJECTS]
            items, pending = await self._batch({"multi_last": part, "max_bytes": _BATCH_BYTES})
            found.update((item.subject, item) for item in items)
            rest = [s for s in part if s not in found] if pending and items else []
            wanted = rest + wanted[_MAX_SUBJECTS:]
        return found

    async def contents(self, pattern: str | None = None) -> Contents:
        """The stream's bounds, and the message counts of all subjects that fit `pattern`; the leader answers.

        100,000 subjects a page. The bounds are those of the first page, so that nothing stored while the others
        were read counts as seen.
        """
        counts: dict[str, int] = {}
        body: dict[str, object] = {"subjects_filter": pattern, "offset": 0} if pattern else {}
        first = await self._mux.api(f"STREAM.INFO.{self._stream}", body)
        page = first
        while subjects := page["state"].get("subjects"):
            counts.update(subjects)
            body["offset"] = page.get("offset", 0) + len(subjects)
            if body["offset"] >= page.get("total", 0):
                break
            page = await self._mux.api(f"STREAM.INFO.{self._stream}", body)
        return Contents(counts, first["state"]["first_seq"], first["state"]["last_seq"])

    async def server_time(self) -> float:
        """The time of the server that leads the stream, in seconds since 1970."""
        answer = await self._mux.api(f"STREAM.INFO.{self._stream}")
        try:
            return epoch(answer["ts"])
        except (KeyError, TypeError, ValueError) as e:
            raise BusRefused(f"what answers for stream {self._stream} does not tell the time") from e

    async def max_age_s(self) -> float:
        """How long the stream keeps a message (s); 0 for good."""
        answer = await self._mux.api(f"STREAM.INFO.{self._stream}")
        return float(answer["config"].get("max_age", 0)) / _NS

    async def age(self) -> tuple[int, float]:
        """The stream's last sequence, and when the stream was made (s since 1970)."""
        answer = await self._mux.api(f"STREAM.INFO.{self._stream}")
        try:
            return int(answer["state"]["last_seq"]), epoch(answer["created"])
        except (KeyError, TypeError, ValueError) as e:
            raise BusRefused(f"what answers for stream {self._stream} does not tell its age") from e

    async def held_bytes(self) -> int:
        """What the stream holds now, in bytes as its bound counts them."""
        answer = await self._mux.api(f"STREAM.INFO.{self._stream}")
        return int(answer["state"]["bytes"])

    async def delete(self, seq: int) -> None:
        """Remove a message for good. No error when it is gone already."""
        if seq < 1:
            return
        try:
            await self._mux.api(f"STREAM.MSG.DELETE.{self._stream}", {"seq": seq, "no_erase": True})
        except NotFound:
            return
        except SidecarError as e:
            # Whether the message is gone decides, not the number.
            if e.details.get("err_code") not in _DELETE_FAILED or await self._ask_leader({"seq": seq}) is not None:
                raise

    async def _ask_leader(self, body: Mapping[str, object]) -> StoredMessage | None:
        try:
            answer = await self._mux.api(f"STREAM.MSG.GET.{self._stream}", body)
        except NotFound:
            return None
        message = answer["message"]
        return StoredMessage(
            message["seq"],
            message["subject"],
            b64decode(message.get("data", "")),
            b64decode(message.get("hdrs", "")),
            message["time"],
        )

    async def _batch(self, body: Mapping[str, object]) -> tuple[list[StoredMessage], int]:
        """The messages of one batch, and how many more there are."""
        found: list[StoredMessage] = []
        subject = self._mux.api_subject(self._get)
        async with aclosing(self._mux.request_many(subject, _encode(body))) as replies:
            async for reply in replies:
                if reply.status is None:
                    found.append(self._found(reply))
                elif reply.status == _END_OF_BATCH:
                    return found, int(reply.headers.get("Nats-Num-Pending", "0"))
                elif reply.status == _NOT_FOUND:
                    return found, 0
                else:
                    raise _refusal(reply, self._stream)
        raise BusUnavailable(f"a batch of {self._stream} ended early")

    def _single(self, message: BusMessage) -> StoredMessage | None:
        if message.status is None:
            return self._found(message)
        if message.status == _NOT_FOUND:
            return None
        raise _refusal(message, self._stream)

    def _found(self, message: BusMessage) -> StoredMessage:
        own, server = split_headers(message.raw_headers)
        try:
            return StoredMessage(
                int(server["Nats-Sequence"]),
                server["Nats-Subject"],
                message.payload,
                own,
                server["Nats-Time-Stamp"],
            )
        except (KeyError, ValueError) as e:
            raise BusRefused(f"what answers for stream {self._stream} is not JetStream") from e


def _refusal(message: BusMessage, stream: str) -> BusRefused:
    return BusRefused(
        f"stream {stream} refused to be read: {message.status} {message.description}",
        details={"status": message.status},
    )
