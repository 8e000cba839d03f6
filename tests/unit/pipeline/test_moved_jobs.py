"""Jobs that a model refused wait without a slot, for whichever of their models first has room.

Twenty jobs a second, a primary with all the room in the world; a tenth of the jobs are refused there once.
"""

from collections import Counter
from typing import Any

import pytest

from sidecar.errors import ModelUnavailable, Throttled
from sidecar.models.call import ModelCall
from sidecar.models.content import ToolUseBlock
from sidecar.models.event import Status
from tests.support.replica import MODEL, PLENTY, Bench, bench
from tests.support.scripted_model import ScriptedModel, Turn, calls_tools, fails, says
from tests.support.tool_jobs import Providers
from tests.support.virtual_time import VirtualClock

OTHER = "nova-lite"
SMALL = {OTHER: {"tokens_per_minute": 1_000, "requests_per_minute": 2}}
CALL_S = 0.2
JOBS = 900


def text_of(call: ModelCall) -> str:
    content = call.messages[0].content
    return content if isinstance(content, str) else content[0].text  # type: ignore[union-attr]


class Account:
    """A tenth of the jobs get one 429 at the primary; where `refuses`, the fallback answers nothing else."""

    def __init__(self, *, refuses: bool) -> None:
        self.refuses = refuses
        self.calls: Counter[tuple[str, str]] = Counter()
        self.met_fault: set[str] = set()

    def turn(self, call: ModelCall) -> Turn:
        job, alias = text_of(call), call.candidate.profile.alias
        self.calls[job, alias] += 1
        is_refused = alias == MODEL and int(job) % 10 == 0 and self.calls[job, alias] == 1
        if is_refused or (self.refuses and alias != MODEL):
            self.met_fault.add(job)
            return fails(Throttled("Too many requests, please wait before trying again."))
        return says("ok", first_s=CALL_S)


async def waits(b: Bench, account: Account, chain: Any, jobs: int) -> dict[str, float]:
    """What each job took, in seconds, as they come twenty a second; those that have not ended after the last
    have their age.
    """
    began: dict[str, float] = {}
    for n in range(jobs):
        job = f"j{n}"
        began[job] = b.clock.monotonic()
        request = {
            "messages": [{"role": "user", "content": str(n)}],
            "model": chain,
            "params": {"max_tokens": 100},
        }
        await b.submit(request, job=job)
        await b.clock.advance(0.05)
    ends: dict[str, float] = {}
    for job, at in began.items():
        stored = await b.stored(job)
        result = stored.state.result if stored is not None else None
        ends[job] = result.timings.total_ms / 1000 if result is not None else b.clock.monotonic() - at
    return ends


@pytest.mark.parametrize("replicas", [("one",), ("one", "two", "three")])
@pytest.mark.parametrize(
    ("chain", "models", "refuses"),
    [
        pytest.param([MODEL, OTHER], SMALL, False, id="a small fallback"),
        pytest.param(MODEL, {}, False, id="the default chain, quotas learned"),
        pytest.param([MODEL, OTHER], {OTHER: PLENTY[MODEL]}, True, id="a fallback that always refuses"),
    ],
)
async def test_jobs_that_were_refused_are_in_nobodys_way(
    chain: Any, models: dict[str, Any], refuses: bool, replicas: tuple[str, ...]
) -> None:
    account = Account(refuses=refuses)
    async with bench(ScriptedModel(VirtualClock(), account.turn)) as b:
        await b.fleet(*replicas, slots=24 // len(replicas), models={**PLENTY, **models})
        jobs = JOBS if len(replicas) == 1 else JOBS // 3
        took = await waits(b, account, chain, jobs)
        unharmed = sorted(s for job, s in took.items() if job[1:] not in account.met_fault)
        assert unharmed[int(0.99 * len(unharmed))] - CALL_S <= 0.5
        harmed = sorted(s for job, s in took.items() if job[1:] in account.met_fault)
        assert harmed[-1] <= 10.0


@pytest.mark.parametrize("replicas", [("one",), ("one", "two")])
async def test_a_job_that_waits_for_room_holds_nothing_and_says_what_for_and_how_long(
    replicas: tuple[str, ...],
) -> None:
    """Both models' quotas are used up: one by what ran there before, the other by a refusal that asks for 20 s."""
    clock = VirtualClock()
    refusals = iter([Throttled("Too many tokens, please wait before trying again.", retry_after=20.0)])

    def turn(call: ModelCall) -> Turn:
        if call.candidate.profile.alias == MODEL and (error := next(refusals, None)) is not None:
            return fails(error)
        return says("ok", first_s=CALL_S)

    async with bench(ScriptedModel(clock, turn)) as b:
        await b.fleet(*replicas, slots=1, models={**PLENTY, **SMALL})
        for _ in range(2):
            await b.result(await b.submit(model=OTHER, params={"max_tokens": 100}), limit_s=120)
        jobs = [await b.submit(model=[MODEL, OTHER], params={"max_tokens": 100}) for _ in replicas]
        await clock.advance(2.0)
        stored = [await b.stored(job) for job in jobs]
        assert "waiting" in [found.state.state for found in stored if found is not None]
        assert sum(replica.stats().slots_used for replica in b.replicas) == 0
        assert b.leader.scheduler.ledger.slots_used == 0
        said = [e.data for job in jobs for e in await b.events(job) if isinstance(e.data, Status)]
        waits = [status for status in said if status.state == "waiting" and status.estimate_ms]
        assert waits
        assert {status.waiting_for for status in waits} == {"quota"}
        for job in jobs:
            assert (await b.result(job, limit_s=120)).state == "succeeded"


async def test_the_pause_before_a_second_try_is_nobodys_slot() -> None:
    clock = VirtualClock()
    script = iter([fails(ModelUnavailable("connection lost"))])
    async with bench(ScriptedModel(clock, lambda call: next(script, says("ok", first_s=0.1)))) as b:
        await b.fleet("one", slots=1)
        first, second = await b.submit(job="first"), await b.submit(job="second")
        assert (await b.result(second)).timings.total_ms < 200
        assert (await b.result(first)).state == "succeeded"


async def test_a_later_turn_waits_without_a_slot_and_goes_on_wherever_there_is_room() -> None:
    """The quota of the conversation's model is used up for a minute, the next model's is not."""
    clock = VirtualClock()

    def turn(call: ModelCall) -> Turn:
        if call.candidate.profile.alias == MODEL:
            return calls_tools(ToolUseBlock(id="u1", name="quick", input={})) if call.tools else says("ok")
        return says("elsewhere")

    async with bench(ScriptedModel(clock, turn)) as b:
        models = {MODEL: {"requests_per_minute": 4}, OTHER: PLENTY[MODEL]}
        (replica,) = await b.fleet("one", slots=1, models=models)
        await Providers(b).add("quick")
        job = await b.submit(tools=["quick"], model=[MODEL, OTHER])
        await b.until(lambda: bool(b.model.calls))
        await clock.advance(1.0)
        assert replica.scheduler.ledger.slots_used == 0
        assert (await b.result(await b.submit(model=OTHER))).output.text == "elsewhere"
        result = await b.result(job, limit_s=10)
        assert (result.state, result.output.text) == ("succeeded", "elsewhere")
