"""The tool loop in virtual time: turns, order, bounds, and every way a tool can fail."""

from typing import Any

import pytest

from sidecar.errors import Permanent
from sidecar.job_manager.journal import Step, TurnAnswer, read
from sidecar.models.call import ModelCall
from sidecar.models.codec import encode
from sidecar.models.content import TextBlock, ToolUseBlock
from sidecar.models.event import Delta, Status
from sidecar.models.result import Usage
from tests.support.replica import MODEL, Bench, bench
from tests.support.scripted_model import ScriptedModel, Turn, calls_tools, reply_of, says
from tests.support.tool_jobs import Providers, activities, by_turn, call, results, value
from tests.support.virtual_time import VirtualClock

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def journalled(b: Bench) -> int:
    """Steps that are kept: what a purge leaves for a second is empty."""
    return len([e for e in b.bus.jobs.find("$KV.LLM_JOB.>") if e.subject.endswith(".journal") and e.payload])


async def test_a_tool_is_called_and_its_output_goes_back_to_the_model() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("add", n=2)], says("four"))) as b:
        replica = await b.replica()
        tools = Providers(b)
        await tools.add("add", lambda given: {"sum": given["n"] + 2}, input_schema=NUMBER)
        job = await b.submit(job="job1", tools=["add@^1"])
        result = await b.result(job)
        assert (result.state, result.output.text, result.stop_reason) == ("succeeded", "four", "end_turn")
        first, second = b.model.calls
        assert [spec.name for spec in first.tools] == ["add"]
        assert first.tools[0].input_schema == NUMBER
        assert value(results(second)[0]) == {"sum": 4}
        (made,) = tools.log
        assert made.input == {"n": 2}
        assert made.headers["Llm-Job-Id"] == "job1"
        assert made.headers["Llm-Tenant"] == "acme"
        assert made.headers["Llm-Tool-Use-Id"] == "use-add"
        assert made.headers["Idempotency-Key"] == "acme.job1.1.0"
        assert made.headers["Llm-Deadline"]
        called, returned = activities(await b.events(job))
        assert (called.phase, called.tool, called.version, called.input) == ("called", "add", "1.0.0", {"n": 2})
        assert (returned.phase, returned.output, returned.tool_use_id) == ("returned", {"sum": 4}, "use-add")
        assert returned.elapsed_ms is not None
        assert result.usage == Usage(input_tokens=20, output_tokens=10)
        assert len(result.attempts) == 2
        assert journalled(b) == 0, "the steps are forgotten with the job"
        assert (replica.scheduler.ledger.slots_used, len(replica.scheduler.ledger.open)) == (0, 0)


async def test_a_job_without_tools_writes_no_step() -> None:
    async with bench() as b:
        await b.replica()
        await b.result(await b.submit())
        assert not [op for op in b.bus.operations if op.name.startswith("journal")]


async def test_results_come_in_the_order_of_the_calls_however_long_each_takes() -> None:
    clock = VirtualClock()
    names = ["a", "b", "c", "d"]
    async with bench(by_turn(clock, [call(name) for name in names])) as b:
        await b.replica()
        tools = Providers(b)
        for place, name in enumerate(names):
            await tools.add(name, takes_s=0.5 - place / 10)
        began = clock.monotonic()
        await b.result(await b.submit(tools=names))
        assert clock.monotonic() - began < 0.8, "they run at the same time"
        assert [r.tool_use_id for r in results(b.model.calls[1])] == [f"use-{name}" for name in names]
        assert [value(r) for r in results(b.model.calls[1])] == [{"tool": name} for name in names]


async def test_no_more_calls_at_once_than_allowed() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("slow", f"u{i}") for i in range(5)])) as b:
        await b.replica(jobs={"max_parallel_tools": 2})
        tools = Providers(b)
        await tools.add("slow", takes_s=1.0)
        await b.result(await b.submit(tools=["slow"]))
        starts = sorted(round(made.at) for made in tools.log)
        assert [starts.count(at) for at in sorted(set(starts))] == [2, 2, 1]
        assert [r.tool_use_id for r in results(b.model.calls[1])] == [f"u{i}" for i in range(5)]


async def test_a_hundred_jobs_with_four_tools_each_keep_their_results_in_order() -> None:
    clock = VirtualClock()

    def choose(asked: ModelCall) -> Turn:
        if len(asked.messages) > 1:
            return says("ok")
        text = asked.messages[0].content
        return calls_tools(*(call("echo", f"u{i}", of=text, n=i) for i in range(4)))

    async with bench(ScriptedModel(clock, choose)) as b:
        await b.fleet("one", "two", slots=20)
        tools = Providers(b)
        await tools.add("echo", lambda given: given)
        jobs = [
            await b.submit(
                {"messages": [{"role": "user", "content": f"job {i}"}], "model": MODEL, "tools": ["echo"]}
            )
            for i in range(100)
        ]
        for job in jobs:
            assert (await b.result(job)).state == "succeeded"
        seconds = [asked for asked in b.model.calls if len(asked.messages) > 1]
        assert len(seconds) == 100
        for asked in seconds:
            text = asked.messages[0].content
            assert [value(r) for r in results(asked)] == [{"of": text, "n": i} for i in range(4)]


async def test_a_slow_tool_does_not_hold_the_slot() -> None:
    clock = VirtualClock()

    def choose(asked: ModelCall) -> Turn:
        has_tools = bool(asked.tools) and len(asked.messages) == 1
        return calls_tools(call("slow")) if has_tools else says("ok")

    async with bench(ScriptedModel(clock, choose)) as b:
        (replica,) = await b.fleet("one", slots=1)
        tools = Providers(b)
        await tools.add("slow", takes_s=20.0)
        first = await b.submit(tools=["slow"])
        await b.until(lambda: bool(tools.log))
        began = clock.monotonic()
        others = [await b.submit() for _ in range(3)]
        for other in others:
            assert (await b.result(other)).state == "succeeded"
        assert clock.monotonic() - began < 5
        assert (replica.requests.running, replica.stats().slots_used) == (1, 0)
        stored = await b.stored(first)
        assert stored is not None
        assert stored.state.state == "waiting"
        assert (await b.result(first)).state == "succeeded"
        said = [e.data for e in await b.events(first) if isinstance(e.data, Status)]
        assert [(s.state, s.waiting_for) for s in said] == [
            ("running", None),
            ("waiting", "tool"),
            ("running", None),
        ]
        assert replica.scheduler.ledger.slots_used == 0


async def test_a_short_tool_keeps_the_slot_and_says_nothing_of_waiting() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("quick")])) as b:
        await b.replica()
        await Providers(b).add("quick", takes_s=0.03)
        job = await b.submit(tools=["quick"])
        await b.result(job)
        said = [e.data.state for e in await b.events(job) if isinstance(e.data, Status)]
        assert said == ["running", "running"]


async def test_a_later_turn_runs_on_another_replica_than_the_scheduler() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, *([call("slow", f"u{i}")] for i in range(3)))) as b:
        await b.fleet("one", "two", slots=2)
        tools = Providers(b)
        await tools.add("slow", takes_s=2.0)
        jobs = [await b.submit(tools=["slow"]) for _ in range(6)]
        for job in jobs:
            assert (await b.result(job)).state == "succeeded"
        owners = set()
        for job in jobs:
            stored = await b.stored(job)
            assert stored is not None
            owners.add(stored.state.owner)
        assert owners == {"one", "two"}
        assert tools.times("slow") == 18
        await clock.advance(3)
        ledger = b.leader.scheduler.ledger
        assert (ledger.slots_used, len(ledger.open)) == (0, 0)


# Every way that a tool can fail: the model is told, the job goes on.


async def failing(**how: Any) -> tuple[str, list[Any], Any]:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("t", n=1)], says("went on"))) as b:
        await b.replica()
        await Providers(b).add("t", **how)
        job = await b.submit(tools=["t"])
        result = await b.result(job)
        assert result.state == "succeeded"
        assert result.output.text == "went on"
        (block,) = results(b.model.calls[1])
        assert block.is_error
        assert isinstance(block.content, str)
        phases = [a.phase for a in activities(await b.events(job))]
        (error,) = [a.error for a in activities(await b.events(job), "failed")]
        assert error is not None
        assert error.code == "tool_failed"
        return block.content, phases, error


async def test_an_absent_provider() -> None:
    text, phases, _ = await failing(is_served=False)
    assert "no provider" in text
    assert phases == ["called", "failed"]


async def test_a_provider_that_does_not_answer_in_time() -> None:
    text, phases, _ = await failing(takes_s=60.0, timeout_s=5)
    assert "did not answer within 5 s" in text
    assert "not known" in text, "it may have taken effect"
    assert phases == ["called", "failed"]


@pytest.mark.parametrize("raw", [b"not json {", b"\xff\xfe", b"[" * 100 + b"]" * 100, b'{"a":'])
async def test_a_provider_that_replies_garbage(raw: bytes) -> None:
    text, phases, _ = await failing(raw=raw)
    assert "cannot be read" in text
    assert phases == ["called", "failed"]


async def test_a_provider_that_replies_with_an_error() -> None:
    def fail(_: Any) -> Any:
        raise Permanent("no such\x00 order", code="not_found")

    text, phases, _ = await failing(answer=fail)
    assert "no such order" in text
    assert phases == ["called", "failed"]


async def test_an_output_that_the_tool_did_not_promise() -> None:
    text, phases, _ = await failing(answer=lambda _: {"n": "x"}, output_schema=NUMBER)
    assert "not what it promised" in text
    assert "n" in text
    assert phases == ["called", "failed"]


async def test_an_input_that_does_not_fit_is_never_sent() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("t", n="two")], [call("t", n=2)])) as b:
        await b.replica()
        tools = Providers(b)
        await tools.add("t", input_schema=NUMBER)
        job = await b.submit(tools=["t"])
        assert (await b.result(job)).state == "succeeded"
        assert [made.input for made in tools.log] == [{"n": 2}]
        (block,) = results(b.model.calls[1])
        assert block.is_error
        assert "properties" in value(block)
        assert [a.phase for a in activities(await b.events(job))] == ["failed", "called", "returned"]


async def test_the_third_unusable_input_in_a_row_ends_the_job() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, *([call("t", n="x")] for _ in range(9)))) as b:
        await b.replica()
        tools = Providers(b)
        await tools.add("t", input_schema=NUMBER)
        result = await b.result(await b.submit(tools=["t"]))
        assert result.state == "failed"
        assert result.error is not None
        assert result.error.code == "tool_failed"
        assert result.error.details["tool"] == "t"
        assert len(b.model.calls) == 3
        assert tools.log == []
        assert journalled(b) == 0


async def test_a_usable_input_in_between_forgives() -> None:
    clock = VirtualClock()
    bad, good = [call("t", n="x")], [call("t", n=1)]
    async with bench(by_turn(clock, bad, bad, good, bad, bad, says("ok"))) as b:
        await b.replica()
        await Providers(b).add("t", input_schema=NUMBER)
        assert (await b.result(await b.submit(tools=["t"]))).state == "succeeded"


async def test_a_tool_that_does_not_exist_is_told_with_those_that_do() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("nope"), call("t")])) as b:
        await b.replica()
        tools = Providers(b)
        await tools.add("t")
        assert (await b.result(await b.submit(tools=["t"]))).state == "succeeded"
        first, second = results(b.model.calls[1])
        assert (first.is_error, second.is_error) == (True, False)
        assert "there are: t" in value(first)
        assert tools.times("t") == 1


async def test_cut_arguments_are_never_run() -> None:
    clock = VirtualClock()
    cut = Turn(reply=reply_of((TextBlock(text="so"), call("t")), "max_tokens"))
    async with bench(ScriptedModel(clock, [cut])) as b:
        await b.replica()
        tools = Providers(b)
        await tools.add("t")
        result = await b.result(await b.submit(tools=["t"]))
        assert (result.state, result.stop_reason) == ("succeeded", "max_tokens")
        assert tools.log == []


async def test_a_long_output_is_cut_and_that_is_said() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("t")])) as b:
        await b.replica(jobs={"max_tool_output_bytes": 1000})
        await Providers(b).add("t", lambda _: {"text": "ä" * 5000})
        job = await b.submit(tools=["t"])
        result = await b.result(job)
        (block,) = results(b.model.calls[1])
        assert not block.is_error
        assert "cut" in value(block)
        assert len(value(block).encode()) < 1200
        assert any("t was cut" in warning for warning in result.warnings)
        (returned,) = activities(await b.events(job), "returned")
        assert returned.output == value(block)


async def test_large_results_of_one_moment_fit_the_bus() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("t", f"u{i}") for i in range(8)])) as b:
        await b.replica(jobs={"max_tool_output_bytes": 262_144})
        await Providers(b).add("t", lambda _: '"\\' * 120_000)
        result = await b.result(await b.submit(tools=["t"]))
        assert result.state == "succeeded", result.error
        assert len(results(b.model.calls[1])) == 8


async def test_control_characters_do_not_reach_the_model() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("t")])) as b:
        await b.replica()
        await Providers(b).add("t", lambda _: {"a\x1bb": ["x\x00y\tz\n", {"k": "\x9b31m"}]})
        await b.result(await b.submit(tools=["t"]))
        assert value(results(b.model.calls[1])[0]) == {"ab": ["xy\tz\n", {"k": "31m"}]}


@pytest.mark.parametrize(("output", "text"), [("plain", "plain"), ([1, 2], "[1,2]"), (None, "null"), (7, "7")])
async def test_outputs_that_are_no_objects(output: Any, text: str) -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("t")])) as b:
        await b.replica()
        await Providers(b).add("t", lambda _: output)
        await b.result(await b.submit(tools=["t"]))
        assert value(results(b.model.calls[1])[0]) == text


async def test_ids_that_a_model_repeats_are_told_apart() -> None:
    clock = VirtualClock()
    turns = ([call("a", "same"), call("b", "same")], [call("a", "same")])
    async with bench(by_turn(clock, *turns)) as b:
        await b.replica()
        tools = Providers(b)
        await tools.add("a")
        await tools.add("b")
        assert (await b.result(await b.submit(tools=["a", "b"]))).state == "succeeded"
        assert [r.tool_use_id for r in results(b.model.calls[1])] == ["same", "same_2"]
        assert [value(r) for r in results(b.model.calls[1])] == [{"tool": "a"}, {"tool": "b"}]
        assert [r.tool_use_id for r in results(b.model.calls[2])] == ["same_3"]
        assert len({made.headers["Idempotency-Key"] for made in tools.log}) == 3


# Bounds.


async def test_an_unknown_tool_is_refused_before_the_job_runs() -> None:
    async with bench() as b:
        await b.replica()
        result = await b.result(await b.submit(tools=["nobody"]))
        assert result.state == "rejected"
        assert result.error is not None
        assert result.error.code == "unknown_tool"
        assert result.error.details["path"] == "tools[0]"
        assert b.model.calls == []


async def test_a_tool_that_the_policy_does_not_allow_is_refused() -> None:
    async with bench() as b:
        await b.replica(tenants={"acme": {"tools": ["other"]}})
        await Providers(b).add("t")
        result = await b.result(await b.submit(tools=["t"]))
        assert result.error is not None
        assert result.error.code == "tenant_denied"


@pytest.mark.parametrize("budget", [{"max_turns": 3}, {"max_tool_calls": 2}])
async def test_a_model_that_never_ends_is_ended(budget: dict[str, int]) -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=calls_tools(call("t")))) as b:
        await b.replica()
        tools = Providers(b)
        await tools.add("t")
        result = await b.result(await b.submit(tools=["t"], budget=budget))
        assert result.error is not None
        assert (result.state, result.error.code) == ("failed", "too_many_turns")
        assert len(b.model.calls) == 3
        assert tools.times("t") == 2
        assert result.usage == Usage(input_tokens=30, output_tokens=15), "what it took is not lost"


async def test_the_settings_bound_the_turns_where_the_request_does_not() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=calls_tools(call("t")))) as b:
        await b.replica(jobs={"max_turns": 2})
        await Providers(b).add("t")
        result = await b.result(await b.submit(tools=["t"]))
        assert result.error is not None
        assert result.error.code == "too_many_turns"
        assert len(b.model.calls) == 2


async def test_the_budget_is_looked_at_before_each_turn() -> None:
    clock = VirtualClock()
    dear = calls_tools(call("t"), usage=Usage(input_tokens=10_000, output_tokens=1_000))
    async with bench(ScriptedModel(clock, default=dear)) as b:
        await b.replica()
        await Providers(b).add("t")
        result = await b.result(
            await b.submit(tools=["t"], params={"max_tokens": 1000}, budget={"max_cost_usd": 0.1})
        )
        assert result.error is not None
        assert result.error.code == "budget_exceeded"
        assert result.stop_reason == "budget"
        assert result.cost_usd is not None
        assert 0.05 < result.cost_usd <= 0.1
        assert 1 < len(b.model.calls) < 5


async def test_the_time_of_the_job_ends_a_tool_too() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("t")])) as b:
        await b.replica()
        tools = Providers(b)
        await tools.add("t", takes_s=100.0, timeout_s=3600)
        job = await b.submit(tools=["t"], timeout_s=5)
        result = await b.result(job)
        assert result.error is not None
        assert result.error.code == "timeout"
        assert tools.cancelled == ["t"]
        assert [a.phase for a in activities(await b.events(job))] == ["called", "failed"]


async def test_a_forced_tool_is_forced_in_the_first_turn_only() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("t")])) as b:
        await b.replica()
        await Providers(b).add("t")
        await b.result(await b.submit(tools=["t"], tool_choice="any"))
        assert [asked.tool_choice for asked in b.model.calls] == ["any", "auto"]


async def test_a_day_whose_money_is_spent_denies_the_next_turn() -> None:
    clock = VirtualClock()
    dear = calls_tools(call("t"), usage=Usage(input_tokens=10_000, output_tokens=1_000))
    async with bench(ScriptedModel(clock, default=dear)) as b:
        await b.fleet("one", tenants={"acme": {"budget_usd_per_day": 0.1}})
        await Providers(b).add("t", takes_s=1.0)
        result = await b.result(await b.submit(tools=["t"], params={"max_tokens": 1000}))
        assert result.error is not None
        assert result.error.code == "budget_exceeded"
        assert result.stop_reason == "budget"
        assert len(b.model.calls) < 5
        ledger = b.leader.scheduler.ledger
        assert (ledger.slots_used, len(ledger.open)) == (0, 0)


# The bus and the replicas around a job that waits for a tool.


async def test_a_new_scheduler_takes_over_a_job_that_waits_for_a_tool() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, *([call("slow", f"u{i}")] for i in range(2)))) as b:
        await b.fleet("one", "two", slots=2)
        tools = Providers(b)
        await tools.add("slow", takes_s=10.0)
        jobs = [await b.submit(tools=["slow"]) for _ in range(4)]
        await b.until(lambda: len(tools.log) == 4)
        leader = b.leader
        kept = []
        for job in jobs:
            stored = await b.stored(job)
            assert stored is not None
            if stored.state.owner != leader.name:
                kept.append(job)
        assert kept, "the other replica runs some of them"
        await clock.advance(1)
        b.kill(leader)
        for job in jobs:
            assert (await b.result(job, limit_s=200)).state == "succeeded"
        for job in kept:
            assert {e.attempt for e in await b.events(job)} == {1}, "their owner lived on"
        await clock.advance(5)
        ledger = b.leader.scheduler.ledger
        assert (ledger.slots_used, len(ledger.open)) == (0, 0)


async def test_a_bus_that_is_away_while_a_tool_runs() -> None:
    """A safe call is made again once the bus is back; of the other one the model learns that nothing is known."""
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("safe"), call("risky")])) as b:
        replica = await b.replica()
        tools = Providers(b)
        await tools.add("safe", idempotent=True, takes_s=1.0)
        await tools.add("risky", takes_s=1.0)
        job = await b.submit(tools=["safe", "risky"])
        await b.until(lambda: tools.times("safe") + tools.times("risky") == 2)
        b.bus.partition(replica.name)
        await clock.advance(20)
        b.bus.heal(replica.name)
        result = await b.result(job)
        assert result.state == "succeeded"
        safe, risky = results(b.model.calls[1])
        assert value(safe) == {"tool": "safe"}
        assert risky.is_error
        assert "not known" in value(risky)
        assert replica.scheduler.ledger.slots_used == 0


async def test_an_answer_that_does_not_fit_is_repaired_with_what_tools_said() -> None:
    clock = VirtualClock()
    turns = ([call("t")], says("not json"), says('{"n": 1}'))
    async with bench(by_turn(clock, *turns)) as b:
        await b.replica()
        await Providers(b).add("t")
        result = await b.result(await b.submit(tools=["t"], output={"schema": NUMBER}))
        assert result.output.structured == {"n": 1}
        assert [message.role for message in b.model.calls[-1].messages] == [
            "user",
            "assistant",
            "user",
            "assistant",
            "user",
        ]


async def deregister(b: Bench, name: str, version: str = "1.0.0") -> None:
    payload = encode({"name": name, "version": version})
    await b.ask("tools", "acme", "deregister", payload=payload)


async def test_a_job_keeps_the_version_it_began_with() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("t", "u0")], [call("t", "u1")], [call("t", "u2")])) as b:
        await b.fleet("one", "two")
        tools = Providers(b)
        await tools.add("t", lambda _: "old", takes_s=2.0, idempotent=True)
        job = await b.submit(tools=["t"])
        await b.until(lambda: tools.times("t") == 1)
        await tools.add("t", lambda _: "new", version="1.1.0")
        stored = await b.stored(job)
        assert stored is not None
        b.kill(next(replica for replica in b.replicas if replica.name == stored.state.owner))
        await b.result(job)
        assert {a.version for a in activities(await b.events(job))} == {"1.0.0"}
        other = await b.submit(tools=["t"])
        await b.result(other)
        assert {a.version for a in activities(await b.events(other))} == {"1.1.0"}


async def test_a_tool_that_goes_while_the_job_runs_is_told_and_the_job_goes_on() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("t", "u0")], [call("t", "u1")])) as b:
        await b.fleet("one", "two")
        tools = Providers(b)
        await tools.add("t", takes_s=40.0, timeout_s=100, idempotent=True)
        job = await b.submit(tools=["t"])
        await b.until(lambda: tools.times("t") == 1)
        await clock.advance(31)
        await deregister(b, "t")
        for replica in list(b.replicas):
            b.kill(replica)
        await b.fleet("three")
        result = await b.result(job)
        assert result.state == "succeeded"
        assert [r.is_error for r in results(b.model.calls[-1])] == [True]
        assert "no longer registered" in value(results(b.model.calls[-1])[0])


async def test_a_job_that_outlived_an_outage_waits_for_its_provider_to_come_back() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("t")])) as b:
        (replica,) = await b.fleet("one")
        tools = Providers(b)
        await tools.add("t", ttl_s=60)
        await b.stop(replica)
        jobs = [await b.submit(tools=["t"]) for _ in range(3)]
        await clock.advance(120)
        await b.fleet("two", slots=1)
        await clock.advance(5)
        assert {(await b.stored(job)).state.state for job in jobs} == {"waiting"}  # type: ignore[union-attr]
        await tools.add("t")
        for job in jobs:
            assert (await b.result(job)).state == "succeeded"


async def test_a_provider_that_never_comes_back_ends_the_job() -> None:
    async with bench() as b:
        (replica,) = await b.fleet("one")
        await Providers(b).add("t", ttl_s=60)
        await b.stop(replica)
        job = await b.submit(tools=["t"])
        await b.clock.advance(120)
        await b.fleet("two")
        result = await b.result(job)
        assert result.error is not None
        assert (result.state, result.error.code) == ("failed", "unknown_tool")


# What the client has to do itself.


INLINE = {"name": "mine", "description": "the client's", "input_schema": {"type": "object"}}


async def test_inline_and_registered_tools_in_one_turn() -> None:
    clock = VirtualClock()
    turns = ([call("t", "u0")], [call("t", "u1"), call("mine", "u2")])
    async with bench(by_turn(clock, *turns)) as b:
        await b.replica()
        tools = Providers(b)
        await tools.add("t")
        job = await b.submit(tools=["t", INLINE])
        result = await b.result(job)
        assert (result.state, result.stop_reason) == ("succeeded", "tool_use")
        assert tools.times("t") == 2
        assert [block["id"] for block in result.output.content] == ["u1", "u2"]
        roles = [message["role"] for message in result.output.messages]
        assert roles == ["assistant", "user", "assistant", "user"]
        assert len(b.model.calls) == 2
        ours = {"type": "tool_result", "tool_use_id": "u2", "content": "mine"}
        messages = [
            {"role": "user", "content": "hello"},
            *result.output.messages,
            {"role": "user", "content": [ours]},
        ]
        again = await b.result(await b.submit({"messages": messages, "model": MODEL, "tools": ["t", INLINE]}))
        assert (again.state, again.output.text) == ("succeeded", "done")


async def test_only_inline_calls_after_a_turn_of_our_own() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("t", "u0")], [call("mine", "u1")])) as b:
        await b.replica()
        await Providers(b).add("t")
        result = await b.result(await b.submit(tools=["t", INLINE]))
        assert result.stop_reason == "tool_use"
        assert [m["role"] for m in result.output.messages] == ["assistant", "user", "assistant"]
        assert result.output.messages[-1]["content"] == list(result.output.content)
        assert journalled(b) == 0


async def test_a_job_with_inline_tools_alone_ends_as_before() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("mine")])) as b:
        await b.replica()
        result = await b.result(await b.submit(tools=[INLINE]))
        assert result.stop_reason == "tool_use"
        assert result.output.messages == ()


# What is streamed.


async def test_text_of_an_earlier_turn_is_forgotten_by_a_new_attempt() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, calls_tools(call("t"), text="let me look"), says("found it"))) as b:
        await b.replica()
        await Providers(b).add("t")
        job = await b.submit(tools=["t"], stream=True)
        result = await b.result(job)
        assert result.output.text == "found it"
        deltas = [(e.attempt, e.data.text) for e in await b.events(job) if isinstance(e.data, Delta)]
        assert deltas == [(1, "let me look"), (2, "found it")]


async def test_turns_without_text_stay_in_one_attempt() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("t")], says("found it"))) as b:
        await b.replica()
        await Providers(b).add("t")
        job = await b.submit(tools=["t"], stream=True)
        await b.result(job)
        assert {e.attempt for e in await b.events(job)} == {1}


# Cancellation.


async def test_a_cancelled_job_breaks_its_tools_off_and_takes_no_further_turn() -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("t", "u1"), call("t", "u2")])) as b:
        await b.replica()
        tools = Providers(b)
        await tools.add("t", takes_s=100.0, timeout_s=300)
        job = await b.submit(tools=["t"])
        await b.until(lambda: tools.times("t") == 2)
        await clock.advance(1)
        began = clock.monotonic()
        await b.ask("cancel", "acme", job)
        result = await b.result(job)
        assert result.state == "cancelled"
        assert clock.monotonic() - began <= 0.25
        assert tools.cancelled == ["t", "t"]
        assert len(b.model.calls) == 1
        assert [a.phase for a in activities(await b.events(job))] == ["called", "called", "failed", "failed"]
        assert journalled(b) == 0
        ledger = b.leader.scheduler.ledger
        assert (ledger.slots_used, len(ledger.open)) == (0, 0)


async def test_usage_cost_and_timings_are_of_all_turns() -> None:
    clock = VirtualClock()
    usage = Usage(input_tokens=1000, output_tokens=100)
    turns = (calls_tools(call("t"), usage=usage), calls_tools(call("t"), usage=usage), says("ok", usage=usage))
    async with bench(by_turn(clock, *turns)) as b:
        replica = await b.replica()
        await Providers(b).add("t", takes_s=2.0)
        alone = await b.result(
            await b.submit(job="alone", tools=["t"], messages=[{"role": "user", "content": "x"}])
        )
        assert alone.usage == Usage(input_tokens=3000, output_tokens=300)
        call_usd = replica.coordinator.price_on(f"{alone.model_id}@us-east-1", usage)
        assert call_usd
        assert alone.cost_usd == pytest.approx(3 * call_usd)
        assert alone.timings.total_ms >= 4000


def test_a_step_that_was_stored_twice_counts_once() -> None:
    block = ToolUseBlock(id="u", name="t", input={"a": [1, None, "x"]})
    answer = TurnAnswer(content=(block,), stop_reason="tool_use", raw_stop_reason="tool_use")
    step = Step(number=1, turn=1, answer=answer)
    journal = read([encode(step), encode(step)])
    assert journal.steps == 1
    assert journal.turns[0].answer.calls == (block,)
