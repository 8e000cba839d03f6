"""A JetStream stream in memory: sequences, limits, expected sequences, deduplication, time to live.

It follows nats-server's rules as far as the product leans on them, and knows nothing of jobs.
"""

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from sidecar.errors import BusRefused, Conflict

MSG_ID = "Nats-Msg-Id"
REFUSED_HEADERS = ("Nats-TTL", "Nats-Rollup", "Nats-Schedule")


class Entry(NamedTuple):
    """A stored message. Times are seconds since 1970; `expires_at` is None where only the stream's age counts."""

    seq: int
    subject: str
    payload: bytes
    headers: Mapping[str, str]
    stored_at: float
    expires_at: float | None


class Limits(NamedTuple):
    """Limits of a stream; None is without. `refuse` names headers that the stream does not take."""

    per_subject: int | None = None
    discard_new: bool = False
    max_age_s: float | None = None
    window_s: float = 120.0
    max_bytes: int = 1024 * 1024
    refuse: tuple[str, ...] = ()


class Ack(NamedTuple):
    seq: int
    duplicate: bool


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject fits a pattern with `*` for one token and `>` for the rest."""
    if "*" not in pattern:
        if not pattern.endswith(">"):
            return pattern == subject
        return subject.startswith(pattern[:-1]) and len(subject) >= len(pattern)
    wanted, found = pattern.split("."), subject.split(".")
    for i, want in enumerate(wanted):
        if want == ">":
            return len(found) > i
        if i >= len(found) or want not in ("*", found[i]):
            return False
    return len(wanted) == len(found)


class MemoryStream:
    """One stream. Raises what the NATS adapter does: Conflict, BusRefused (`queue_full`, `payload_too_large`)."""

    def __init__(self, now: Callable[[], float], limits: Limits) -> None:
        self.limits = limits
        self.last_seq = 0
        self._now = now
        self._entries: dict[int, Entry] = {}
        self._by_subject: dict[str, list[int]] = {}
        self._ids: dict[str, tuple[float, int]] = {}
        self._due: list[tuple[float, int]] = []

    def store(
        self,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str],
        *,
        expected: int | None = None,
        expected_subject: str | None = None,
        ttl_s: float | None = None,
    ) -> Ack:
        """Append a message if the last sequence of `expected_subject` (default its own subject) is `expected`."""
        self._check_message(payload, headers)
        self.expire()
        message_id = headers.get(MSG_ID)
        if message_id is not None and message_id in self._ids:
            return Ack(self._ids[message_id][1], True)
        if expected is not None:
            last = self.last(expected_subject or subject)
            found = last.seq if last else 0
            if found != expected:
                raise Conflict(f"{expected_subject or subject} is at {found}, not at {expected}")
        self._make_room(subject)
        self.last_seq += 1
        now = self._now()
        entry = Entry(self.last_seq, subject, payload, dict(headers), now, now + ttl_s if ttl_s else None)
        self._entries[entry.seq] = entry
        self._by_subject.setdefault(subject, []).append(entry.seq)
        self._schedule_end(entry)
        if message_id is not None:
            self._ids[message_id] = (now, entry.seq)
        return Ack(entry.seq, False)

    def get(self, seq: int) -> Entry | None:
        self.expire()
        return self._entries.get(seq)

    def last(self, subject: str) -> Entry | None:
        self.expire()
        seqs = self._by_subject.get(subject)
        return self._entries[seqs[-1]] if seqs else None

    def after(self, subject: str, seq: int, limit: int) -> list[Entry]:
        """Up to `limit` messages of one subject above `seq`, in stored order."""
        self.expire()
        seqs = self._by_subject.get(subject, [])
        first = bisect_right(seqs, seq)
        return [self._entries[s] for s in seqs[first : first + limit]]

    def find(self, pattern: str) -> Iterator[Entry]:
        """All messages whose subject fits, in stored order."""
        self.expire()
        found = [s for subject, seqs in self._by_subject.items() if matches(pattern, subject) for s in seqs]
        return (self._entries[s] for s in sorted(found))

    def counts(self, pattern: str) -> dict[str, int]:
        self.expire()
        return {subject: len(seqs) for subject, seqs in self._by_subject.items() if matches(pattern, subject)}

    def delete(self, seq: int) -> bool:
        entry = self._entries.pop(seq, None)
        if entry is None:
            return False
        seqs = self._by_subject[entry.subject]
        seqs.remove(seq)
        if not seqs:
            del self._by_subject[entry.subject]
        return True

    def expire(self) -> None:
        """Drop what is older than its time to live or the stream's age, and message ids past their window."""
        now = self._now()
        while self._due and self._due[0][0] <= now:
            self.delete(heapq.heappop(self._due)[1])
        while self._ids:
            message_id, (at, _) = next(iter(self._ids.items()))
            if at + self.limits.window_s > now:
                break
            del self._ids[message_id]

    def _schedule_end(self, entry: Entry) -> None:
        age = self.limits.max_age_s
        ends = [end for end in (entry.expires_at, entry.stored_at + age if age else None) if end is not None]
        if ends:
            heapq.heappush(self._due, (min(ends), entry.seq))

    def _check_message(self, payload: bytes, headers: Mapping[str, str]) -> None:
        refused = [name for name in self.limits.refuse if name in headers]
        if refused:
            raise BusRefused(f"the stream does not take the header {refused[0]}", code="invalid_request")
        size = len(payload) + sum(len(k) + len(v) + 4 for k, v in headers.items())
        if size > self.limits.max_bytes:
            raise BusRefused(f"{size} bytes are more than {self.limits.max_bytes}", code="payload_too_large")

    def _make_room(self, subject: str) -> None:
        limit, seqs = self.limits.per_subject, self._by_subject.get(subject, [])
        if limit is None or len(seqs) < limit:
            return
        if self.limits.discard_new:
            raise BusRefused(f"{subject} holds {limit} messages already", code="queue_full")
        self.delete(seqs[0])
