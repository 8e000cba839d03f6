"""What strangers do to what is kept of a job: its document, its steps, its mark, its request, its events.

A table, so that each test can walk all of it. Every entry changes the bus in memory as an operator's hand, a
script or an acknowledgement aimed at a key would.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from sidecar.adapters.memory.bus import Hint, MemoryBus
from sidecar.adapters.memory.stream import Entry
from sidecar.models.codec import decode_state, encode
from sidecar.models.job import JobState
from sidecar.models.result import Result

ACKNOWLEDGEMENT = b'{"stream":"LLM_REQ","seq":7}'
DELETED = {"KV-Operation": "DEL"}
PURGED = {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}

# As a client leaves it that compares before it writes. What comes without is no replica's, whatever it says.
COMPARED = {"Nats-Expected-Last-Subject-Sequence": "1"}

Attack = Callable[[MemoryBus, str, str], None]


def key_of(tenant: str, job: str) -> str:
    return f"$KV.LLM_JOB.{tenant}.{job}"


def removed(bus: MemoryBus, tenant: str, job: str) -> None:
    """As aged: nothing is left, not even a mark."""
    for entry in list(bus.jobs.find(key_of(tenant, job))):
        bus.jobs.delete(entry.seq)


def deleted(bus: MemoryBus, tenant: str, job: str) -> None:
    bus.jobs.store(key_of(tenant, job), b"", DELETED)


def purged(bus: MemoryBus, tenant: str, job: str) -> None:
    removed(bus, tenant, job)
    bus.jobs.store(key_of(tenant, job), b"", PURGED)


def written(payload: bytes) -> Attack:
    def attack(bus: MemoryBus, tenant: str, job: str) -> None:
        bus.jobs.store(key_of(tenant, job), payload, COMPARED)

    return attack


def changed(**fields: Any) -> Attack:
    """The document as it is, but for some fields."""

    def attack(bus: MemoryBus, tenant: str, job: str) -> None:
        bus.jobs.store(
            key_of(tenant, job), encode(msgspec.structs.replace(_state(bus, tenant, job), **fields)), COMPARED
        )

    return attack


def later(bus: MemoryBus, tenant: str, job: str) -> None:
    """A document that says that the job is another's by now."""
    state = _state(bus, tenant, job)
    ghost = msgspec.structs.replace(state, state="running", owner="ghost", attempt=state.attempt + 3)
    bus.jobs.store(key_of(tenant, job), encode(ghost), COMPARED)


def later_of_another_request(bus: MemoryBus, tenant: str, job: str) -> None:
    state = _state(bus, tenant, job)
    ghost = msgspec.structs.replace(state, owner="ghost", attempt=state.attempt + 1, request_seq=999_999)
    bus.jobs.store(key_of(tenant, job), encode(ghost), COMPARED)


def replayed(bus: MemoryBus, tenant: str, job: str) -> None:
    """The same bytes once more."""
    bus.jobs.store(key_of(tenant, job), encode(_state(bus, tenant, job)), COMPARED)


def _state(bus: MemoryBus, tenant: str, job: str) -> JobState:
    entry = bus.jobs.last(key_of(tenant, job))
    assert entry is not None
    return decode_state(entry.payload)


def bare(attack: Attack) -> Attack:
    """The same words without any header, as an acknowledgement comes or `nats kv put` writes."""

    def strip(bus: MemoryBus, tenant: str, job: str) -> None:
        attack(bus, tenant, job)
        entry = bus.jobs.last(key_of(tenant, job))
        if entry is not None and entry.headers == COMPARED:
            bus.jobs.delete(entry.seq)
            bus.jobs.store(entry.subject, entry.payload, {})

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


def request_removed(bus: MemoryBus, tenant: str, job: str) -> None:
    for entry in _requests(bus, tenant, job):
        bus.requests.delete(entry.seq)


def request_replayed(bus: MemoryBus, tenant: str, job: str) -> None:
    """Sent again as it was, without the id by which the server would tell."""
    for entry in _requests(bus, tenant, job):
        headers = {name: value for name, value in entry.headers.items() if name != "Nats-Msg-Id"}
        ack = bus.requests.store(entry.subject, entry.payload, headers)
        subject = bus.subjects.doorbell(tenant, entry.subject.rpartition(".")[2])
        bus.tell(Hint(subject, entry.payload, headers, ack.seq))


def request_removed_and_replayed(bus: MemoryBus, tenant: str, job: str) -> None:
    before = _requests(bus, tenant, job)
    request_replayed(bus, tenant, job)
    for entry in before:
        bus.requests.delete(entry.seq)


def _requests(bus: MemoryBus, tenant: str, job: str) -> list[Entry]:
    found = bus.requests.find(bus.subjects.request(tenant, "*"))
    return [entry for entry in found if entry.headers.get("Llm-Job-Id") == job]


def aimed(*tokens: str, payload: bytes = ACKNOWLEDGEMENT) -> Attack:
    """Anything stored beside the job's events or steps; `{job}` stands for it."""

    def attack(bus: MemoryBus, tenant: str, job: str) -> None:
        for token in tokens:
            subject = token.format(job=f"{tenant}.{job}")
            stored = bus.jobs.store(subject, payload, {})
            bus.tell(Hint(subject.replace(".log.", ".job."), payload, {}, stored.seq))

    return attack


def marked(bus: MemoryBus, tenant: str, job: str) -> None:
    """An acknowledgement where marks of cancellation lie."""
    subject = f"$KV.LLM_CANCEL.{tenant}.{job}"
    stored = bus.marks.store(subject, ACKNOWLEDGEMENT, {})
    bus.tell(Hint(subject, ACKNOWLEDGEMENT, {}, stored.seq))


def events_purged(bus: MemoryBus, tenant: str, job: str) -> None:
    for entry in list(bus.jobs.find(bus.subjects.log(tenant, job, ">"))):
        bus.jobs.delete(entry.seq)


def everything_removed(bus: MemoryBus, tenant: str, job: str) -> None:
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
