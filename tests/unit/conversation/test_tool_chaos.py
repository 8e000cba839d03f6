"""Jobs with tools and jobs below them, while owners die, drain, are cut off, and acknowledgements get lost."""

import random
from collections import Counter

import pytest

from sidecar.models.call import ModelCall
from sidecar.models.content import ToolResultBlock, ToolUseBlock
from sidecar.models.result import Usage
from tests.support.jetstream.faults import Fault, Operation
from tests.support.replica import MODEL, Bench, bench
from tests.support.scripted_model import ScriptedModel, Turn, calls_tools, says
from tests.support.tool_jobs import Providers, activities, call
from tests.support.virtual_time import VirtualClock

JOBS = 12
NAMES = ("safe", "risky", "llm.job")
ODDS = {"journal.append": 0.05, "events.publish": 0.02, "jobs.update": 0.02}
USAGE = Usage(input_tokens=100, output_tokens=10)
TOOL = {"llm.job": {"prompt": "Do: {{task}}", "model": MODEL, "max_tokens": 20, "timeout_s": 400}}


def script(clock: VirtualClock, dice: random.Random) -> ScriptedModel:
    """Three turns a job, of one to three calls each, the same for whoever asks; a child has a single one."""

    def choose(asked: ModelCall) -> Turn:
        text = asked.messages[0].content
        assert isinstance(text, str)
        pause_s = dice.random() * 2
        if text.startswith("Do: "):
            return says(text, usage=USAGE, first_s=pause_s)
        turn = sum(message.role == "assistant" for message in asked.messages)
        if turn == 3:
            return says("done", usage=USAGE, first_s=pause_s)
        own = random.Random(f"{text} {turn}")
        names = [own.choice(NAMES) for _ in range(own.randint(1, 3))]
        blocks = [
            call(name, f"{turn}-{i}", **({"task": "it"} if name == "llm.job" else {}))
            for i, name in enumerate(names)
        ]
        return calls_tools(*blocks, usage=USAGE)._replace(first_s=pause_s)

    return ScriptedModel(clock, choose)


async def disturb(b: Bench, dice: random.Random) -> None:
    """One of several bad things."""
    victim = dice.choice(b.replicas)
    kind = dice.choice(("kill", "stop", "cut off"))
    if kind == "kill":
        b.kill(victim)
    elif kind == "stop":
        await b.stop(victim)
    else:
        b.bus.partition(victim.name)
        await b.clock.advance(dice.uniform(1, 9))
        b.bus.heal(victim.name)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_nothing_kept_is_done_twice(seed: int) -> None:
    dice, clock = random.Random(seed), VirtualClock()
    async with bench(script(clock, dice)) as b:
        settings = {"job_tools": TOOL, "jobs": {"max_attempts": 50, "timeout_s": 2000.0}}
        await b.fleet("r0", "r1", "r2", slots=3, **settings)
        tools = Providers(b)
        await tools.add("safe", takes_s=1.0, idempotent=True)
        await tools.add("risky", takes_s=1.0)
        b.bus.faults = lambda op: fault(op, dice)
        jobs = []
        for i in range(JOBS):
            request = {"messages": [{"role": "user", "content": f"job {i}"}], "model": MODEL, "tools": list(NAMES)}
            jobs.append(await b.submit(request, job=f"j{i}"))
        for number in range(5):
            await clock.advance(dice.uniform(0.5, 3))
            await disturb(b, dice)
            while len(b.replicas) < 3:
                await b.fleet(f"r{seed}-{number}-{len(b.replicas)}", slots=3, **settings)
        b.bus.faults = lambda op: Fault()
        for job in jobs:
            result = await b.result(job, limit_s=2000)
            assert result.state == "succeeded", result.error
            assert result.output.text == "done"
            await check_story(b, job)
        risky = Counter(made.headers["Idempotency-Key"] for made in tools.log if made.tool == "risky")
        assert max(risky.values(), default=1) == 1, "of unknown outcome, and made again"
        await clock.advance(20)
        assert b.requests() == 0
        ledger = b.leader.scheduler.ledger
        assert (ledger.slots_used, len(ledger.open)) == (0, 0)
        assert b.leader.requests.leader is not None
        assert b.leader.requests.leader.in_flight == 0


def fault(operation: Operation, dice: random.Random) -> Fault:
    return Fault(lose=dice.choice(("ack", "request"))) if dice.random() < ODDS.get(operation.name, 0) else Fault()


async def check_story(b: Bench, job: str) -> None:
    events = await b.events(job)
    assert sum(event.type == "result" for event in events) == 1
    places = [(event.attempt, event.n) for event in events]
    assert places == sorted(places)
    returned = Counter(activity.tool_use_id for activity in activities(events, "returned"))
    assert max(returned.values(), default=1) == 1, "a result was kept twice"
    last = next(asked for asked in reversed(b.model.calls) if is_last_of(asked, job))
    blocks = [[*message.content] for message in last.messages[1:]]
    for said, answered in zip(blocks[::2], blocks[1::2], strict=True):
        uses = [block.id for block in said if isinstance(block, ToolUseBlock)]
        assert uses == [block.tool_use_id for block in answered if isinstance(block, ToolResultBlock)]


def is_last_of(asked: ModelCall, job: str) -> bool:
    return asked.messages[0].content == f"job {job[1:]}" and len(asked.messages) == 7
