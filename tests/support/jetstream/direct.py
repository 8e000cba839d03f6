"""Direct reads of a stream: one message, or many in a batch, as messages with the server's headers."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.support.jetstream.stream import Entry, Stream
from tests.support.jetstream.wire import status, with_headers

_BATCH_BYTES = 1024 * 1024 * 1024
_NO_MESSAGE = status(b"404 Message Not Found")

Answer = tuple[bytes, bytes]
"""Header and payload of one message of an answer."""


def answers(stream: Stream, subject: str, payload: bytes) -> Iterator[Answer]:
    """The answer to a request for the last message of `subject`, or to what `payload` asks for."""
    if subject:
        return _single(stream, stream.last(subject))
    try:
        body = json.loads(payload) if payload else None
    except ValueError:
        return iter([(status(b"408 Malformed Request"), b"")])
    if not body:
        return iter([(status(b"408 Empty Request"), b"")])
    if "multi_last" in body:
        return _multi_last(stream, body)
    if not any(body.get(name) for name in ("seq", "last_by_subj", "next_by_subj")):
        return iter([(status(b"408 Empty Request"), b"")])
    if "batch" in body:
        return _batch(stream, body)
    return _single(stream, find(stream, body))


def _single(stream: Stream, found: Entry | None) -> Iterator[Answer]:
    if found is None:
        yield _NO_MESSAGE, b""
    else:
        yield with_headers(found.header, stream.place(found)), found.payload


def _batch(stream: Stream, body: Mapping[str, Any]) -> Iterator[Answer]:
    seqs = stream.sequences(body.get("next_by_subj") or ">", body.get("seq", 0))
    if not seqs:
        return _single(stream, None)
    return _many(stream, seqs, body)


def _multi_last(stream: Stream, body: Mapping[str, Any]) -> Iterator[Answer]:
    most = body.get("up_to_seq") or stream.last_seq
    subjects = {s: None for pattern in body["multi_last"] for s in stream.subjects(pattern)}
    seqs = []
    for subject in subjects:
        fitting = [seq for seq in stream.sequences(subject) if seq <= most]
        seqs += fitting[-1:]
    if not seqs:
        yield status(b"404 No Results"), b""
        return
    yield from _many(stream, sorted(seqs), body, more=b"Nats-UpTo-Sequence: %d\r\n" % most)


def _many(stream: Stream, seqs: list[int], body: Mapping[str, Any], *, more: bytes = b"") -> Iterator[Answer]:
    most_bytes, size = body.get("max_bytes") or _BATCH_BYTES, 0
    pending, last = len(seqs), 0
    for entry in stream.entries(seqs[: body.get("batch") or None]):
        size += len(entry.subject) + len(entry.header) + len(entry.payload)
        if last and size > most_bytes:
            break
        pending -= 1
        lines = stream.place(entry) + b"Nats-Num-Pending: %d\r\nNats-Last-Sequence: %d\r\n" % (pending, last)
        yield with_headers(entry.header, lines), entry.payload
        last = entry.seq
    yield (
        status(b"204 EOB", b"Nats-Num-Pending: %d\r\nNats-Last-Sequence: %d\r\n" % (pending, last) + more),
        b"",
    )


def find(stream: Stream, body: Mapping[str, Any]) -> Entry | None:
    if "last_by_subj" in body:
        return stream.last(body["last_by_subj"])
    if "next_by_subj" in body:
        return next(stream.find(body["next_by_subj"], seq=body.get("seq", 0)), None)
    return stream.get(body.get("seq", 0))
