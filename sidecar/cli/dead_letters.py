"""What the subcommands of `sidecar jobs` do with stream `LLM_DEAD`; with the rights of an operator."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.dead_letters import NatsDeadLetters
from sidecar.adapters.nats.intake import NatsIntake
from sidecar.cli import exits
from sidecar.cli.invocation import Invocation
from sidecar.cli.tables import table
from sidecar.config.connection import ConnectionSettings
from sidecar.errors import BusUnavailable, Permanent
from sidecar.models.base import rfc3339
from sidecar.models.subjects import HEADER_JOB_ID, HEADER_MESSAGE_ID, Subjects
from sidecar.ports.bus import DeadLetter, DeadLetters, Intake

_LONGEST_ID = 64


class _Streams(NamedTuple):
    dead: DeadLetters
    intake: Intake


async def list_dead(invocation: Invocation, tenant: str | None, limit: int) -> int:
    async with _streams(invocation) as streams:
        letters = await streams.dead.list(tenant, limit=limit)
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
            letter.reason,
        )
        for letter in letters
    ]
    table(("tenant", "job", "class", "attempts", "given up", "reason"), rows, numbers=("attempts",))
    return exits.OK


async def replay_dead(invocation: Invocation, jobs: Sequence[str], *, keep: bool) -> int:
    async with _streams(invocation) as streams:
        for job in jobs:
            fresh = await resubmit(streams.dead, streams.intake, invocation.tenant, job)
            if not keep:
                await streams.dead.purge(invocation.tenant, job)
            if invocation.is_json:
                invocation.json({"job": fresh, "replays": job, "tenant": invocation.tenant})
            else:
                invocation.data(fresh)
    return exits.OK


async def purge_dead(invocation: Invocation, jobs: Sequence[str]) -> int:
    async with _streams(invocation) as streams:
        for job in jobs:
            await _found(streams.dead, invocation.tenant, job)
            await streams.dead.purge(invocation.tenant, job)
            invocation.note(f"{job} is forgotten")
    return exits.OK


async def resubmit(dead: DeadLetters, intake: Intake, tenant: str, job: str) -> str:
    """Hand a request in again. Returns its new job id: one that exists is never run again.

    Repeating it is safe: the same dead letter makes the same id. Raises Permanent (`not_found`).
    """
    letter = await _found(dead, tenant, job)
    ending = f"-r{letter.seq}"
    fresh = job[: _LONGEST_ID - len(ending)] + ending
    headers = {**letter.request.headers, HEADER_JOB_ID: fresh, HEADER_MESSAGE_ID: f"{tenant}:{fresh}"}
    await intake.submit(letter.request.lane, letter.request.payload, headers)
    return fresh


async def _found(dead: DeadLetters, tenant: str, job: str) -> DeadLetter:
    letter = await dead.get(tenant, job)
    if letter is None:
        raise Permanent(f"no request of job {job!r} of tenant {tenant!r} was given up", code="not_found")
    return letter


def _as_json(letter: DeadLetter) -> dict[str, object]:
    return {
        "tenant": letter.request.lane.tenant,
        "job": letter.job,
        "class": letter.request.lane.job_class,
        "request_seq": letter.request.seq,
        "reason": letter.reason,
        "buried": rfc3339(letter.buried_at),
        "history": list(letter.history),
    }


@asynccontextmanager
async def _streams(invocation: Invocation) -> AsyncIterator[_Streams]:
    settings = ConnectionSettings(url=invocation.server, context=invocation.context, creds=invocation.creds)
    connection = Connection(settings, name="sidecar jobs")
    try:
        try:
            async with asyncio.timeout(invocation.connect_timeout_s):
                await connection.start()
        except TimeoutError as e:
            raise BusUnavailable(f"NATS did not answer within {invocation.connect_timeout_s:g} s") from e
        mux = Mux(connection)
        await mux.start()
        try:
            subjects = Subjects(invocation.prefix)
            # As the leader knows them, whatever the streams' number of replicas.
            yield _Streams(
                NatsDeadLetters(mux, subjects, is_replicated=True), NatsIntake(mux, subjects, is_replicated=True)
            )
        finally:
            await mux.close()
    finally:
        await connection.close()
