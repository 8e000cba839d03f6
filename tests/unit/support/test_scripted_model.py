"""The scripted model: answers, errors and delays as written, and a record of what was asked."""

import asyncio

import pytest

from sidecar.errors import StreamInterrupted, Throttled
from sidecar.models.call import ModelCall, ModelDelta, ModelReply
from sidecar.models.content import Message, ToolUseBlock
from sidecar.models.profile import Candidate, ModelProfile, Route
from tests.support.scripted_model import ScriptedModel, Turn, calls_tools, fails, says
from tests.support.virtual_time import VirtualClock

CALL = ModelCall(
    candidate=Candidate(
        profile=ModelProfile(alias="nova", model_id="amazon.nova", family="nova", name="Nova"),
        route=Route(region="us-east-1", invoke_id="amazon.nova"),
    ),
    messages=(Message(role="user", content="Hello"),),
)


async def drain(model: ScriptedModel, clock: VirtualClock) -> list[tuple[float, ModelDelta | ModelReply]]:
    return [(clock.monotonic(), item) async for item in model.stream(CALL)]


async def test_text_comes_in_pieces_at_its_pace_and_whole_at_last() -> None:
    clock = VirtualClock()
    model = ScriptedModel(clock, [says("one two three", pieces=3, first_s=2, delta_s=0.5)])
    items = await clock.run(drain(model, clock))
    assert [at for at, _ in items] == [2.0, 2.5, 3.0, 3.0]
    assert "".join(d.text or "" for _, d in items if isinstance(d, ModelDelta)) == "one two three"
    assert isinstance(items[-1][1], ModelReply)
    assert (model.calls, model.open_calls, model.broken_off) == ([CALL], 0, 0)


async def test_turns_are_played_in_order_then_the_default() -> None:
    clock = VirtualClock()
    use = ToolUseBlock(id="t1", name="search", input={"q": "nats"})
    model = ScriptedModel(clock, [calls_tools(use), fails(Throttled("slow down"))])
    assert (await model.converse(CALL)).stop_reason == "tool_use"
    with pytest.raises(Throttled):
        await model.converse(CALL)
    assert (await model.converse(CALL)).stop_reason == "end_turn"
    assert len(model.calls) == 3


async def test_a_script_can_decide_by_the_call() -> None:
    model = ScriptedModel(VirtualClock(), lambda call: says(call.candidate.route.region))
    assert (await model.converse(CALL)).content[0].text == "us-east-1"  # type: ignore[union-attr]


async def test_an_answer_without_an_end_is_an_error_after_its_text() -> None:
    clock = VirtualClock()
    model = ScriptedModel(clock, [Turn(deltas=(ModelDelta(index=0, text="half"),))])
    answer = model.stream(CALL)
    assert await anext(answer) == ModelDelta(index=0, text="half")
    with pytest.raises(StreamInterrupted):
        await anext(answer)
    assert model.open_calls == 0


async def test_a_call_that_is_cancelled_counts_as_broken_off() -> None:
    clock = VirtualClock()
    model = ScriptedModel(clock, [says("late", first_s=100)])
    call = asyncio.ensure_future(model.converse(CALL))
    await clock.settle()
    assert model.open_calls == 1
    call.cancel()
    await asyncio.wait([call])
    assert (model.open_calls, model.broken_off) == (0, 1)
