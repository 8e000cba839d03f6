"""Consumers that are pulled and acknowledge nothing, over the streams in memory."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.support.jetstream.rules import Refused
from tests.support.jetstream.stream import Stream
from tests.support.jetstream.wire import status, with_headers


class Pulled(NamedTuple):
    """One message as a consumer delivers it: under its own subject, its place in the reply subject."""

    subject: str
    reply: str
    header: bytes
    payload: bytes


class Consumer:
    def __init__(self, stream: Stream, name: str, config: dict[str, Any]) -> None:
        self.name = name
        self._stream = stream
        self._config = config
        self._next = config.get("opt_start_seq", 1)
        self._delivered = 0

    @property
    def pending(self) -> int:
        return len(self._seqs())

    def _seqs(self) -> list[int]:
        return self._stream.sequences(self._config.get("filter_subject") or ">", self._next)

    def pull(self, payload: bytes) -> Iterator[Pulled]:
        body = json.loads(payload) if payload else {}
        seqs, wanted = self._seqs(), body.get("batch", 1)
        for left, entry in zip(range(len(seqs) - 1, -1, -1), self._stream.entries(seqs[:wanted]), strict=False):
            self._next, self._delivered = entry.seq + 1, self._delivered + 1
            place = (1, entry.seq, self._delivered, round(entry.stored_at * 1e9), left)
            reply = f"$JS.ACK.{self._stream.name}.{self.name}." + ".".join(map(str, place))
            header, body_of = entry.header, entry.payload
            if self._config.get("headers_only"):
                header = with_headers(header, b"Nats-Msg-Size: %d\r\n" % len(body_of))
                body_of = b""
            yield Pulled(entry.subject, reply, header, body_of)
        if len(seqs) < wanted:
            yield Pulled("", "", status(b"408 Request Timeout"), b"")


class Consumers:
    """All consumers of one account."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, str], Consumer] = {}
        self.made = 0

    def __len__(self) -> int:
        return len(self._all)

    def create(self, stream: Stream, name: str, body: Any) -> dict[str, Any]:
        config = (body or {}).get("config") or {}
        made = self._all[(stream.name, name)] = Consumer(stream, name, config)
        self.made += 1
        return {"stream_name": stream.name, "name": name, "config": config, "num_pending": made.pending}

    def delete(self, stream: str, name: str) -> dict[str, Any]:
        if self._all.pop((stream, name), None) is None:
            raise Refused(404, 10014, "consumer not found")
        return {"success": True}

    def pull(self, below: str, payload: bytes) -> Iterator[Pulled]:
        stream, _, name = below.partition(".")
        found = self._all.get((stream, name))
        return iter(()) if found is None else found.pull(payload)
