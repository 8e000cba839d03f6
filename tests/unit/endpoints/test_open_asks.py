"""What becomes of open asks when the replica that was asked ends."""

import asyncio
import json

import pytest

from sidecar.errors import BusUnavailable
from sidecar.ports.bus import Reply
from sidecar.runtime.grace import Grace
from tests.support.fleet import slow
from tests.support.replica import Bench, bench


def asking(b: Bench, **headers: str) -> "asyncio.Task[Reply]":
    return asyncio.create_task(b.ask("ask", "acme", "standard", payload=b"a question", headers=headers))


async def answer(b: Bench, ask: "asyncio.Task[Reply]") -> Reply:
    async def wait() -> Reply:
        return await ask

    return await b.clock.run(wait(), limit_s=600)


def job_named_by(reply: Reply) -> str:
    assert reply.headers["Nats-Service-Error-Code"] == "503"
    error = json.loads(reply.payload)["error"]
    job: str = error["details"]["job"]
    assert f"Llm-Job-Id: {job}" in error["message"]
    return job


async def test_a_lone_replica_says_at_once_which_job_goes_on() -> None:
    """Nobody is there who could end it within the grace."""
    async with bench(slow(60.0)) as b:
        only = await b.replica("one", scheduler={"slots": 1})
        running = asking(b)
        await b.clock.advance(1.0)
        queued = asking(b)
        await b.clock.advance(1.0)
        began = b.clock.monotonic()
        await b.stop(only, grace_s=5.0)
        assert b.clock.monotonic() - began < 6.0
        jobs = {job_named_by(await answer(b, running)), job_named_by(await answer(b, queued))}
        assert len(jobs) == 2
        await b.replica("two")
        for job in jobs:
            assert (await b.result(job)).state == "succeeded"
        again = asking(b, **{"Llm-Job-Id": job_named_by(await answer(b, running))})
        await b.clock.advance(1.0)
        assert json.loads((await answer(b, again)).payload)["state"] == "succeeded"


@pytest.mark.parametrize(("takes_s", "is_answered"), [(10.0, True), (100.0, False)])
async def test_where_others_go_on_with_the_job_the_ask_is_open_for_the_grace(
    takes_s: float, is_answered: bool
) -> None:
    async with bench(slow(takes_s)) as b:
        # The first to be there is the one that is asked.
        one, two = await b.fleet("one", "two", slots=1)
        open_asks = [asking(b), asking(b)]
        await b.clock.advance(1.0)
        assert (one.requests.running, two.requests.running) == (1, 1)
        await b.stop(one, grace_s=30.0)
        await b.clock.settle()
        replies = [await answer(b, ask) for ask in open_asks]
        if is_answered:
            assert [json.loads(reply.payload)["state"] for reply in replies] == ["succeeded"] * 2
        else:
            assert len({job_named_by(reply) for reply in replies}) == 2


async def test_a_draining_replica_takes_no_more_asks_and_answers_all_else() -> None:
    async with bench(slow(10.0)) as b:
        only = await b.replica("one")
        job = await b.submit()
        await b.clock.advance(1.0)
        b.replicas.remove(only)
        stopping = asyncio.create_task(only.drain(Grace(b.clock, 30.0)))
        await b.clock.settle()
        assert b'"running"' in (await b.ask("get", "acme", job)).payload
        refused = asking(b)
        with pytest.raises(BusUnavailable, match="nobody"):
            await answer(b, refused)
        await b.clock.advance(60.0)
        await stopping
