"""What a job may cost is bounded: so many calls that may be billed for each turn, over all its candidates.

What was refused before the model began costs nothing, and does not count.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sidecar.errors import CallTimeout, ModelFailed, ModelUnavailable, SidecarError, StreamInterrupted, Throttled
from sidecar.models.call import ModelCall
from sidecar.models.content import ToolUseBlock
from sidecar.models.event import Event, Status
from sidecar.models.result import Result, Usage
from tests.support.replica import MODEL, Bench, bench
from tests.support.scripted_model import ScriptedModel, Turn, calls_tools, fails, says
from tests.support.tool_jobs import Providers
from tests.support.virtual_time import VirtualClock

USAGE = Usage(input_tokens=1_000, output_tokens=100)
WAYS: dict[str, dict[str, Any]] = {
    "named": {},
    "streamed": {"stream": True},
    "held to an idle limit": {"idle_timeout_s": 5},
    "no model named": {"model": None},
    "a chain": {"model": ["nova-lite", "nova-pro", "claude-haiku-4-5", "claude-sonnet-4-5", "nova-micro"]},
    "one candidate": {"model": "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "stream": True},
}


def breaks(error: Callable[[str], SidecarError] = StreamInterrupted) -> Iterator[Turn]:
    """Answers that break off, each at another place: trouble that does not follow the request."""
    n = 0
    while True:
        n += 1
        yield fails(error("it broke"), after="word " * 10 * n)


def scripted(script: Any) -> ScriptedModel:
    turns = iter(script)
    return ScriptedModel(VirtualClock(), lambda _: next(turns))


async def ended(b: Bench, **more: Any) -> tuple[Result, list[Event]]:
    plain = {"messages": [{"role": "user", "content": "hello"}], "model": "claude-sonnet-4-5", "timeout_s": 3_600}
    request = {key: value for key, value in {**plain, **more}.items() if value is not None}
    job = await b.submit(request)
    result = await b.result(job, limit_s=4_000)
    check_bill(result)
    return result, await b.events(job)


def check_bill(result: Result) -> None:
    """The job's bill is the sum of its calls', and each says whether it may be billed."""
    calls = result.attempts
    billed = [call for call in calls if call.may_be_billed]
    assert all(isinstance(call.may_be_billed, bool) for call in calls)
    assert sum((call.usage for call in billed if call.usage), Usage()) == result.usage
    assert result.cost_usd == pytest.approx(sum(call.cost_usd or 0.0 for call in billed))
    assert (result.usage_basis == "estimated") == any(call.usage_basis == "estimated" for call in billed)


@pytest.mark.parametrize("way", WAYS)
async def test_a_job_whose_answers_always_break_off_ends_with_its_fourth_call(way: str) -> None:
    async with bench(scripted(breaks())) as b:
        await b.replica()
        result, events = await ended(b, **WAYS[way])
    assert (result.state, len(result.attempts)) == ("failed", 4)
    assert result.error is not None
    assert (result.error.code, result.error.details["limit"]) == ("stream_interrupted", "max_calls")
    assert [call.counted for call in result.attempts] == [1, 2, 3, 4]
    assert not result.attempts[0].purpose
    assert {call.purpose for call in result.attempts[1:]} <= {"retry", "fallback"}
    if "stream" in WAYS[way]:
        assert result.usage.output_tokens > 4
    told = [e.data.spent for e in events if isinstance(e.data, Status) and e.data.state == "retrying"]
    assert [spent.calls for spent in told if spent] == [1, 2, 3]
    costs = [spent.cost_usd for spent in told if spent and spent.cost_usd]
    assert costs == sorted(set(costs))
    assert (result.cost_usd or 0) > costs[-1]


@pytest.mark.parametrize(
    "error",
    [
        Throttled("Too many requests"),
        ModelUnavailable("503", details={"http_status": 503}),
        ModelUnavailable("500", details={"http_status": 500}),
        ModelUnavailable("could not be reached"),
        CallTimeout("no connection", limit="connect"),
    ],
    ids=["429", "503", "500", "not reached", "not connected"],
)
@pytest.mark.parametrize("way", ["named", "streamed"])
async def test_what_costs_nothing_does_not_count(way: str, error: SidecarError) -> None:
    async with bench(scripted([*[fails(error)] * 9, says("at last", usage=USAGE)])) as b:
        await b.replica()
        result, _ = await ended(b, **WAYS[way])
    assert (result.state, result.output.text, len(result.attempts)) == ("succeeded", "at last", 10)
    assert [call.may_be_billed for call in result.attempts] == [False] * 9 + [True]
    assert (result.usage, result.usage_basis) == (USAGE, "observed")
    assert result.attempts[-1].counted == 1


async def test_of_many_calls_that_cost_nothing_the_first_and_last_are_listed() -> None:
    """Held through ten minutes of 503, with one paid failure before: documents stay small and the bill whole."""
    clock = VirtualClock()
    paid = iter([fails(ModelFailed("broke"))])

    def turn(_: ModelCall) -> Turn:
        if clock.monotonic() < 600:
            return next(paid, fails(ModelUnavailable("503", details={"http_status": 503})))
        return says("back", usage=USAGE)

    async with bench(ScriptedModel(clock, turn)) as b:
        await b.replica()
        job = await b.submit(timeout_s=600)
        await clock.advance(550)
        stored = await b.stored(job)
        assert stored is not None
        carried = stored.state.carried
        assert carried is not None
        assert len(carried.attempts) <= 65
        made = len(b.model.calls)
        assert carried.calls == made > 100
        await clock.advance(120)
        stored = await b.stored(job)
        assert stored is not None
        result = stored.state.result
        assert result is not None
        check_bill(result)
        assert (result.state, result.usage_basis) == ("succeeded", "estimated")
        assert [call.may_be_billed for call in result.attempts].count(True) == 2
        assert len(result.attempts) < 70
        left_out = len(b.model.calls) - len(result.attempts)
        assert f"{left_out} calls that cost nothing are not among the attempts" in result.warnings


async def test_a_timeout_before_text_may_be_billed_and_never_ends_a_job_that_has_time() -> None:
    async with bench(scripted([*[fails(CallTimeout("late", limit="first_token"))] * 6, says("ok")])) as b:
        await b.replica()
        result, _ = await ended(b)
    assert result.state == "succeeded"
    assert [call.may_be_billed for call in result.attempts] == [True] * 7
    assert {call.usage_basis for call in result.attempts[:6]} == {"estimated"}


@pytest.mark.parametrize("most", [1, 2, 9])
async def test_the_bound_is_the_operators(most: int) -> None:
    async with bench(scripted(breaks(ModelFailed))) as b:
        await b.replica(jobs={"max_calls": most})
        result, _ = await ended(b, stream=True)
    assert (result.state, len(result.attempts)) == ("failed", most)


@pytest.mark.parametrize("way", ["unary", "stream"])
async def test_the_same_failure_twice_more_at_one_candidate_ends_the_job(way: str) -> None:
    script = [fails(ModelFailed("424"), after="to here")] * 9
    async with bench(scripted(script)) as b:
        await b.replica()
        result, _ = await ended(b, model=[MODEL], stream=way == "stream")
    assert (result.state, len(result.attempts)) == ("failed", 3)
    assert result.error is not None
    assert (result.error.code, result.error.details["limit"]) == ("model_error", "same_failure")


async def healthy_waits(poisoned: int) -> list[float]:
    """What the jobs of a healthy tenant took, in seconds, beside some whose calls are all answered with 424."""

    def turn(call: ModelCall) -> Turn:
        content = call.messages[0].content
        return fails(ModelFailed("424"), first_s=0.1) if "poison" in str(content) else says("ok", first_s=0.2)

    async with bench(ScriptedModel(VirtualClock(), turn)) as b:
        await b.fleet("one", slots=8)
        for n in range(poisoned):
            poison = [{"role": "user", "content": f"poison {n}"}]
            await b.submit({"messages": poison, "model": [MODEL]}, job=f"bad{n}", tenant="bad")
        await b.clock.advance(1.0)
        took = []
        for n in range(40):
            job = await b.submit(job=f"good{n}", tenant="good", model=[MODEL])
            took.append((await b.result(job, tenant="good")).timings.total_ms / 1000)
        bad = [await b.result(f"bad{n}", tenant="bad") for n in range(poisoned)]
        assert [result.error.code for result in bad if result.error] == ["model_error"] * poisoned
        assert [len(result.attempts) for result in bad] == [3] * poisoned
        assert b.replicas[0].coordinator.health(b.clock.now()).popitem()[1] == "closed"
    return sorted(took)


async def test_five_poisoned_jobs_of_one_tenant_close_the_model_for_nobody_else() -> None:
    alone, beside = await healthy_waits(0), await healthy_waits(5)
    assert beside[int(0.95 * 40)] - alone[int(0.95 * 40)] < 0.5


@pytest.mark.parametrize(("broken", "asked"), [(1, 3), (2, 4), (3, 4)])
async def test_asking_again_for_an_answer_that_does_not_fit_counts(broken: int, asked: int) -> None:
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    script = [turn for turn, _ in zip(breaks(), range(broken), strict=False)]
    async with bench(scripted([*script, says("no JSON"), says('{"a": 1}')])) as b:
        await b.replica()
        result, _ = await ended(b, output={"schema": schema})
    assert len(result.attempts) == asked
    assert result.state == ("succeeded" if broken + 2 <= 4 else "failed")
    assert [call.purpose == "repair" for call in result.attempts].count(True) == (1 if broken < 3 else 0)


async def test_each_turn_has_its_own_calls() -> None:
    broken, tool = breaks(), calls_tools(ToolUseBlock(id="u1", name="quick", input={}))
    script = [*[next(broken) for _ in range(3)], tool, *[next(broken) for _ in range(3)], says("done")]
    async with bench(scripted(script)) as b:
        await b.replica()
        await Providers(b).add("quick")
        result, _ = await ended(b, tools=["quick"])
    assert result.state == "succeeded"
    assert [(call.turn, call.counted) for call in result.attempts] == [
        *[(1, n) for n in (1, 2, 3, 4)],
        *[(2, n) for n in (1, 2, 3, 4)],
    ]


@pytest.mark.parametrize("leaves", ["drained", "killed"])
@pytest.mark.parametrize("has_tool", [False, True])
async def test_a_call_that_ended_with_its_replica_does_not_count(leaves: str, has_tool: bool) -> None:
    """Two answers break off; the third call is under way when its replica goes, and the next owner goes on."""
    hangs, broken = says("too late", first_s=300.0), breaks()
    script = iter([next(broken), next(broken), hangs, *[next(broken) for _ in range(4)]])
    calls: list[ModelCall] = []

    def turn(call: ModelCall) -> Turn:
        calls.append(call)
        return next(script)

    async with bench(ScriptedModel(VirtualClock(), turn)) as b:
        await b.fleet("one", "two")
        if has_tool:
            await Providers(b).add("quick")
        job = await b.submit(tools=["quick"] if has_tool else [], timeout_s=3_600, model="claude-sonnet-4-5")
        await b.until(lambda: len(calls) == 3)
        owner = next(replica for replica in b.replicas if replica.stats().slots_used)
        if leaves == "drained":
            await b.stop(owner)
        else:
            b.kill(owner)
        result = await b.result(job, limit_s=4_000)
        check_bill(result)
    assert result.state == "failed"
    assert result.error is not None
    assert result.error.details["limit"] == "max_calls"
    outcomes = [call.outcome for call in result.attempts]
    assert outcomes.count("error") == 4
    assert outcomes.count("cancelled" if leaves == "drained" else "crashed") == 1
