"""Calls count by what the answer holds: whole ones are made whatever the stop reason, broken ones go back."""

from typing import Any

import msgspec
import pytest

from sidecar.adapters.bedrock.call_form import EncodedCall
from sidecar.adapters.bedrock.decode import decode_response
from sidecar.models.call import ModelCall
from sidecar.models.content import TextBlock, ToolUseBlock
from tests.support.raw_bedrock import answer
from tests.support.replica import Bench, bench
from tests.support.scripted_model import ScriptedModel, Turn, calls_tools, reply_of, says
from tests.support.tool_jobs import Providers, activities, call, results
from tests.support.virtual_time import VirtualClock

INLINE = {"name": "own", "description": "of the client", "input_schema": {"type": "object"}}
OFFERS = {"registered": ["lookup"], "inline": [INLINE], "both": ["lookup", INLINE]}


def heard(*content: dict[str, Any], stop: str = "tool_use") -> Turn:
    """What Bedrock said, as the adapter reads it."""
    body = msgspec.json.encode(answer(list(content), stop))
    return Turn(reply=decode_response(body, EncodedCall(params={})))


def said(name: str, arguments: Any, use_id: str = "t1") -> dict[str, Any]:
    return {"toolUse": {"toolUseId": use_id, "name": name, "input": arguments}}


async def asking(b: Bench, offer: str) -> Providers:
    await b.replica()
    tools = Providers(b)
    if offer != "inline":
        await tools.add("lookup")
    return tools


def told(asked: ModelCall) -> list[str]:
    return [f"{block.tool_use_id}: {block.content}" for block in results(asked) if block.is_error]


@pytest.mark.parametrize("offer", ["registered", "both"])
@pytest.mark.parametrize("stop", ["end_turn", "stop_sequence", "martian"])
async def test_a_registered_tools_call_is_made_whatever_the_stop_reason(offer: str, stop: str) -> None:
    script = [heard({"text": "ok"}, said("lookup", {"q": "a"}), stop=stop), says("done")]
    async with bench(ScriptedModel(VirtualClock(), script)) as b:
        tools = await asking(b, offer)
        result = await b.result(await b.submit(tools=OFFERS[offer], stream=True))
        assert (result.state, result.output.text) == ("succeeded", "done")
        assert tools.times("lookup") == 1
        assert any(stop in warning for warning in result.warnings)


@pytest.mark.parametrize("stop", ["end_turn", "stop_sequence"])
async def test_an_inline_tools_call_is_the_clients_whatever_the_stop_reason(stop: str) -> None:
    async with bench(ScriptedModel(VirtualClock(), [heard(said("own", {"q": 1}), stop=stop)])) as b:
        await asking(b, "inline")
        result = await b.result(await b.submit(tools=[INLINE]))
        assert (result.state, result.stop_reason) == ("succeeded", "tool_use")
        assert result.output.content[0]["input"] == {"q": 1}


@pytest.mark.parametrize("offer", ["registered", "inline", "both"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_cannot_be_read_goes_back_to_the_model(offer: str, stream: bool) -> None:
    name = "lookup" if offer == "registered" else "own"
    broken = heard({"text": "ok"}, said(name, '{"q": "a'), said(name, {"q": 1}, "t2"))
    last = says("done") if offer == "registered" else calls_tools(call("own", "t3", q=2))
    async with bench(ScriptedModel(VirtualClock(), [broken, last])) as b:
        tools = await asking(b, offer)
        job = await b.submit(tools=OFFERS[offer], stream=stream)
        result = await b.result(job)
        assert (result.state, result.output.text) == ("succeeded", "done" if offer == "registered" else "")
        first, second = b.model.calls
        assert second.messages[: len(first.messages)] == first.messages
        assert '{"q": "a' in told(second)[0]
        if offer == "registered":
            assert tools.times("lookup") == 1, "the call that can be read is made"
        else:
            assert len(told(second)) == 2, "the client would have to answer the call that it never saw, too"
            assert [block["id"] for block in result.output.content] == ["t3"]
        if offer != "inline":
            assert len(activities(await b.events(job), "failed")) == (1 if offer == "registered" else 2)


@pytest.mark.parametrize("offer", ["registered", "inline", "both"])
async def test_calls_that_stay_broken_are_malformed_output(offer: str) -> None:
    name = "lookup" if offer == "registered" else "own"
    broken = heard({"text": "ok"}, said(name, "{"))
    async with bench(ScriptedModel(VirtualClock(), default=broken)) as b:
        tools = await asking(b, offer)
        result = await b.result(await b.submit(tools=OFFERS[offer]))
        assert (result.state, result.stop_reason, result.partial) == ("failed", "malformed_output", True)
        assert result.error is not None
        assert result.error.code == "model_error"
        assert result.output.text == "ok"
        assert "tool_use" not in [block["type"] for block in result.output.content]
        assert len(b.model.calls) == 3
        assert tools.log == []
        assert any("could not be read" in warning for warning in result.warnings)


async def test_a_few_turns_bound_asking_again_too() -> None:
    broken = heard(said("own", "{"))
    async with bench(ScriptedModel(VirtualClock(), default=broken)) as b:
        await asking(b, "inline")
        result = await b.result(await b.submit(tools=[INLINE], budget={"max_turns": 1}))
        assert (result.state, result.stop_reason) == ("failed", "malformed_output")
        assert len(b.model.calls) == 1


@pytest.mark.parametrize("offer", ["registered", "inline"])
async def test_an_answer_without_a_word_is_no_success(offer: str) -> None:
    async with bench(ScriptedModel(VirtualClock(), default=heard(stop="tool_use"))) as b:
        await asking(b, offer)
        for tools in ([], OFFERS[offer]):
            result = await b.result(await b.submit(tools=tools))
            assert (result.state, result.stop_reason, result.partial) == ("failed", "malformed_output", False)
            assert result.warnings


async def test_a_malformed_answer_with_text_is_partial() -> None:
    turn = Turn(reply=reply_of((TextBlock(text="half"),), "malformed_output"))
    async with bench(ScriptedModel(VirtualClock(), [turn])) as b:
        await asking(b, "inline")
        result = await b.result(await b.submit())
        assert (result.state, result.output.text, result.partial) == ("succeeded", "half", True)


async def test_empty_arguments_are_a_call() -> None:
    script = [heard(said("lookup", ""), said("lookup", None, "t2")), says("done")]
    async with bench(ScriptedModel(VirtualClock(), script)) as b:
        tools = await asking(b, "registered")
        assert (await b.result(await b.submit(tools=["lookup"]))).output.text == "done"
        assert [made.input for made in tools.log] == [{}, {}]
        assert not any(
            isinstance(block, ToolUseBlock) and block.input for block in b.model.calls[1].messages[1].content
        )
