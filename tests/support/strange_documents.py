"""What strangers do to what is kept of a job: its document, its steps, its mark, its request, its events.

A table, so that each test can walk all of it. Every entry changes the bus in memory as an operator's hand, a
script or an acknowledgement aimed at a key would.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from sidecar.models.codec import decode_state, encode
from sidecar.models.job import JobState
from sidecar.models.result import Result
from tests.support.jetstream.server import FakeJetStream
from tests.support.jetstream.stream import Entry

ACKNOWLEDGEMENT = b'{"stream":"LLM_REQ","seq":7}'
DELETED = {"KV-Operation": "DEL"}
PURGED = {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}

# As a client leaves it that compares before it writes. What comes without is no replica's, whatever it says.
EXPECTED = "Nats-Expected-Last-Subject-Sequence"

Attack = Callable[[FakeJetStream, str, str], None]


def key_of(tenant: str, job: str) -> str:
    return f"$KV.LLM_JOB.{tenant}.{job}"


def compared(bus: FakeJetStream, subject: str) -> Mapping[str, str]:
    last = bus.jobs.last(subject)
    return {EXPECTED: str(last.seq if last else 0)}


def write_compared(bus: FakeJetStream, tenant: str, job: str, payload: bytes) -> None:
    subject = key_of(tenant, job)
    bus.write(subject, payload, compared(bus, subject))


def removed(bus: FakeJetStream, tenant: str, job: str) -> None:
    """As aged: nothing is left, not even a mark."""
    for entry in list(bus.jobs.find(key_of(tenant, job))):
        bus.jobs.delete(entry.seq)


def deleted(bus: FakeJetStream, tenant: str, job: str) -> None:
    bus.write(key_of(tenant, job), b"", DELETED)


def purged(bus: FakeJetStream, tenant: str, job: str) -> None:
    removed(bus, tenant, job)
    bus.write(key_of(tenant, job), b"", PURGED)


def written(payload: bytes) -> Attack:
    def attack(bus: FakeJetStream, tenant: str, job: str) -> None:
        write_compared(bus, tenant, job, payload)

    return attack


def changed(**fields: Any) -> Attack:
    """The document as it is, but for some fields."""

    def attack(bus: FakeJetStream, tenant: str, job: str) -> None:
        write_compared(bus, tenant, job, encode(msgspec.structs.replace(_state(bus, tenant, job), **fields)))

    return attack


def later(bus: FakeJetStream, tenant: str, job: str) -> None:
    """A document that says that the job is another's by now."""
    state = _state(bus, tenant, job)
    ghost = msgspec.structs.replace(state, state="running", owner="ghost", attempt=state.attempt + 3)
    write_compared(bus, tenant, job, encode(ghost))


def later_of_another_request(bus: FakeJetStream, tenant: str, job: str) -> None:
    state = _state(bus, tenant, job)
    ghost = msgspec.structs.replace(state, owner="ghost", attempt=state.attempt + 1, request_seq=999_999)
    write_compared(bus, tenant, job, encode(ghost))


def replayed(bus: FakeJetStream, tenant: str, job: str) -> None:
    """The same bytes once more."""
    write_compared(bus, tenant, job, encode(_state(bus, tenant, job)))


def _state(bus: FakeJetStream, tenant: str, job: str) -> JobState:
    entry = bus.jobs.last(key_of(tenant, job))
    assert entry is not None
    return decode_state(entry.payload)


def bare(attack: Attack) -> Attack:
    """The same words without any header, as an acknowledgement comes or `nats kv put` writes."""

    def strip(bus: FakeJetStream, tenant: str, job: str) -> None:
        attack(bus, tenant, job)
        entry = bus.jobs.last(key_of(tenant, job))
        if entry is not None and EXPECTED in entry.headers:
            bus.jobs.delete(entry.seq)
            bus.write(entry.subject, entry.payload)

    return strip


DOCUMENTS: Mapping[str, Attack] = {
    "removed": removed,
    "deleted": deleted,
    "purged": purged,
    "empty": written(b""),
    "garbage": written(b"\x00\xff\x0b"),
    "deep": written(b"[" * 5_000),
    "acknowledgement": written(ACKNOWLEDGEMENT),
    "another job's": changed(job="other"),
    "another tenant's": changed(tenant="globex"),
    "replayed": replayed,
    "queued again": changed(state="queued", owner=None),
    "an earlier attempt's": changed(attempt=0, owner="ghost"),
    "another owner's": changed(owner="zz-ghost"),
    "another request's": changed(request_seq=999_999),
    "over without a result": changed(state="succeeded"),
    "over before it began": changed(state="failed", attempt=0, result=Result(state="failed"), result_n=9),
    "with numbers beyond all sense": changed(attempt=1 << 62, crashes=-5),
    "with a time that is none": changed(started="yesterday", attempt=5),
    "later": later,
    "later, of another request": later_of_another_request,
}


def request_removed(bus: FakeJetStream, tenant: str, job: str) -> None:
    for entry in _requests(bus, tenant, job):
        bus.requests.delete(entry.seq)


def request_replayed(bus: FakeJetStream, tenant: str, job: str) -> None:
    """Sent again as it was, without the id by which the server would tell."""
    for entry in _requests(bus, tenant, job):
        headers = {name: value for name, value in entry.headers.items() if name != "Nats-Msg-Id"}
        bus.write(entry.subject, entry.payload, headers)


def request_removed_and_replayed(bus: FakeJetStream, tenant: str, job: str) -> None:
    before = _requests(bus, tenant, job)
    request_replayed(bus, tenant, job)
    for entry in before:
        bus.requests.delete(entry.seq)


def _requests(bus: FakeJetStream, tenant: str, job: str) -> list[Entry]:
    found = bus.requests.find(bus.subjects.request(tenant, "*"))
    return [entry for entry in found if entry.headers.get("Llm-Job-Id") == job]


def aimed(*tokens: str, payload: bytes = ACKNOWLEDGEMENT) -> Attack:
    """Anything stored beside the job's events or steps; `{job}` stands for it."""

    def attack(bus: FakeJetStream, tenant: str, job: str) -> None:
        for token in tokens:
            bus.write(token.format(job=f"{tenant}.{job}"), payload)

    return attack


def marked(bus: FakeJetStream, tenant: str, job: str) -> None:
    """An acknowledgement where marks of cancellation lie."""
    bus.write(f"$KV.LLM_CANCEL.{tenant}.{job}", ACKNOWLEDGEMENT)


def events_purged(bus: FakeJetStream, tenant: str, job: str) -> None:
    for entry in list(bus.jobs.find(bus.subjects.log(tenant, job, ">"))):
        bus.jobs.delete(entry.seq)


def everything_removed(bus: FakeJetStream, tenant: str, job: str) -> None:
    for attack in (request_removed, events_purged, removed):
        attack(bus, tenant, job)


_EVENTS = ("llm.v1.log.{job}.status", "llm.v1.log.{job}.delta", "llm.v1.log.{job}.tool")

BESIDE: Mapping[str, Attack] = {
    "request removed": request_removed,
    "request replayed": request_replayed,
    "request removed and replayed": request_removed_and_replayed,
    "journal written over": aimed("$KV.LLM_JOB.{job}.journal"),
    "journal with garbage": aimed("$KV.LLM_JOB.{job}.journal", payload=b"\xff{"),
    "mark aimed at": marked,
    "events aimed at": aimed(*_EVENTS),
    "events with garbage": aimed(*_EVENTS, payload=b"[" * 5_000),
    "result aimed at": aimed("llm.v1.log.{job}.result"),
    "result with garbage": aimed("llm.v1.log.{job}.result", payload=b"\x00"),
    "events purged": events_purged,
    "everything removed": everything_removed,
}
