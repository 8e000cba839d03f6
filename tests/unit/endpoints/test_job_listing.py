"""Pages of jobs: over documents and the queue, none twice, none left out, whatever moves meanwhile."""

import random
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from sidecar.models.api import JobsPage
from sidecar.models.base import rfc3339
from tests.support.replica import Bench, bench
from tests.support.scripted_model import ScriptedModel, says
from tests.support.virtual_time import VirtualClock

SMALL: dict[str, Any] = {"slots": 2, "interactive_reserve": 0.0, "window": 4}


def slow_bench(first_s: float = 30.0) -> Any:
    clock = VirtualClock()
    return bench(ScriptedModel(clock, lambda _: says("x", first_s=first_s)))


async def submit(b: Bench, job: str, *, tenant: str = "acme", job_class: str = "standard", **more: Any) -> None:
    await b.submit(job=job, tenant=tenant, job_class=job_class, **more)


async def page(b: Bench, *, verb: tuple[str, ...] = ("jobs", "acme"), **asked: Any) -> JobsPage:
    reply = await b.ask(verb[0], *verb[1:], payload=msgspec.json.encode(asked))
    assert "Nats-Service-Error" not in reply.headers, reply.headers
    return msgspec.json.decode(reply.payload, type=JobsPage)


async def pages(b: Bench, **asked: Any) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    while True:
        got = await page(b, **asked, **({"cursor": cursor} if cursor else {}))
        found += [job.job for job in got.jobs]
        cursor = got.cursor
        if cursor is None:
            return found


@pytest.mark.parametrize("asked", ["leader", "follower"])
async def test_all_jobs_are_listed_newest_first(asked: str) -> None:
    async with slow_bench() as b:
        await b.fleet("one", "two", scheduler=SMALL)
        name = (b.leader if asked == "leader" else b.followers[0]).name
        b.bus.choose = lambda members: next(m for m in members if m.peer.replica == name)
        for n in range(50):
            await submit(b, f"j{n}", job_class=("standard", "batch")[n % 2])
            await submit(b, f"x{n}", tenant="globex")
        await b.clock.advance(1.0)
        newest_first = [f"j{n}" for n in reversed(range(50))]
        assert await pages(b, limit=7) == newest_first
        assert await pages(b, limit=1000) == newest_first
        queued = await pages(b, limit=7, state="queued")
        running = await pages(b, limit=7, state="running")
        assert sorted(queued + running) == sorted(newest_first)
        assert 0 < len(running) <= 4
        assert await pages(b, limit=9, **{"class": "batch"}) == [f"j{n}" for n in range(49, 0, -2)]
        everything = await pages(b, verb=("admin", "jobs"), limit=30)
        assert len(everything) == len(set(everything)) == 100
        assert await pages(b, verb=("admin", "jobs"), tenant="globex", limit=30) == [
            f"x{n}" for n in reversed(range(50))
        ]
        since = rfc3339(b.clock.now() + 1)
        assert await pages(b, since=since) == []


async def test_a_listing_reads_no_payload_of_what_is_queued() -> None:
    async with slow_bench() as b:
        await b.fleet("one", scheduler=SMALL)
        for n in range(60):
            await submit(b, f"j{n}")
        await b.clock.advance(1.0)
        before = len(b.bus.operations)
        assert len((await page(b, limit=20, state="queued")).jobs) == 20
        done = [operation.name for operation in b.bus.operations[before:] if operation.replica != "client"]
        assert "intake.read" not in done
        assert "intake.get" not in done


@pytest.mark.parametrize("seed", range(4))
async def test_pages_neither_repeat_nor_skip_while_jobs_begin_and_end(seed: int) -> None:
    dice = random.Random(seed)
    async with slow_bench(first_s=0.3) as b:
        await b.fleet("one", "two", scheduler=SMALL)
        jobs = [f"j{n}" for n in range(60)]
        for job in jobs:
            await submit(b, job, job_class=dice.choice(("standard", "batch", "interactive")))
        await b.clock.advance(dice.uniform(0.0, 1.0))
        found: list[str] = []
        cursor: str | None = None
        while True:
            more: Mapping[str, Any] = {"cursor": cursor} if cursor else {}
            got = await page(b, limit=dice.randrange(1, 9), **more)
            found += [job.job for job in got.jobs]
            cursor = got.cursor
            if cursor is None:
                break
            await b.clock.advance(dice.choice((0.0, 0.1, 0.5)))
        assert sorted(found) == sorted(jobs)


async def test_ended_jobs_are_found_by_error_and_metadata() -> None:
    async with slow_bench(first_s=0.1) as b:
        await b.fleet("one", scheduler=SMALL)
        await submit(b, "good", metadata={"ticket": 42})
        await submit(b, "bad", metadata={"ticket": 42}, tools=["none@^1"])
        await submit(b, "other", metadata={"ticket": 7})
        await b.result("other")
        await b.result("bad")
        assert await pages(b, metadata={"ticket": "42"}) == ["bad", "good"]
        assert await pages(b, state="succeeded", metadata={"ticket": 42}) == ["good"]
        got = await page(b, error="unknown_tool")
        assert [(job.job, job.error_code, job.result) for job in got.jobs] == [("bad", "unknown_tool", None)]


@pytest.mark.parametrize("cursor", ["abc", "-1", "1.5", "٣", "9" * 30, "m1.2", "q", "m1.2.x"])
@pytest.mark.parametrize("state", [None, "queued", "failed"])
async def test_a_cursor_of_nobodys_is_refused(cursor: str, state: str | None) -> None:
    async with slow_bench() as b:
        await b.fleet("one", scheduler=SMALL)
        asked = {"cursor": cursor, **({"state": state} if state else {})}
        reply = await b.ask("jobs", "acme", payload=msgspec.json.encode(asked))
        error = msgspec.json.decode(reply.payload)["error"]
        assert (error["code"], error["details"]) == ("invalid_request", {"path": "cursor"})
