"""Tools that are jobs: a coordinator splits its request, and each part is a durable job of the same tenant."""

from typing import Any

import pytest

from sidecar.config.settings import JobTool, Policy, merge_policy
from sidecar.errors import ModelFailed, StartupError
from sidecar.models.call import ModelCall
from sidecar.models.result import Result, Usage
from sidecar.ports.bus import Lane
from tests.support.replica import MODEL, Bench, bench
from tests.support.scripted_model import ScriptedModel, Turn, calls_tools, says
from tests.support.tool_jobs import activities, call, results, value
from tests.support.virtual_time import VirtualClock

USAGE = Usage(input_tokens=1000, output_tokens=100)
LLM_JOB: dict[str, Any] = {"llm.job": {"prompt": "Do: {{task}}", "model": MODEL, "max_tokens": 50}}


def coordinator(clock: VirtualClock, *tasks: str, child: Turn | None = None) -> ScriptedModel:
    """A model that has each task done by a child, and answers with what they said."""

    def choose(asked: ModelCall) -> Turn:
        if text_of(asked).startswith("Do: "):
            return child or says(f"did {text_of(asked)[4:]}", usage=USAGE)
        if len(asked.messages) == 1:
            parts = [call("llm.job", f"u{i}", task=task) for i, task in enumerate(tasks)]
            return calls_tools(*parts, usage=USAGE)
        return says(", ".join(str(value(block)) for block in results(asked)), usage=USAGE)

    return ScriptedModel(clock, choose)


def text_of(asked: ModelCall) -> str:
    content = asked.messages[0].content
    assert isinstance(content, str)
    return content


async def child_of(b: Bench, job: str, number: int = 0) -> Result | None:
    stored = await b.stored(f"{job}-c1-{number}")
    return stored.state.result if stored is not None else None


async def test_parts_are_jobs_of_their_own_and_their_bill_is_the_parents() -> None:
    clock = VirtualClock()
    async with bench(coordinator(clock, "one", "two")) as b:
        replica = await b.replica(job_tools=LLM_JOB)
        job = await b.submit(job="p1", tools=["llm.job"])
        result = await b.result(job)
        assert result.output.text == "did one, did two"
        assert [child.job for child in result.children] == ["p1-c1-0", "p1-c1-1"]
        assert {child.state for child in result.children} == {"succeeded"}
        assert result.usage == Usage(input_tokens=4000, output_tokens=400)
        one = await child_of(b, "p1")
        assert one is not None
        assert one.output.text == "did one"
        assert one.cost_usd
        assert result.cost_usd == pytest.approx(4 * one.cost_usd)
        assert result.children[0].cost_usd == one.cost_usd
        events = await b.events("p1-c1-0")
        assert events[-1].metadata == {"parent": "p1"}
        assert [a.phase for a in activities(await b.events(job))] == ["called", "called", "returned", "returned"]
        asked = [asked for asked in b.model.calls if text_of(asked) == "Do: one"]
        assert [made.params.max_tokens for made in asked] == [50]
        tokens = {kind: n for (label, kind), n in replica.tally.tokens.items() if label.tenant == "acme"}
        assert {kind: n for kind, n in tokens.items() if n} == {"input": 4000, "output": 400}, (
            "none is counted twice"
        )
        ledger = replica.scheduler.ledger
        assert (ledger.slots_used, len(ledger.open)) == (0, 0)


async def test_parents_do_not_starve_their_children_of_the_only_slot() -> None:
    clock = VirtualClock()
    async with bench(coordinator(clock, "one", "two", "three")) as b:
        await b.fleet("one", slots=1, job_tools=LLM_JOB)
        jobs = [await b.submit(tools=["llm.job"]) for _ in range(5)]
        for job in jobs:
            assert (await b.result(job)).output.text == "did one, did two, did three"


async def test_children_count_against_the_tenants_day_once() -> None:
    clock = VirtualClock()
    async with bench(coordinator(clock, "one", "two")) as b:
        await b.fleet("one", tenants={"acme": {"budget_usd_per_day": 100.0}}, job_tools=LLM_JOB)
        result = await b.result(await b.submit(tools=["llm.job"], params={"max_tokens": 200}))
        assert result.cost_usd
        await clock.advance(2)
        total = await b.clock.run(b.replicas[0]._ports.spend.total("acme", int(clock.now() // 86_400)))
        assert total == pytest.approx(result.cost_usd * 1e6, abs=4)


async def test_a_cancelled_parent_takes_its_children_with_it() -> None:
    clock = VirtualClock()
    slow = says("late", first_s=100.0)
    async with bench(coordinator(clock, "one", "two", child=slow)) as b:
        await b.fleet("one", "two", slots=4, job_tools=LLM_JOB)
        job = await b.submit(job="p1", tools=["llm.job"])
        await b.until(lambda: len(b.model.calls) == 3)
        began = clock.monotonic()
        await b.ask("cancel", "acme", job)
        assert (await b.result(job)).state == "cancelled"
        for number in (0, 1):
            assert (await b.result(f"p1-c1-{number}")).state == "cancelled"
        assert clock.monotonic() - began < 1
        assert b.model.open_calls == 0


async def test_a_parent_that_is_cancelled_while_nobody_owns_it_takes_its_children_too() -> None:
    clock = VirtualClock()
    slow = says("late", first_s=300.0)
    async with bench(coordinator(clock, "one", child=slow)) as b:
        await b.fleet("one", "two", slots=4, job_tools=LLM_JOB)
        await b.submit(job="p1", tools=["llm.job"])
        await b.until(lambda: len(b.model.calls) == 2)
        stored = await b.stored("p1")
        assert stored is not None
        (owner,) = [replica for replica in b.replicas if replica.name == stored.state.owner]
        b.kill(owner)
        await b.ask("cancel", "acme", "p1")
        assert (await b.result("p1")).state == "cancelled"
        assert (await b.result("p1-c1-0")).state == "cancelled"


async def test_a_new_owner_of_the_parent_finds_the_children_of_the_last() -> None:
    clock = VirtualClock()

    def choose(asked: ModelCall) -> Turn:
        if text_of(asked).startswith("Do: "):
            return says("did it", first_s=20.0)
        return says("ok") if len(asked.messages) > 1 else calls_tools(call("llm.job", "u", task="it"))

    async with bench(ScriptedModel(clock, choose)) as b:
        await b.fleet("one", "two", slots=4, job_tools=LLM_JOB)
        await b.submit(job="p1", tools=["llm.job"])
        await b.until(lambda: len(b.model.calls) == 2)
        parent, child = await b.stored("p1"), await b.stored("p1-c1-0")
        assert parent is not None
        assert child is not None
        (owner,) = [replica for replica in b.replicas if replica.name == parent.state.owner]
        b.kill(owner)
        result = await b.result("p1")
        assert (result.state, result.output.text) == ("succeeded", "ok")
        done = [text_of(asked) for asked in b.model.calls].count("Do: it")
        assert done == (2 if child.state.owner == owner.name else 1), "only what died with its owner runs again"
        assert len(result.children) == 1


async def test_a_child_that_fails_is_told() -> None:
    clock = VirtualClock()
    broken = Turn(error=ModelFailed("the model broke"))
    async with bench(coordinator(clock, "one", child=broken)) as b:
        await b.replica(job_tools={"llm.job": {**LLM_JOB["llm.job"], "timeout_s": 20}})
        result = await b.result(await b.submit(job="p1", tools=["llm.job"]))
        assert result.state == "succeeded"
        assert "the job did not succeed" in result.output.text
        assert [child.state for child in result.children] == ["failed"]


async def test_jobs_below_jobs_end_somewhere() -> None:
    clock = VirtualClock()

    def choose(asked: ModelCall) -> Turn:
        if len(asked.messages) == 1:
            return calls_tools(call("llm.job", "u", task="deeper"))
        return says(str(value(results(asked)[0])))

    async with bench(ScriptedModel(clock, choose)) as b:
        tool = {"prompt": "Do: {{task}}", "model": MODEL, "tools": ["llm.job"]}
        await b.replica(job_tools={"llm.job": tool}, jobs={"max_job_depth": 2})
        result = await b.result(await b.submit(job="p", tools=["llm.job"]))
        assert result.state == "succeeded"
        assert "nested 2 deep" in result.output.text
        assert await b.stored("p-c1-0-c1-0") is not None
        assert await b.stored("p-c1-0-c1-0-c1-0") is None


async def test_a_client_gains_nothing_by_writing_the_depth_itself() -> None:
    clock = VirtualClock()
    async with bench(coordinator(clock, "one")) as b:
        await b.replica(job_tools=LLM_JOB, jobs={"max_job_depth": 1})
        payload = (
            b'{"messages": [{"role": "user", "content": "x"}], "model": "%s", "tools": ["llm.job"]}'
            % MODEL.encode()
        )
        for depth, told in (("-5", "did one"), ("1", "nested")):
            headers = {"Llm-Job-Id": f"d{depth.strip('-')}", "Llm-Depth": depth}
            await (await b.outside()).intake.submit(Lane("acme", "standard"), payload, headers)
            result = await b.result(headers["Llm-Job-Id"])
            assert told in result.output.text


async def test_a_child_gets_a_slice_of_the_budget() -> None:
    clock = VirtualClock()
    async with bench(coordinator(clock, "one", "two")) as b:
        await b.replica(job_tools={"llm.job": {**LLM_JOB["llm.job"], "max_cost_usd": 1.0}})
        await b.result(
            await b.submit(job="p1", tools=["llm.job"], params={"max_tokens": 100}, budget={"max_cost_usd": 0.05})
        )
        spent = 1000 * 3.3e-6 + 100 * 16.5e-6
        for number in (0, 1):
            child = await child_of(b, "p1", number)
            assert child is not None
            assert child.cost_usd is not None
            assert child.cost_usd <= (0.05 - spent) / 2


async def test_a_prompt_that_lacks_a_variable_is_told_to_the_model() -> None:
    clock = VirtualClock()

    def choose(asked: ModelCall) -> Turn:
        if len(asked.messages) == 1:
            return calls_tools(call("llm.job", "u", wrong="x"))
        return says(str(value(results(asked)[0])))

    async with bench(ScriptedModel(clock, choose)) as b:
        await b.replica(job_tools=LLM_JOB)
        result = await b.result(await b.submit(tools=["llm.job"]))
        assert "lacks 'task'" in result.output.text
        assert result.children == ()


async def test_policy_says_who_may_start_jobs_by_tools() -> None:
    async with bench() as b:
        await b.replica(job_tools=LLM_JOB, tenants={"acme": {"tools": ["search"]}})
        result = await b.result(await b.submit(tools=["llm.job"]))
        assert result.error is not None
        assert result.error.code == "tenant_denied"


async def test_llm_job_is_unknown_where_it_is_not_configured() -> None:
    async with bench() as b:
        await b.replica()
        result = await b.result(await b.submit(tools=["llm.job"]))
        assert result.error is not None
        assert result.error.code == "unknown_tool"


def test_the_names_table_needs_no_quotes() -> None:
    policy = merge_policy(
        Policy(),
        b"""
[job_tools.llm.job]
prompt = "{{task}}"
[job_tools.summarize]
prompt = "{{text}}"
""",
    )
    assert policy.job_tools["llm.job"].variables == ("task",)
    assert policy.job_tools["summarize"].variables == ("text",)
    assert merge_policy(policy, b'[job_tools."llm.job"]\nprompt = "{{a}}"').job_tools["llm.job"].variables == (
        "a",
    )
    with pytest.raises(StartupError):
        merge_policy(Policy(), b"[job_tools.llm.other]")


def test_what_a_variable_says_is_no_template() -> None:
    tool = JobTool(prompt="{{a}} and {{ b }}")
    assert tool.variables == ("a", "b")
    assert tool.filled({"a": "{{b}}", "b": r"\1"}) == r"{{b}} and \1"
    assert tool.problem({"a": "x", "b": 1}) is not None
    assert tool.problem({"a": "x", "b": "y", "c": "z"}) is not None
    assert tool.problem({"a": "x", "b": "y"}) is None
