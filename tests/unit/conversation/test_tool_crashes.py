"""Owners of jobs with tools that die at every step: what was journalled is never done twice, nothing is lost."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import pytest

from sidecar.job_manager.journal import StepJournal, read
from sidecar.models.call import UnreadableCall
from sidecar.models.codec import decode_state
from sidecar.models.job import JobState
from sidecar.models.result import Result, Usage
from sidecar.replica import Replica
from tests.support.jetstream.faults import Fault, Operation
from tests.support.replica import Bench, bench
from tests.support.scripted_model import Turn, calls_tools, says
from tests.support.tool_jobs import Called, Providers, activities, by_turn, call, results, value
from tests.support.virtual_time import VirtualClock

NAMES = ("a", "b", "c", "d", "e")
USAGE = Usage(input_tokens=100, output_tokens=10)
THREE_TURNS: tuple[Turn, ...] = (
    calls_tools(call("a"), call("b"), usage=USAGE),
    calls_tools(call("c"), call("d"), usage=USAGE),
    calls_tools(call("e"), usage=USAGE),
    says("all done", usage=USAGE),
)
# Of a job's owner, in the order in which they occur: where it may die.
STEPS = 29


class Told(NamedTuple):
    """A job that was interrupted: what was journalled then, and what came of it."""

    journal: StepJournal
    result: Result
    log: Sequence[Called]
    asked: Sequence[Any]
    is_hit: bool


def steps_of(b: Bench, job: str) -> StepJournal:
    return read(entry.payload for entry in b.bus.jobs.find(f"$KV.LLM_JOB.acme.{job}.journal"))


class Assassin:
    """Kills a job's owner at its operation number `at`: before it happens, or right after."""

    def __init__(self, b: Bench, *, at: int, after: bool) -> None:
        self._b = b
        self._left = at
        self._after = after
        self.journal: StepJournal | None = None
        self.document: JobState | None = None

    def __call__(self, operation: Operation) -> Fault:
        if self.journal is not None or not self._concerns(operation):
            return Fault()
        self._left -= 1
        if self._left >= 0:
            return Fault()
        self.journal = steps_of(self._b, "job1")
        self._b.clock.call_later(0.001, self._look)
        owner = next(replica for replica in self._b.replicas if replica.name == operation.replica)
        if not self._after:
            self._b.kill(owner)
            return Fault()
        self._b.replicas.remove(owner)
        self._b.dead.append(owner)
        self._b.clock.call_later(0.0, lambda: self._b.bus.kill(owner.name))
        return Fault(lose="ack")

    def _look(self) -> None:
        found = self._b.bus.jobs.last("$KV.LLM_JOB.acme.job1")
        self.document = decode_state(found.payload) if found is not None else None

    def _concerns(self, operation: Operation) -> bool:
        if operation.name.startswith(("tools.call", "journal")):
            return operation.replica != "client"
        is_of_job = "job1" in operation.subject and operation.replica in ("one", "two")
        return is_of_job and operation.name in ("events.publish", "jobs.update", "jobs.create")


async def interrupted(at: int, *, after: bool = False, **settings: Any) -> Told:
    clock = VirtualClock()
    async with bench(by_turn(clock, *THREE_TURNS)) as b:
        await b.fleet("one", "two", **settings)
        tools = Providers(b)
        for name in NAMES:
            await tools.add(name, takes_s=0.02, idempotent=name in "ad")
        assassin = Assassin(b, at=at, after=after)
        b.bus.faults = assassin
        await b.submit(job="job1", tools=list(NAMES))
        result = await b.result("job1", limit_s=200)
        await clock.advance(5)
        left = list(b.bus.jobs.find("$KV.LLM_JOB.acme.job1.journal"))
        is_over = assassin.document is not None and assassin.document.is_terminal
        assert is_over or not left, "the steps are forgotten with the job"
        assert all(e.expires_at is not None and e.expires_at < clock.now() + 1300 for e in left), (
            "or a little later"
        )
        assert b.requests() == 0
        events = await b.events("job1")
        assert sum(event.type == "result" for event in events) == 1
        ledger = b.leader.scheduler.ledger
        assert (ledger.slots_used, len(ledger.open)) == (0, 0)
        return Told(
            assassin.journal or StepJournal(),
            result,
            tools.log,
            b.model.calls,
            is_hit=assassin.journal is not None,
        )


def check(told: Told) -> None:
    result, log = told.result, told.log
    assert (result.state, result.output.text) == ("succeeded", "all done")
    last = told.asked[-1]
    said = [message for message in last.messages if message.role == "user"][1:]
    assert [len(message.content) for message in said] == [2, 2, 1]
    assert [b.tool_use_id for message in said for b in message.content] == [f"use-{name}" for name in NAMES]
    kept = {turn.answer.calls[kept.call].name for turn in told.journal.turns for kept in turn.results}
    for name in NAMES:
        calls = [called for called in log if called.tool == name]
        if name in kept:
            assert len(calls) == 1, f"{name} had its result journalled"
        assert len({called.headers["Idempotency-Key"] for called in calls}) <= 1
        assert len(calls) <= 2


@pytest.mark.parametrize(
    ("at", "after"), [*((at, False) for at in range(STEPS)), *((at, True) for at in range(0, STEPS, 2))]
)
async def test_an_owner_that_dies_at_any_step_of_five_tools_in_three_turns(at: int, after: bool) -> None:
    told = await interrupted(at, after=after)
    assert told.is_hit
    check(told)
    for name in "bce":
        assert sum(called.tool == name for called in told.log) <= 1, "not safe to repeat, and nobody allowed it"
    turns = len(told.journal.turns)
    ok = [attempt for attempt in told.result.attempts if attempt.outcome == "ok"]
    assert len(ok) in (4, 5), f"the {turns} turns that were journalled are paid once"


@pytest.mark.parametrize("at", range(0, STEPS, 4))
async def test_calls_of_unknown_outcome_are_repeated_where_the_setting_says_so(at: int) -> None:
    told = await interrupted(at, jobs={"unknown_tool_outcome": "repeat"})
    check(told)
    assert {called.tool for called in told.log} == set(NAMES)
    said = [message for message in told.asked[-1].messages if message.role == "user"][1:]
    assert [value(block) for message in said for block in message.content] == [{"tool": name} for name in NAMES]


async def test_there_are_as_many_steps_as_are_tried() -> None:
    assert not (await interrupted(STEPS)).is_hit


async def test_a_call_that_was_sent_and_never_answered_is_told_as_such() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("pay"), call("look")])) as b:
        await b.fleet("one", "two")
        tools = Providers(b)
        await tools.add("pay", takes_s=8.0)
        await tools.add("look", takes_s=8.0, idempotent=True)
        job = await b.submit(tools=["pay", "look"])
        await b.until(lambda: len(tools.log) == 2)
        await clock.advance(1)
        stored = await b.stored(job)
        assert stored is not None
        (owner,) = [replica for replica in b.replicas if replica.name == stored.state.owner]
        b.kill(owner)
        assert (await b.result(job)).state == "succeeded"
        assert (tools.times("pay"), tools.times("look")) == (1, 2)
        told, repeated = results(b.model.calls[-1])
        assert told.is_error
        assert "not known" in value(told)
        assert value(repeated) == {"tool": "look"}
        keys = [called.headers["Idempotency-Key"] for called in tools.log if called.tool == "look"]
        assert keys[0] == keys[1]
        events = await b.events(job)
        assert [(a.phase, a.tool) for a in activities([e for e in events if e.attempt == 2])] == [
            ("failed", "pay"),
            ("called", "look"),
            ("returned", "look"),
        ]


async def in_the_last_call(b: Bench) -> tuple[Providers, str, Replica]:
    """A job whose five tools were called, the last of which takes its time, and the job's owner."""
    tools = Providers(b)
    for name in NAMES:
        await tools.add(name, takes_s=3.0 if name == "e" else 0.0, idempotent=True)
    job = await b.submit(tools=list(NAMES))
    await b.until(lambda: tools.times("e") == 1)
    stored = await b.stored(job)
    assert stored is not None
    (owner,) = [replica for replica in b.replicas if replica.name == stored.state.owner]
    return tools, job, owner


async def test_a_job_that_is_handed_back_goes_on_elsewhere() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, *THREE_TURNS)) as b:
        await b.fleet("one", "two")
        tools, job, owner = await in_the_last_call(b)
        await b.stop(owner)
        result = await b.result(job)
        assert result.state == "succeeded"
        assert [tools.times(name) for name in NAMES] == [1, 1, 1, 1, 2]
        assert len(b.model.calls) == 4, "no turn is taken twice"
        assert result.usage == Usage(input_tokens=400, output_tokens=40)
        assert [attempt.outcome for attempt in result.attempts] == ["ok"] * 4


async def test_the_bill_of_a_lost_owner_is_exact_where_it_was_journalled() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, *THREE_TURNS)) as b:
        await b.fleet("one", "two")
        tools, job, owner = await in_the_last_call(b)
        b.kill(owner)
        result = await b.result(job)
        assert [tools.times(name) for name in NAMES] == [1, 1, 1, 1, 2]
        assert [attempt.outcome for attempt in result.attempts] == ["ok"] * 4
        assert (result.usage, result.usage_basis) == (Usage(input_tokens=400, output_tokens=40), "observed")
        assert result.warnings == ()


async def kill_owner(b: Bench, job: str) -> None:
    stored = await b.stored(job)
    assert stored is not None
    b.kill(next(replica for replica in b.replicas if replica.name == stored.state.owner))


async def test_a_job_that_comes_on_with_every_owner_is_no_loop() -> None:
    clock = VirtualClock()
    turns = [calls_tools(call("a", f"u{i}"))._replace(first_s=4.0) for i in range(5)]
    async with bench(by_turn(clock, *turns)) as b:
        await b.fleet(*(f"r{i}" for i in range(7)), jobs={"max_attempts": 2})
        tools = Providers(b)
        await tools.add("a", idempotent=True)
        await b.submit(job="job1", tools=["a"], timeout_s=500)
        for lost in range(4):
            await b.until(lambda so_far=lost: len(steps_of(b, "job1").turns) > so_far)  # type: ignore[misc]
            # In the next turn, whose call is under way.
            await clock.advance(1)
            await kill_owner(b, "job1")
        result = await b.result("job1")
        assert result.state == "succeeded", result.error
        assert tools.times("a") == 5


async def test_a_job_that_takes_its_owners_down_at_the_same_step_is_one() -> None:
    clock = VirtualClock()
    slow = calls_tools(call("a", "u1"))._replace(first_s=4.0)
    async with bench(by_turn(clock, [call("a", "u0")], slow)) as b:
        await b.fleet(*(f"r{i}" for i in range(6)), jobs={"max_attempts": 2})
        tools = Providers(b)
        await tools.add("a", idempotent=True)
        await b.submit(job="job1", tools=["a"], timeout_s=500)
        for calls in range(2, 6):
            await b.until(lambda so_far=calls: len(b.model.calls) >= so_far)  # type: ignore[misc]
            await clock.advance(1)
            await kill_owner(b, "job1")
        result = await b.result("job1")
        assert result.error is not None
        assert result.error.code == "crash_loop"
        assert tools.times("a") == 1


async def test_a_turn_that_was_lost_is_taken_again_and_the_lost_one_is_estimated() -> None:
    clock = VirtualClock()
    slow = says("all done", usage=USAGE, first_s=2.0)
    async with bench(by_turn(clock, *THREE_TURNS[:3], slow)) as b:
        await b.fleet("one", "two")
        tools = Providers(b)
        for name in NAMES:
            await tools.add(name)
        job = await b.submit(tools=list(NAMES))
        await b.until(lambda: len(b.model.calls) == 4)
        await clock.advance(0.5)
        stored = await b.stored(job)
        assert stored is not None
        (owner,) = [replica for replica in b.replicas if replica.name == stored.state.owner]
        b.kill(owner)
        result = await b.result(job)
        assert [tools.times(name) for name in NAMES] == [1] * 5
        outcomes = sorted(attempt.outcome for attempt in result.attempts)
        assert outcomes == ["crashed", "ok", "ok", "ok", "ok"]
        assert result.usage_basis == "estimated"
        assert result.usage.input_tokens > 400


async def test_a_new_owner_takes_no_call_that_went_back_to_the_model_for_its_clients() -> None:
    inline = {"name": "own", "description": "of the client", "input_schema": {"type": "object"}}
    broken = calls_tools(call("own"), call("a"))
    reply = msgspec.structs.replace(
        broken.reply, unreadable=(UnreadableCall(call=0, problem="it is cut", raw={"toolUse": {}}),)
    )
    async with bench(by_turn(VirtualClock(), broken._replace(reply=reply), says("done"))) as b:
        await b.fleet("one", "two")
        tools = Providers(b)
        await tools.add("a", takes_s=20.0, idempotent=True)
        job = await b.submit(job="job1", tools=["a", inline])
        await b.until(lambda: bool(tools.log))
        stored = await b.stored(job)
        assert stored is not None
        b.kill(next(replica for replica in b.replicas if replica.name == stored.state.owner))
        result = await b.result(job, limit_s=200)
        assert (result.state, result.output.text) == ("succeeded", "done")
        assert [block.tool_use_id for block in results(b.model.calls[-1])] == ["use-own", "use-a"]
