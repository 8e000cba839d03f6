"""What is kept of a job that lasts longer than documents are kept for."""

from typing import Any

import pytest

from sidecar.config.settings import Settings, load
from sidecar.errors import StartupError
from sidecar.models.call import ModelCall
from tests.support.replica import MODEL, Bench, bench
from tests.support.scripted_model import ScriptedModel, Turn, calls_tools, says
from tests.support.tool_jobs import Providers, call
from tests.support.virtual_time import VirtualClock

KEPT_S = 12.0
TEXT = "".join(f"w{i:03d}" for i in range(100))


def short_lived(b: Bench) -> None:
    for stream in (b.bus.jobs, b.bus.marks):
        stream.config["max_age"] = int(KEPT_S * 1e9)


def answer(asked: ModelCall) -> Turn:
    turns = sum(message.role == "assistant" for message in asked.messages)
    if asked.messages[0].content == "tools" and turns < 2:
        return calls_tools(call("quick" if turns == 0 else "slow", f"u{turns}"))
    return says(TEXT, pieces=100, delta_s=1.0)


async def say(b: Bench, text: str, **more: Any) -> str:
    return await b.submit({"messages": [{"role": "user", "content": text}], "model": MODEL, **more})


@pytest.mark.parametrize(("stream", "by_message"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("names", [("one",), ("one", "two")], ids=["one", "two"])
async def test_a_running_jobs_document_does_not_age(
    names: tuple[str, ...], stream: bool, by_message: bool
) -> None:
    """`by_message`: each document of a running job says itself how long it is kept, 60 s."""
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, answer)) as b:
        if not by_message:
            short_lived(b)
        await b.fleet(*names, retention={"state_s": 240}, jobs={"timeout_s": 240})
        jobs = [await say(b, "go on", stream=stream) for _ in range(len(names))]
        for _ in range(90):
            await clock.advance(1.0)
            for job in jobs:
                stored = await b.stored(job)
                assert stored is not None
                assert stored.state.state == "running"
        for job in jobs:
            assert (await b.result(job)).state == "succeeded"
            stored = await b.stored(job)
            assert stored is not None
            assert stored.state.attempt == 1
        assert [replica.jobs.restored for replica in b.replicas] == [{"missing": 0, "foreign": 0}] * len(names)


async def test_the_next_owner_finds_the_steps_of_a_long_job() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, answer)) as b:
        short_lived(b)
        await b.fleet("one", "two")
        tools = Providers(b)
        await tools.add("quick")
        await tools.add("slow", takes_s=60.0, timeout_s=300)
        job = await say(b, "tools", tools=["quick", "slow"])
        await b.until(lambda: tools.times("slow") == 1)
        await clock.advance(50.0)
        stored = await b.stored(job)
        assert stored is not None
        assert stored.state.state == "waiting"
        b.kill(next(replica for replica in b.replicas if replica.name == stored.state.owner))
        assert (await b.result(job, limit_s=400)).state == "succeeded"
        assert tools.times("quick") == 1, "its result was kept"


async def test_documents_that_are_kept_for_good_are_left_alone() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, answer)) as b:
        b.bus.jobs.config["max_age"] = 0
        await b.fleet("one")
        job = await say(b, "go on")
        await clock.advance(90.0)
        assert len(list(b.bus.jobs.find(f"$KV.LLM_JOB.acme.{job}"))) == 1


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"retention": {"state_s": 300}}, "jobs.timeout_s = 600"),
        ({"jobs": {"timeout_s": 90_000}}, "jobs.timeout_s = 90000"),
        (
            {"retention": {"state_s": 700}, "job_tools": {"long": {"timeout_s": 701}}},
            "job_tools.long.timeout_s = 701",
        ),
    ],
)
def test_documents_that_would_go_before_their_jobs_are_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(StartupError, match=f"retention.state_s: .* less than {named}"):
        load(None, given)


def test_documents_kept_as_long_as_the_longest_job_are_taken() -> None:
    made = load(None, {"retention": {"state_s": 60}, "jobs": {"timeout_s": 60}})
    assert isinstance(made, Settings)
