"""What `cancel` answers, wherever in its life the job is and whichever replica is asked: what has come of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from sidecar.endpoints.jobs import CANCEL_WAIT_S
from sidecar.models.api import CancelReply
from sidecar.models.call import ModelCall
from sidecar.ports.bus import Query
from sidecar.replica import Replica
from tests.support.replica import MODEL, Bench, bench
from tests.support.scripted_model import ScriptedModel, Turn, calls_tools, says
from tests.support.tool_jobs import Providers, call
from tests.support.virtual_time import VirtualClock

LLM_JOB: dict[str, Any] = {"llm.job": {"prompt": "Do: {{task}}", "model": MODEL, "max_tokens": 50}}
SETTINGS: dict[str, Any] = {
    "job_tools": LLM_JOB,
    "scheduler": {"slots": 2, "interactive_reserve": 0.0, "window": 2},
}
SLOW = says("x" * 200, pieces=200, delta_s=0.5)


def first_words(asked: ModelCall) -> Turn:
    """What a job asks for says how it is answered."""
    text = asked.messages[0].content
    if text == "tool":
        return calls_tools(call("t", "u1"))
    if text == "child":
        return calls_tools(call("llm.job", "u1", task="long"))
    return says("quick") if text == "quick" else SLOW


async def ask(replica: Replica, job: str) -> CancelReply:
    """Cancel by way of this replica."""
    query = Query("cancel", ("acme", job), b"", {})
    reply = await replica.queries.cancel(query)
    return msgspec.json.decode(reply.payload, type=CancelReply)


async def say(b: Bench, text: str, **more: Any) -> str:
    request = {"messages": [{"role": "user", "content": text}], "model": MODEL, **more}
    return await b.submit(request)


async def running(b: Bench) -> str:
    job = await say(b, "go on")
    await b.until(lambda: len(b.model.calls) == 1)
    return job


async def streaming(b: Bench) -> str:
    job = await say(b, "go on", stream=True)
    await b.clock.advance(3.0)
    return job


async def in_the_window(b: Bench) -> str:
    await fill(b)
    job = await say(b, "go on")
    await b.clock.advance(0.5)
    return job


async def behind_the_window(b: Bench) -> str:
    await fill(b)
    jobs = [await say(b, "quick") for _ in range(8)]
    await b.clock.advance(0.5)
    return jobs[-1]


async def just_published(b: Bench) -> str:
    return await say(b, "go on")


async def in_a_tool(b: Bench) -> str:
    tools = Providers(b)
    await tools.add("t", takes_s=100.0, timeout_s=300)
    job = await say(b, "tool", tools=["t"])
    await b.until(lambda: tools.times("t") == 1)
    await b.clock.advance(1.0)
    return job


async def above_another(b: Bench) -> str:
    job = await say(b, "child", tools=["llm.job"])
    await b.until(lambda: len(b.model.calls) == 2)
    return job


async def below_another(b: Bench) -> str:
    return f"{await above_another(b)}-c1-0"


async def unknown(b: Bench) -> str:
    return "nobody"


async def ended(b: Bench) -> str:
    job = await say(b, "quick")
    await b.result(job)
    return job


async def fill(b: Bench) -> None:
    for _ in range(4):
        await b.submit(tenant="busy")
    await b.clock.advance(0.5)


PATHS = (
    running,
    streaming,
    in_the_window,
    behind_the_window,
    just_published,
    in_a_tool,
    above_another,
    below_another,
    unknown,
    ended,
)
LATER = (unknown,)


@pytest.mark.parametrize("asked", ["leader", "follower"])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
async def test_the_answer_says_what_has_come_of_it(path: Callable[[Bench], Awaitable[str]], asked: str) -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, first_words)) as b:
        await b.fleet("one", "two", **SETTINGS)
        job = await path(b)
        replica = b.leader if asked == "leader" else b.followers[0]
        began = clock.monotonic()
        # Twice at once: both get the same answer.
        first, second = await clock.run(two(replica, job))
        assert first == second
        assert clock.monotonic() - began <= CANCEL_WAIT_S + 0.1
        assert (first.cancelled, first.requested) == (path not in (*LATER, ended), path in LATER)
        assert first.state == {unknown: "unknown", ended: "succeeded"}.get(path, "cancelled")
        if path is not unknown:
            assert (await b.result(job)).state == ("succeeded" if path is ended else "cancelled")
            again = await clock.run(ask(replica, job))
            assert (again.cancelled, again.requested) == (path is not ended, False)


async def two(replica: Replica, job: str) -> list[CancelReply]:
    return await asyncio.gather(ask(replica, job), ask(replica, job))


@pytest.mark.parametrize("replicas", [1, 2])
async def test_whatever_moment_it_comes_the_answer_is_true(replicas: int) -> None:
    """Jobs that last half a second, cancelled at each hundredth of it and beyond."""
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=says("ok", first_s=0.5))) as b:
        await b.fleet(*("one", "two")[:replicas], slots=200)
        seen = set()
        for i in range(60):
            job = await b.submit()
            await clock.advance(i * 0.01)
            reply = await clock.run(ask(b.replicas[i % replicas], job))
            result = await b.result(job)
            assert not reply.requested
            assert reply.state == result.state
            assert reply.cancelled == (result.state == "cancelled")
            seen.add(result.state)
        assert seen == {"cancelled", "succeeded"}


async def test_an_end_that_takes_longer_than_the_answer_may_is_still_to_come() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=SLOW)) as b:
        owner, other = await b.fleet("one", "two")
        job = await running(b)
        stored = await b.stored(job)
        assert stored is not None
        owner, other = (owner, other) if stored.state.owner == owner.name else (other, owner)
        b.bus.partition(owner.name)
        reply = await clock.run(ask(other, job))
        assert (reply.state, reply.cancelled, reply.requested) == ("running", False, True)
        b.bus.heal(owner.name)
        assert (await b.result(job)).state == "cancelled"


async def test_a_result_that_was_only_heard_is_not_believed() -> None:
    """Whoever can publish to a job's subject cannot make the answer say that the job has ended."""
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=SLOW)) as b:
        (replica,) = await b.fleet("one")
        asking = asyncio.ensure_future(ask(replica, "nobody"))
        await clock.settle()
        b.bus.publish(b.bus.subjects.event("acme", "nobody", "result"), b"nonsense")
        reply = await clock.run(_of(asking))
        assert (reply.state, reply.cancelled, reply.requested) == ("unknown", False, True)


async def _of(asking: "asyncio.Future[CancelReply]") -> CancelReply:
    return await asking
