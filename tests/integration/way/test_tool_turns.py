"""Jobs with tools by the real Bedrock client: names, ids and turns as the families take them."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sidecar.emulator import Emulator
from sidecar.models.event import Delta, ToolActivity
from tests.support.way import FIRST, SECOND, SUBJECTS, Way, texts, way

ANY = {"type": "object"}


async def provide(on: Way, name: str, answer: Callable[[Any], Any], **more: Any) -> list[Any]:
    """Register a tool and answer its calls. Returns their inputs, as they come."""
    registration = {"name": name, "version": "1.0.0", "description": name, "input_schema": ANY, **more}
    subject = SUBJECTS.endpoint("tools", "acme", "register")
    reply = await on.mux.request(subject, json.dumps(registration).encode())
    given: list[Any] = []

    async def run(payload: bytes, headers: Mapping[str, str]) -> bytes:
        given.append(json.loads(payload))
        return json.dumps(answer(given[-1])).encode()

    await on.providers.provide(json.loads(reply.payload)["subject"], run)
    return given


def sent(emulator: Emulator, call: int) -> dict[str, Any]:
    """The body of one model call."""
    body = emulator.calls[call].request
    assert isinstance(body, dict)
    return body


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("model", [FIRST, SECOND, "nova-2-lite", "claude-haiku-4-5"])
async def test_three_turns_with_parallel_calls(model: str, is_streamed: bool) -> None:
    prompt = (
        '[[tool=get-rate input={"n":1} turn=1]] [[tool=get-rate input={"n":2} turn=1]] '
        '[[tool=sum turn=2]] [[turn=3 text="all added"]] add it up'
    )
    async with Emulator() as emulator, way(emulator.url) as on:
        rates = await provide(on, "get-rate", lambda given: {"rate": given["n"] * 10})
        await provide(on, "sum", lambda _: 30)
        result = await on.ask(prompt, model=model, tools=["get-rate", "sum"], stream=is_streamed)
        assert result.state == "succeeded", result.error
        assert result.output.text == "all added"
        assert sorted(given["n"] for given in rates) == [1, 2]
        assert [attempt.outcome for attempt in result.attempts] == ["ok"] * 3
        last = sent(emulator, -1)["messages"]
        assert [message["role"] for message in last] == ["user", "assistant"] * 2 + ["user"]
        first = [block["toolResult"] for block in last[2]["content"]]
        uses = [block["toolUse"] for block in last[1]["content"] if "toolUse" in block]
        assert [use["toolUseId"] for use in uses] == [done["toolUseId"] for done in first]
        assert [done["content"][0]["json"] for done in first] == [{"rate": 10}, {"rate": 20}]
        assert last[4]["content"][0]["toolResult"]["content"] == [{"text": "30"}]


async def test_an_error_result_says_so_on_the_wire() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        await provide(on, "t", lambda _: {}, input_schema={**ANY, "required": ["x"]})
        result = await on.ask("[[tool=t turn=1]] go", model=FIRST, tools=["t"])
        assert result.state == "succeeded", result.error
        (block,) = sent(emulator, -1)["messages"][2]["content"]
        assert block["toolResult"]["status"] == "error"
        assert "required" in block["toolResult"]["content"][0]["text"]


async def test_cut_arguments_are_never_run() -> None:
    long = json.dumps({"text": "x" * 400})
    async with Emulator() as emulator, way(emulator.url) as on:
        given = await provide(on, "t", lambda _: {})
        result = await on.ask(
            f"[[tool=t input={long} turn=1]] go", model=FIRST, tools=["t"], params={"max_tokens": 5}
        )
        assert result.stop_reason == "max_tokens"
        assert given == []


async def test_ids_that_the_model_repeats_do_not_break_the_next_turn() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        given = await provide(on, "t", lambda given: given)
        prompt = '[[tool=t input={"n":1} turn=1]] [[tool=t input={"n":2} turn=1]] [[fault=duplicate_tool_ids]] go'
        result = await on.ask(prompt, model=FIRST, tools=["t"])
        assert result.state == "succeeded", result.error
        assert [one["n"] for one in given] == [1, 2]


async def test_text_before_a_call_is_streamed_and_then_void() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        await provide(on, "t", lambda _: {})
        prompt = '[[turn=1 text="let me look"]] [[tool=t turn=1]] [[turn=2 text="found it"]] go'
        job = await on.submit(prompt, model=FIRST, tools=["t"], stream=True)
        result = await on.result(job)
        assert result.output.text == "found it"
        events = await on.events(job)
        assert (texts(events, attempt=1), texts(events, attempt=2)) == ("let me look", "found it")


async def test_reasoning_goes_back_with_its_signature() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        await provide(on, "t", lambda _: {})
        prompt = '[[turn=1 reasoning="I must look"]] [[tool=t turn=1]] [[turn=2 text="found it"]] go'
        result = await on.ask(prompt, model=FIRST, tools=["t"], reasoning={"effort": "low"}, stream=True)
        assert result.state == "succeeded", result.error
        said = sent(emulator, -1)["messages"][1]["content"]
        assert said[0]["reasoningContent"]["reasoningText"]["signature"]
        assert "toolUse" in said[-1]


async def test_a_forced_tool_is_forced_once() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        await provide(on, "t", lambda _: {})
        result = await on.ask("go", model="claude-haiku-4-5", tools=["t"], tool_choice={"name": "t"})
        assert result.state == "succeeded", result.error
        assert len(emulator.calls) == 2
        assert "toolChoice" in sent(emulator, 0)["toolConfig"]
        assert "toolChoice" not in sent(emulator, 1)["toolConfig"]


@pytest.mark.parametrize("model", [FIRST, SECOND])
async def test_llm_job_has_a_name_that_every_family_takes(model: str) -> None:
    tool = {"prompt": "Do: {{task}}", "model": SECOND}
    async with Emulator() as emulator, way(emulator.url, job_tools={"llm.job": tool}) as on:
        emulator.add_rule(prompt="Do: it", behave='text="did it"')
        prompt = '[[tool=llm_job input={"task":"it"} turn=1]] [[turn=2 text="all done"]] go'
        job = await on.submit(prompt, model=model, tools=["llm.job"])
        result = await on.result(job)
        assert result.state == "succeeded", result.error
        assert result.output.text == "all done"
        (child,) = result.children
        assert (await on.result(child.job)).output.text == "did it"
        said = [event.data for event in await on.events(job) if isinstance(event.data, ToolActivity)]
        assert [(one.phase, one.tool) for one in said] == [("called", "llm.job"), ("returned", "llm.job")]
        assert said[1].output == "did it"
        assert not [event for event in await on.events(job) if isinstance(event.data, Delta)]


async def test_a_schema_for_the_answer_beside_tools() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    for model in (FIRST, SECOND):
        async with Emulator() as emulator, way(emulator.url) as on:
            given = await provide(on, "t", lambda _: {"n": 1})
            result = await on.ask("[[tool=t turn=1]] go", model=model, tools=["t"], output={"schema": schema})
            assert result.state == "succeeded", result.error
            assert isinstance(result.output.structured["n"], int)
            assert given == [{}]


async def test_content_decides_what_becomes_of_calls_through_both_transports() -> None:
    inline = {"name": "own", "input_schema": {"type": "object", "properties": {"a b": {"type": "string"}}}}
    for transport in ("aiohttp", "boto3"):
        async with Emulator() as emulator, way(emulator.url, bedrock={"transport": transport}) as on:
            given = await provide(on, "t", lambda _: {})
            for stop in ("end_turn", "stop_sequence"):
                result = await on.ask(f"[[tool=t turn=1 stop={stop}]] go", model=FIRST, tools=["t"], stream=True)
                assert (result.state, len(result.attempts)) == ("succeeded", 2), result.error
            assert given == [{}, {}]
            broken = '[[tool=own raw="{\\"q\\": \\"a" turn=1]] [[text=done turn=2]] go'
            result = await on.ask(broken, model=FIRST, tools=[inline], stream=True)
            assert (result.state, result.output.text) == ("succeeded", "done"), result.error
            told = sent(emulator, -1)["messages"][-1]["content"][0]["toolResult"]
            assert told["status"] == "error"
            assert '{"q": "a' in told["content"][0]["text"]
            wire = sent(emulator, -1)["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]["properties"]
            (key,) = wire
            result = await on.ask(f'[[tool=own input={{"{key}":"x"}}]] go', model=FIRST, tools=[inline])
            assert result.output.content[-1]["input"] == {"a b": "x"}
