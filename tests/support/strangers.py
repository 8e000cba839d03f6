"""What strangers do on a real server to what the sidecar keeps: a table, so that every test can walk it, and grow.

An attack gets the `Attacker`, who may do everything that an operator's hand or an aimed acknowledgement can, and
one job, running or waiting. To add one, write a coroutine function of these and enter it into a table: `DOCUMENTS`
for what becomes of a job's state document, `BESIDE` for what else is kept of it, `EVERYWHERE` for what concerns no
job.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StreamReader
from sidecar.config.settings import NatsSettings
from sidecar.errors import BusRefused, BusUnavailable
from sidecar.models.believed import document_of
from sidecar.models.codec import encode, state_or_none
from sidecar.models.job import JobState
from sidecar.models.result import Result
from tests.support.garbage import ACKNOWLEDGEMENTS, GARBAGE
from tests.support.nats_server import no_environment

GHOST = "zz-ghost"
# What fits a message beside its headers, and is not the same as nothing.
SMALL_GARBAGE = {name: payload for name, payload in GARBAGE.items() if len(payload) < 100_000}


class Target(NamedTuple):
    """A job under attack."""

    tenant: str
    job: str

    @property
    def document(self) -> str:
        return f"$KV.LLM_JOB.{self.tenant}.{self.job}"

    def event(self, kind: str) -> str:
        return f"llm.v1.log.{self.tenant}.{self.job}.{kind}"


class Attacker:
    """A connection with all rights, and chance. `tenant` is whom its own requests are of."""

    def __init__(self, mux: Mux, chance: random.Random, tenant: str = "mallory") -> None:
        self.mux = mux
        self.chance = chance
        self.tenant = tenant
        self._jobs = StreamReader(mux, "KV_LLM_JOB", is_replicated=False)
        self._requests = StreamReader(mux, "LLM_REQ", is_replicated=False)

    async def store(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Store it whatever stands there. What the server refuses is refused."""
        try:
            await self.mux.store(subject, payload, headers=headers)
        except (BusRefused, BusUnavailable) as e:
            print("refused:", subject, e.message)

    async def aim(self, subject: str) -> None:
        """Have JetStream send its acknowledgement of a request to `subject`, as any tenant can."""
        await self.mux.connection.flush()
        self.mux.publish(f"llm.v1.request.{self.tenant}.batch", b"aimed", reply=subject)

    async def purge(self, stream: str, subject: str) -> None:
        await self.mux.api(f"STREAM.PURGE.{stream}", {"filter": subject})

    async def state(self, target: Target) -> JobState | None:
        found = await self._jobs.last(target.document)
        return state_or_none(found.payload) if found is not None else None

    async def document(self, target: Target) -> JobState | None:
        """The document, as far as replicas believe it."""
        found = await self._jobs.last(target.document)
        if found is None or found.is_tombstone:
            return None
        return document_of(found.payload, tenant=target.tenant, job=target.job)

    async def change(self, target: Target, **fields: object) -> None:
        """Store the document again, with other fields."""
        state = await self.state(target)
        if state is not None:
            await self.store(target.document, encode(msgspec.structs.replace(state, **fields)))

    async def request(self, target: Target) -> tuple[int, str, bytes, dict[str, str]] | None:
        """The job's request, as it lies in the queue."""
        async for found in self._requests.scan(f"llm.v1.request.{target.tenant}.*", seq=1):
            if found.headers.get("Llm-Job-Id") == target.job:
                return found.seq, found.subject, found.payload, found.headers
        return None

    async def delete_request(self, seq: int) -> None:
        await self._requests.delete(seq)


Attack = Callable[[Attacker, Target], Awaitable[None]]


async def deleted(by: Attacker, target: Target) -> None:
    await by.store(target.document, b"", {"KV-Operation": "DEL"})


async def purged(by: Attacker, target: Target) -> None:
    await by.store(target.document, b"", {"KV-Operation": "PURGE", "Nats-Rollup": "sub"})


async def expired(by: Attacker, target: Target) -> None:
    """As when it has aged: nothing is left, not even a mark."""
    await by.purge("KV_LLM_JOB", target.document)


async def garbage(by: Attacker, target: Target) -> None:
    await by.store(target.document, by.chance.choice(sorted(SMALL_GARBAGE.values())))


async def acknowledged(by: Attacker, target: Target) -> None:
    await by.aim(target.document)


async def another_jobs(by: Attacker, target: Target) -> None:
    await by.change(target, job="other")


async def an_earlier_attempts(by: Attacker, target: Target) -> None:
    await by.change(target, attempt=0, owner=GHOST)


async def another_owners(by: Attacker, target: Target) -> None:
    await by.change(target, owner=GHOST)


async def another_requests(by: Attacker, target: Target) -> None:
    await by.change(target, request_seq=1 << 40)


async def over_before_it_began(by: Attacker, target: Target) -> None:
    await by.change(target, state="failed", attempt=0, result=Result(state="failed"), result_n=1)


async def handed_back(by: Attacker, target: Target) -> None:
    await by.change(target, state="queued", owner=None)


async def later(by: Attacker, target: Target) -> None:
    state = await by.state(target)
    if state is not None:
        await by.change(target, state="running", owner=GHOST, attempt=state.attempt + 2)


DOCUMENTS: Mapping[str, Attack] = {
    "deleted": deleted,
    "purged": purged,
    "expired": expired,
    "garbage": garbage,
    "acknowledged": acknowledged,
    "another job's": another_jobs,
    "an earlier attempt's": an_earlier_attempts,
    "another owner's": another_owners,
    "another request's": another_requests,
    "over before it began": over_before_it_began,
    "handed back": handed_back,
    "later": later,
}


async def request_deleted(by: Attacker, target: Target) -> None:
    if (found := await by.request(target)) is not None:
        await by.delete_request(found[0])


async def request_replayed(by: Attacker, target: Target) -> None:
    if (found := await by.request(target)) is not None:
        _, subject, payload, headers = found
        await by.store(subject, payload, {n: v for n, v in headers.items() if not n.startswith("Nats-")})


async def steps_written_over(by: Attacker, target: Target) -> None:
    await by.store(f"{target.document}.journal", by.chance.choice(sorted(SMALL_GARBAGE.values())))
    await by.aim(f"{target.document}.journal")


async def mark_aimed_at(by: Attacker, target: Target) -> None:
    await by.aim(f"$KV.LLM_CANCEL.{target.tenant}.{target.job}")


async def events_aimed_at(by: Attacker, target: Target) -> None:
    for kind in ("status", "delta", "tool", "result"):
        await by.aim(target.event(kind))
        await by.store(target.event(kind), by.chance.choice(sorted(SMALL_GARBAGE.values())))


async def live_events_forged(by: Attacker, target: Target) -> None:
    """Only heard, never stored."""
    for kind in ("status", "delta", "result"):
        subject = target.event(kind).replace(".log.", ".job.")
        by.mux.publish(subject, by.chance.choice(sorted(ACKNOWLEDGEMENTS.values())))


async def events_purged(by: Attacker, target: Target) -> None:
    await by.purge("KV_LLM_JOB", target.event(">"))


BESIDE: Mapping[str, Attack] = {
    "request deleted": request_deleted,
    "request replayed": request_replayed,
    "steps written over": steps_written_over,
    "mark aimed at": mark_aimed_at,
    "events aimed at": events_aimed_at,
    "live events forged": live_events_forged,
    "events purged": events_purged,
}


async def lease_aimed_at(by: Attacker, _: Target) -> None:
    await by.aim("$KV.LLM_CTL.lease.scheduler")


async def checkpoint_written_over(by: Attacker, _: Target) -> None:
    await by.store("$KV.LLM_CTL.checkpoint.scheduler", by.chance.choice(sorted(SMALL_GARBAGE.values())))


async def policy_aimed_at(by: Attacker, _: Target) -> None:
    await by.aim("$KV.LLM_CONFIG.policy")


async def replicas_words_forged(by: Attacker, _: Target) -> None:
    """Garbage where replicas talk to each other."""
    for verb in ("heartbeat", "rollcall", "released", "stats", "present"):
        by.mux.publish(f"llm.v1.sys.{verb}", by.chance.choice(sorted(SMALL_GARBAGE.values())))


async def requests_of_nonsense(by: Attacker, _: Target) -> None:
    for job_class in ("batch", "standard", "nonsense"):
        payload = by.chance.choice(sorted(SMALL_GARBAGE.values()))
        await by.store(f"llm.v1.request.{by.tenant}.{job_class}", payload)


EVERYWHERE: Mapping[str, Attack] = {
    "lease aimed at": lease_aimed_at,
    "checkpoint written over": checkpoint_written_over,
    "policy aimed at": policy_aimed_at,
    "replicas' words forged": replicas_words_forged,
    "requests of nonsense": requests_of_nonsense,
}

ALL: Mapping[str, Attack] = {**DOCUMENTS, **BESIDE, **EVERYWHERE}


@asynccontextmanager
async def attacker(nats_url: str, seed: int = 1) -> AsyncIterator[Attacker]:
    connection = Connection(NatsSettings(url=nats_url), environment=no_environment)
    await connection.start()
    mux = Mux(connection, timeout_s=10.0)
    await mux.start()
    try:
        yield Attacker(mux, random.Random(seed))
    finally:
        await mux.close()
        await connection.close()
