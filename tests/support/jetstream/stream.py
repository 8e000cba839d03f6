"""A JetStream stream in memory: sequences, limits, expected sequences, deduplication, counters, time to live.

It follows nats-server 2.15 as far as the product leans on it, and knows nothing of jobs.
`tests/contract/test_fake_jetstream.py` holds it against a real server.
"""

import heapq
import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tests.support.jetstream.rules import (
    EXPECTED,
    Refused,
    check_switches,
    increment_of,
    is_life,
    life_of,
    rollup_of,
)
from tests.support.jetstream.subjects import beginnings, fixed_part, mapping, matches
from tests.support.jetstream.wire import headers_of, timestamp, with_headers

_NS = 1_000_000_000
_OVERHEAD = 30
_WINDOW_NS = 120 * _NS


class Entry:
    """A stored message. Times are seconds since 1970; `expires_at` is None for one that stays."""

    __slots__ = ("expires_at", "header", "payload", "seq", "size", "stored_at", "subject")

    def __init__(self, seq: int, subject: str, header: bytes, payload: bytes, stored_at: float) -> None:
        self.seq = seq
        self.subject = subject
        self.header = header
        self.payload = payload
        self.stored_at = stored_at
        self.expires_at: float | None = None
        self.size = len(subject) + len(header) + len(payload) + _OVERHEAD + (4 if header else 0)

    @property
    def headers(self) -> Mapping[str, str]:
        return headers_of(self.header) if self.header else {}


class Stored(NamedTuple):
    """What became of a message. `before` is the sequence of the subject's last one, 0 without."""

    seq: int
    is_duplicate: bool = False
    value: str | None = None
    entry: Entry | None = None
    before: int = 0


class Republished(NamedTuple):
    """A stream's `republish`, as functions."""

    source: str
    rename: Callable[[str], str]
    is_headers_only: bool


class Stream:
    """One stream. `config` is JetStream's configuration and may be changed at any time."""

    def __init__(self, config: dict[str, Any], now: Callable[[], float]) -> None:
        self.name: str = config["name"]
        self.created_at = now()
        self.first_seq = self.last_seq = 0
        self.last_at = 0.0
        self.bytes = 0
        if config.get("first_seq"):
            self.first_seq, self.last_seq = config["first_seq"], config["first_seq"] - 1
        self._now = now
        self._entries: dict[int, Entry] = {}
        self._by_subject: dict[str, list[int]] = {}
        self._below: dict[str, dict[str, None]] = {}
        self._ids: dict[str, tuple[float, int]] = {}
        self._last_id = ""
        self._due: list[tuple[float, int]] = []
        self.configure(config)

    def configure(self, config: dict[str, Any]) -> None:
        self.config = config
        republish = config.get("republish")
        self.republish: Republished | None = None
        if republish:
            source = republish.get("src") or ">"
            rename = mapping(source, republish["dest"])
            self.republish = Republished(source, rename, bool(republish.get("headers_only")))

    def __len__(self) -> int:
        self.expire()
        return len(self._entries)

    # Reading.

    def get(self, seq: int) -> Entry | None:
        self.expire()
        return self._entries.get(seq)

    def last(self, pattern: str) -> Entry | None:
        """The last message that fits a pattern."""
        self.expire()
        if pattern == ">":
            # A server looks at its last sequence alone, also where that message was deleted.
            return self._entries.get(self.last_seq)
        seqs = self._by_subject.get(pattern)
        if seqs is None:
            seqs = [self._by_subject[subject][-1] for subject in self.subjects(pattern)]
            return self._entries[max(seqs)] if seqs else None
        return self._entries[seqs[-1]]

    def find(self, pattern: str = ">", *, seq: int = 0) -> Iterator[Entry]:
        """All messages from `seq` on whose subject fits, in stored order."""
        return iter([self._entries[found] for found in self.sequences(pattern, seq)])

    def sequences(self, pattern: str, seq: int = 0) -> list[int]:
        self.expire()
        if pattern == ">":
            found = list(self._entries)
            return found[bisect_left(found, seq) :]
        parts = [self._by_subject[subject] for subject in self.subjects(pattern)]
        parts = [seqs[bisect_left(seqs, seq) :] for seqs in parts]
        return parts[0] if len(parts) == 1 else sorted(s for part in parts for s in part)

    def counts(self, pattern: str) -> dict[str, int]:
        self.expire()
        return {subject: len(self._by_subject[subject]) for subject in self.subjects(pattern)}

    def subjects(self, pattern: str) -> list[str]:
        """The subjects that hold messages and fit, sorted."""
        if pattern in self._by_subject:
            return [pattern]
        candidates = self._below.get(fixed_part(pattern), {})
        return sorted(subject for subject in candidates if matches(pattern, subject))

    def entries(self, seqs: Iterable[int]) -> list[Entry]:
        return [self._entries[seq] for seq in seqs]

    def as_of(self, moment: float) -> "Stream":
        """What a server knows that has heard of nothing since. What was deleted meanwhile is gone here too."""
        past = Stream(self.config, self._now)
        for entry in self._entries.values():
            if entry.stored_at <= moment:
                past._index(entry)
        return past

    # Writing.

    def store(self, subject: str, payload: bytes, header: bytes = b"") -> Stored:
        """Take a message as it was published. Raises Refused."""
        self.expire()
        headers = headers_of(header) if header else {}
        message_id = headers.get("Nats-Msg-Id")
        if headers:
            self._check_sense(headers)
        if message_id and message_id in self._ids:
            return Stored(self._ids[message_id][1], is_duplicate=True)
        if headers:
            self._check_expected(subject, headers)
        rollup, life_s = rollup_of(headers, self.config), life_of(headers)
        payload, value = self._counted(subject, payload, headers)
        self._check_size(header, payload)
        seqs = self._by_subject.get(subject)
        before = seqs[-1] if seqs else 0
        entry = Entry(self.last_seq + 1, subject, header, payload, self._now())
        self._make_room(subject, entry.size)
        self._append(entry, life_s)
        if message_id:
            self._ids[message_id] = (entry.stored_at, entry.seq)
            self._last_id = message_id
        if rollup:
            self.purge(subject if rollup == "sub" else None, keep=1)
        return Stored(entry.seq, value=value, entry=entry, before=before)

    def delete(self, seq: int) -> bool:
        entry = self._entries.pop(seq, None)
        if entry is None:
            return False
        seqs = self._by_subject[entry.subject]
        del seqs[bisect_left(seqs, seq)]
        self.bytes -= entry.size
        if not seqs:
            self._forget(entry.subject)
        if seq == self.first_seq:
            self.first_seq = next(iter(self._entries), self.last_seq + 1)
        return True

    def purge(self, pattern: str | None = None, *, seq: int | None = None, keep: int = 0) -> int:
        """Remove what fits, below `seq` if one is given, all but the last `keep`. Returns how many."""
        found = self.sequences(pattern or ">")
        if seq is not None:
            found = found[: bisect_left(found, seq)]
        if keep:
            found = found[:-keep]
        for each in found:
            self.delete(each)
        return len(found)

    def expire(self) -> None:
        """Drop what is older than its time to live or the stream's age, and message ids past their window."""
        now = self._now()
        while self._due and self._due[0][0] <= now:
            self.delete(heapq.heappop(self._due)[1])
        if self._ids:
            window_s = (self.config.get("duplicate_window") or _WINDOW_NS) / _NS
            while self._ids:
                message_id, (at, _) = next(iter(self._ids.items()))
                if at + window_s > now:
                    break
                del self._ids[message_id]

    def announcement(self, entry: Entry, before: int) -> tuple[str, bytes, bytes] | None:
        """Subject, header and payload under which a stored message is republished."""
        republish = self.republish
        if republish is None or not matches(republish.source, entry.subject):
            return None
        lines = self.place(entry) + b"Nats-Last-Sequence: %d\r\n" % before
        if republish.is_headers_only:
            lines += b"Nats-Msg-Size: %d\r\n" % len(entry.payload)
        payload = b"" if republish.is_headers_only else entry.payload
        return republish.rename(entry.subject), with_headers(entry.header, lines), payload

    def place(self, entry: Entry) -> bytes:
        """The headers by which the server says where a message stands."""
        return b"Nats-Stream: %b\r\nNats-Subject: %b\r\nNats-Sequence: %d\r\nNats-Time-Stamp: %b\r\n" % (
            self.name.encode(),
            entry.subject.encode("utf-8", "surrogateescape"),
            entry.seq,
            timestamp(entry.stored_at),
        )

    def _index(self, entry: Entry) -> None:
        if not self._entries:
            self.first_seq = entry.seq
        self.last_seq, self.last_at = entry.seq, entry.stored_at
        self._entries[entry.seq] = entry
        self.bytes += entry.size
        seqs = self._by_subject.get(entry.subject)
        if seqs is None:
            self._by_subject[entry.subject] = [entry.seq]
            for beginning in beginnings(entry.subject):
                self._below.setdefault(beginning, {})[entry.subject] = None
        else:
            seqs.append(entry.seq)

    def _append(self, entry: Entry, life_s: float | None) -> None:
        self._index(entry)
        age = self.config.get("max_age") or 0
        ends = [life_s] if life_s is not None else []
        if age > 0 and life_s != float("inf"):
            ends.append(age / _NS)
        if ends and min(ends) != float("inf"):
            entry.expires_at = entry.stored_at + min(ends)
            heapq.heappush(self._due, (entry.expires_at, entry.seq))

    def _forget(self, subject: str) -> None:
        del self._by_subject[subject]
        for beginning in beginnings(subject):
            below = self._below[beginning]
            del below[subject]
            if not below:
                del self._below[beginning]

    def _counted(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> tuple[bytes, str | None]:
        """The payload to store and a counter's new value, where the stream counts."""
        if not self.config.get("allow_msg_counter"):
            return payload, None
        amount = increment_of(headers)
        if amount is None:
            raise Refused(400, 10169, "message counter increment is missing")
        if payload:
            raise Refused(400, 10170, "message counter has payload")
        seqs = self._by_subject.get(subject)
        total = int(json.loads(self._entries[seqs[-1]].payload)["val"]) if seqs else 0
        value = str(total + amount)
        return b'{"val":"%b"}' % value.encode(), value

    def _check_sense(self, headers: Mapping[str, str]) -> None:
        """What the server looks at before it knows a message again."""
        stream = headers.get("Nats-Expected-Stream")
        if stream and stream != self.name:
            raise Refused(400, 10060, "expected stream does not match")
        if "Nats-TTL" in headers and not self.config.get("allow_msg_ttl") and is_life(headers["Nats-TTL"]):
            raise Refused(400, 10166, "per-message TTL is disabled")
        if increment_of(headers) is not None and not self.config.get("allow_msg_counter"):
            raise Refused(400, 10168, "message counters is disabled")
        check_switches(headers, self.config)
        if f"{EXPECTED}-Subject" in headers and EXPECTED not in headers:
            raise Refused(400, 10193, "missing sequence for expected last sequence per subject")
        expected = headers.get("Nats-Expected-Last-Sequence")
        if expected is not None and expected != str(self.last_seq):
            raise Refused(400, 10071, f"wrong last sequence: {self.last_seq}")

    def _check_expected(self, subject: str, headers: Mapping[str, str]) -> None:
        expected = headers.get(EXPECTED)
        if expected is not None:
            found = self.last(headers.get(f"{EXPECTED}-Subject") or subject)
            seq = found.seq if found else 0
            if expected != str(seq):
                raise Refused(400, 10071, f"wrong last sequence: {seq}")
        expected = headers.get("Nats-Expected-Last-Msg-Id")
        if expected is not None and expected != self._last_id:
            raise Refused(400, 10070, f"wrong last msg ID: {self._last_id}")

    def _check_size(self, header: bytes, payload: bytes) -> None:
        limit = self.config.get("max_msg_size") or -1
        if 0 < limit < len(header) + len(payload):
            raise Refused(400, 10054, "message size exceeds maximum allowed")

    def _make_room(self, subject: str, size: int) -> None:
        """Refuse, or drop the oldest, by the stream's limits."""
        config, is_new = self.config, self.config.get("discard") == "new"
        seqs = self._by_subject.get(subject, ())
        limit = config.get("max_msgs_per_subject") or -1
        if 0 < limit <= len(seqs):
            if is_new and config.get("discard_new_per_subject"):
                raise Refused(503, 10077, "maximum messages per subject exceeded")
            self.delete(seqs[0])
        limit = config.get("max_msgs") or -1
        if 0 < limit <= len(self._entries):
            if is_new:
                raise Refused(503, 10077, "maximum messages exceeded")
            self.delete(next(iter(self._entries)))
        limit = config.get("max_bytes") or -1
        if 0 < limit < self.bytes + size:
            if is_new:
                raise Refused(503, 10077, "maximum bytes exceeded")
            while self._entries and self.bytes + size > limit:
                self.delete(next(iter(self._entries)))
