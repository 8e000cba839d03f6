"""What the subcommands of `sidecar jobs` do with stream `LLM_DEAD`; with the rights of an operator."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sidecar.adapters.nats.dead_letters import NatsDeadLetters
from sidecar.cli import exits
from sidecar.cli.bus import connected
from sidecar.cli.invocation import Invocation
from sidecar.cli.tables import table
from sidecar.errors import Permanent
from sidecar.models.base import rfc3339
from sidecar.models.subjects import Subjects
from sidecar.ports.bus import DeadLetter, DeadLetters


async def list_dead(invocation: Invocation, tenant: str | None, limit: int) -> int:
    async with _letters(invocation) as dead:
        letters = await dead.list(tenant, limit=limit)
    if invocation.is_json:
        for letter in letters:
            invocation.json(_as_json(letter))
        return exits.OK
    rows = [
        (
            letter.request.lane.tenant,
            letter.job,
            letter.request.lane.job_class,
            str(len(letter.history)),
            rfc3339(letter.buried_at),
            letter.error,
            letter.reason,
        )
        for letter in letters
    ]
    table(("tenant", "job", "class", "attempts", "failed", "error", "reason"), rows, numbers=("attempts",))
    return exits.OK


async def purge_dead(invocation: Invocation, jobs: Sequence[str]) -> int:
    async with _letters(invocation) as dead:
        for job in jobs:
            await _found(dead, invocation.tenant, job)
            await dead.purge(invocation.tenant, job)
            invocation.note(f"{job} is forgotten")
    return exits.OK


async def _found(dead: DeadLetters, tenant: str, job: str) -> DeadLetter:
    letter = await dead.get(tenant, job)
    if letter is None:
        raise Permanent(f"no request of job {job!r} of tenant {tenant!r} is kept", code="not_found")
    return letter


def _as_json(letter: DeadLetter) -> dict[str, object]:
    return {
        "tenant": letter.request.lane.tenant,
        "job": letter.job,
        "class": letter.request.lane.job_class,
        "request_seq": letter.request.seq,
        "error": letter.error,
        "reason": letter.reason,
        "buried": rfc3339(letter.buried_at),
        "history": list(letter.history),
    }


@asynccontextmanager
async def _letters(invocation: Invocation) -> AsyncIterator[DeadLetters]:
    async with connected(invocation, name="jobs") as mux:
        # As the leader knows them, whatever the stream's number of replicas.
        yield NatsDeadLetters(mux, Subjects(invocation.prefix), is_replicated=True)
