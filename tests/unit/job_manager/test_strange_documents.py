"""Whatever is done to the document of a job that runs or waits: it ends once, and its slot is given back."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sidecar.models.call import ModelCall
from sidecar.models.event import Delta
from sidecar.models.result import Result
from tests.support.replica import MODEL, Bench, bench
from tests.support.scripted_model import ScriptedModel, Turn, calls_tools, says
from tests.support.strange_documents import ACKNOWLEDGEMENT, BESIDE, DOCUMENTS, bare, write_compared
from tests.support.tool_jobs import Providers, call
from tests.support.virtual_time import VirtualClock

TEXT = "".join(f"w{i:03d}" for i in range(60))
SLOTS = 2
# Those that a replica cannot tell from the next owner's: the job is run again.
LATER = ("later", "later, of another request")
REQUEST_GONE = ("request removed", "request removed and replayed", "everything removed")


def answer(asked: ModelCall) -> Turn:
    if asked.messages[0].content == "tool" and len(asked.messages) == 1:
        return calls_tools(call("t", "u1"))
    return says(TEXT, pieces=20, delta_s=0.3)


async def say(b: Bench, text: str, job: str, **more: Any) -> str:
    return await b.submit({"messages": [{"role": "user", "content": text}], "model": MODEL, **more}, job=job)


async def plain(b: Bench) -> list[str]:
    jobs = [await say(b, "go on", f"j{i}") for i in range(SLOTS * len(b.replicas))]
    await b.clock.advance(2.0)
    return jobs


async def streamed(b: Bench) -> list[str]:
    jobs = [await say(b, "go on", f"j{i}", stream=True) for i in range(SLOTS * len(b.replicas))]
    await b.clock.advance(2.0)
    return jobs


async def in_a_tool(b: Bench) -> list[str]:
    tools = Providers(b)
    await tools.add("t", takes_s=5.0, timeout_s=60)
    jobs = [await say(b, "tool", f"j{i}", tools=["t"]) for i in range(SLOTS * len(b.replicas))]
    await b.until(lambda: tools.times("t") >= len(jobs))
    await b.clock.advance(1.0)
    return jobs


async def queued(b: Bench) -> list[str]:
    for i in range(SLOTS * len(b.replicas)):
        await say(b, "go on", f"before{i}")
    jobs = [await say(b, "go on", f"j{i}") for i in range(3)]
    await b.clock.advance(2.0)
    return jobs


Path = Callable[[Bench], Awaitable[list[str]]]
OF_ONE_AND_THREE = pytest.mark.parametrize("names", [("one",), ("one", "two", "three")], ids=["one", "three"])
ON_EACH_PATH = pytest.mark.parametrize(
    "path", [plain, streamed, in_a_tool, queued], ids=lambda path: path.__name__
)


@asynccontextmanager
async def under_way(path: Path, names: tuple[str, ...]) -> AsyncIterator[tuple[Bench, list[str]]]:
    """Replicas, and jobs that have come as far as `path` takes them."""
    async with bench(ScriptedModel(VirtualClock(), answer)) as b:
        await b.fleet(*names, slots=SLOTS)
        yield b, await path(b)


@OF_ONE_AND_THREE
@ON_EACH_PATH
@pytest.mark.parametrize("attack", DOCUMENTS)
async def test_a_job_ends_once_and_gives_its_slot_back(attack: str, path: Path, names: tuple[str, ...]) -> None:
    async with under_way(path, names) as (b, jobs):
        for job in jobs:
            DOCUMENTS[attack](b.bus, "acme", job)
        for job in jobs:
            await check_ended_once(b, job, path, attack)
        await b.clock.advance(5.0)
        await check_slots(b)


@OF_ONE_AND_THREE
@ON_EACH_PATH
@pytest.mark.parametrize("attack", BESIDE)
async def test_what_lies_beside_the_document_ends_no_job_twice_either(
    attack: str, path: Path, names: tuple[str, ...]
) -> None:
    async with under_way(path, names) as (b, jobs):
        for job in jobs:
            BESIDE[attack](b.bus, "acme", job)
        for job in jobs:
            result = await b.result(job, limit_s=120)
            results = [e.data for e in await b.events(job) if isinstance(e.data, Result)]
            assert results == [result]
            # A job that nobody had begun cannot be run without its request, but on the replica that had read it.
            is_lost = path is queued and attack in REQUEST_GONE and len(names) > 1
            if is_lost and result.state == "failed":
                assert result.error is not None
                assert (result.error.code, "removed from the queue" in result.error.message) == ("internal", True)
            else:
                assert (result.state, result.output.text) == ("succeeded", TEXT)
            stored = await b.stored(job)
            assert stored is not None
            assert stored.state.result == result
        await b.clock.advance(20.0)
        await check_slots(b)


async def test_a_job_whose_request_goes_with_its_owner_ends_all_the_same() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, answer)) as b:
        await b.fleet("one", "two", slots=SLOTS)
        for job in [await say(b, "go on", f"j{i}") for i in range(2)]:
            await clock.advance(1.0)
            stored = await b.stored(job)
            assert stored is not None
            if stored.state.owner == b.followers[0].name:
                break
        BESIDE["request removed"](b.bus, "acme", job)
        b.kill(b.followers[0])
        result = await b.result(job, limit_s=60)
        assert (result.state, result.error and result.error.code) == ("failed", "internal")
        await clock.advance(5.0)
        await check_slots(b)


@OF_ONE_AND_THREE
@pytest.mark.parametrize("path", [streamed, queued], ids=lambda path: path.__name__)
@pytest.mark.parametrize("attack", sorted(DOCUMENTS.keys() - {"removed", "deleted", "purged"}))
async def test_what_no_replica_wrote_changes_nothing_of_a_job(
    attack: str, path: Path, names: tuple[str, ...]
) -> None:
    async with under_way(path, names) as (b, jobs):
        for job in jobs:
            bare(DOCUMENTS[attack])(b.bus, "acme", job)
        for job in jobs:
            await check_ended_once(b, job, path, "bare")
            stored = await b.stored(job)
            assert stored is not None
            assert stored.state.attempt == 1
            bare(DOCUMENTS[attack])(b.bus, "acme", job)
            assert await b.stored(job) == stored, "what has ended stands too"
        await b.clock.advance(5.0)
        await check_slots(b)
        assert sum(mux.foreign_writes.counts["LLM_JOB"] for mux in b.muxes.values()) >= 2 * len(jobs)


async def check_ended_once(b: Bench, job: str, path: Any, attack: str) -> None:
    result = await b.result(job, limit_s=120)
    # An end that nobody owned the job to contradict stands; it is said once, like any other.
    is_forged = path is queued and attack == "over before it began"
    assert (result.state, result.output.text) == (("failed", "") if is_forged else ("succeeded", TEXT))
    events = await b.events(job)
    assert [e.data for e in events if isinstance(e.data, Result)] == [result]
    places = [(e.attempt, e.n) for e in events]
    assert places == sorted(set(places))
    stored = await b.stored(job)
    assert stored is not None
    assert stored.state.result == result
    if path is streamed and attack not in LATER:
        assert stored.state.attempt == 1, "its owner went on"
        assert "".join(e.data.text or "" for e in events if isinstance(e.data, Delta)) == TEXT


async def check_slots(b: Bench) -> None:
    ledger = b.leader.scheduler.ledger
    assert (ledger.slots_used, len(ledger.open), b.leader.requests.leader.in_flight) == (0, 0, 0)
    assert [replica.requests.slots_used for replica in b.replicas] == [0] * len(b.replicas)
    assert b.requests() == 0
    began = b.clock.monotonic()
    jobs = [await b.submit(tenant="globex", job=f"after{i}") for i in range(ledger.slots)]
    for job in jobs:
        assert (await b.result(job, tenant="globex")).state == "succeeded"
    assert b.clock.monotonic() - began < 10.0, "all at once"


@pytest.mark.parametrize("times", [5, 200])
async def test_a_document_that_is_written_over_all_the_time_keeps_no_slot(times: int) -> None:
    """At each write of the owner's, and at each claim: until the attacker tires, or the job is given up."""
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=says(TEXT, pieces=20, delta_s=0.3))) as b:
        (replica,) = await b.fleet("one", slots=SLOTS)
        job = await b.submit(job="j1", stream=True)
        left = times

        async def attack() -> None:
            nonlocal left
            while left:
                write_compared(b.bus, "acme", job, ACKNOWLEDGEMENT)
                left -= 1
                await clock.sleep(0.005)

        await clock.advance(1.0)
        await clock.run(attack())
        result = await b.result(job, limit_s=300)
        assert result.state in ("succeeded", "failed")
        await clock.advance(5.0)
        await check_slots(b)
        assert replica.jobs.counts["documents_foreign"] > 0
