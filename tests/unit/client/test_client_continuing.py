"""Going on after `tool_use`: the client's own tools, and the next request."""

import asyncio
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import ToolContext, ToolError, tool
from sidecar.client import JobResult, continue_with, run_calls
from sidecar.errors import InvalidRequest
from sidecar.models.codec import decode_request, encode
from sidecar.models.content import ToolResultBlock, ToolUseBlock
from sidecar.models.request import JobRequest
from sidecar.models.result import Output


class Weather(pydantic.BaseModel):
    degrees: float


@tool
async def weather(city: str, ctx: ToolContext) -> Weather:
    """Weather of a city."""
    if city == "Atlantis":
        raise ToolError("no such city")
    if city == "Babel":
        raise RuntimeError("secret")
    await asyncio.sleep(0)
    return Weather(degrees=len(city))


@tool
def shout(text: str) -> str:
    """Shout."""
    return text.upper()


def result_with(*content: dict[str, Any], messages: tuple[dict[str, Any], ...] = ()) -> JobResult:
    output = Output(content=content, messages=messages)
    return JobResult(state="succeeded", stop_reason="tool_use", output=output)


def tool_result(call_id: str, text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call_id, "content": text}]}


def use(call_id: str, name: str = "weather", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "How warm is it?"}],
    "tools": [weather.inline()],
    "params": {"max_tokens": 50},
}
RESULT = result_with({"type": "text", "text": "Let me look."}, use("a", city="Rome"), use("b", city="Oslo"))


def test_the_next_request_holds_the_turn_and_the_results_in_order() -> None:
    following = continue_with(ASKED, RESULT, {"b": {"degrees": 4}, "a": "hot"})
    assert following.params.max_tokens == 50
    assert following.tool_names == ("weather",)
    assert following.messages is not None
    assert [message.role for message in following.messages] == ["user", "assistant", "user"]
    assert encode(following.messages[1].content) == encode(RESULT.output.content)
    assert encode(following.messages[2].content) == encode(
        [
            {"type": "tool_result", "tool_use_id": "a", "content": "hot"},
            {
                "type": "tool_result",
                "tool_use_id": "b",
                "content": [{"type": "json", "value": {"degrees": 4}}],
            },
        ]
    )


def test_outputs_may_be_of_any_kind() -> None:
    result = result_with(*(use(str(i)) for i in range(5)))
    outputs = [Weather(degrees=1), [1, 2], ToolError("no luck"), ValueError("secret"), None]
    following = continue_with("Hi", result, outputs)
    assert following.messages is not None
    blocks = [b for b in following.messages[2].content if isinstance(b, ToolResultBlock)]
    assert encode([b.content for b in blocks]) == encode(
        [
            [{"type": "json", "value": {"degrees": 1.0}}],
            "[1,2]",
            "no luck",
            "the tool failed with ValueError",
            "null",
        ]
    )
    assert [b.is_error for b in blocks] == [False, False, True, True, False]


def test_a_forced_choice_does_not_force_for_ever() -> None:
    for choice in ("any", {"name": "weather"}):
        assert continue_with({**ASKED, "tool_choice": choice}, RESULT, ["x", "y"]).tool_choice == "auto"
    assert continue_with({**ASKED, "tool_choice": "none"}, RESULT, ["x", "y"]).tool_choice == "none"
    again = continue_with({**ASKED, "tool_choice": "any"}, RESULT, ["x", "y"], tool_choice="any")
    assert again.tool_choice == "any"


def test_what_the_sidecar_ran_itself_stays_in_the_conversation() -> None:
    before = ({"role": "assistant", "content": [use("0", "add")]}, tool_result("0", "3"))
    content = (use("a", city="Rome"), use("x", "add"), use("b", city="Oslo"))
    turn = {"role": "assistant", "content": list(content)}
    result = result_with(*content, messages=(*before, turn, tool_result("x", "7")))
    assert [call.id for call in result.tool_calls] == ["a", "b"]
    following = continue_with(ASKED, result, ["hot", "cold"])
    assert following.messages is not None
    assert [message.role for message in following.messages] == ["user", "assistant", "user", "assistant", "user"]
    results = [b for b in following.messages[-1].content if isinstance(b, ToolResultBlock)]
    assert [(b.tool_use_id, b.content) for b in results] == [("a", "hot"), ("x", "7"), ("b", "cold")]

    alone = result_with(use("a", city="Rome"), messages=(*before, {"role": "assistant", "content": [use("a")]}))
    following = continue_with(ASKED, alone, {"a": "hot"})
    assert following.messages is not None
    assert [message.role for message in following.messages] == ["user", "assistant", "user", "assistant", "user"]


def test_blocks_that_cannot_be_sent_are_left_out() -> None:
    result = result_with({"type": "other", "value": {"x": 1}}, use("a"))
    following = continue_with(ASKED, result, ["x"])
    assert following.messages is not None
    assert len(following.messages[1].content) == 1


def test_a_request_of_any_form_can_be_gone_on_with() -> None:
    for request in ("Hi", [{"role": "user", "content": "Hi"}], decode_request(encode({**ASKED}))):
        following = continue_with(request, RESULT, ["x", "y"], stream=True)
        assert isinstance(following, JobRequest)
        assert following.stream
        again = continue_with(following, result_with(use("c")), ["z"])
        assert again.messages is not None
        assert len(again.messages) == 5


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"a": 1}, "no output for the calls b"),
        ({"a": 1, "b": 2, "c": 3}, "outputs for c, which were not called"),
        ([1], "1 outputs for 2 calls"),
        ([ToolResultBlock(tool_use_id="b", content=""), 1], "a result of b where that of a belongs"),
        ([object(), 1], "cannot be written as JSON"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(outputs: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        continue_with(ASKED, RESULT, outputs)


def test_what_cannot_be_gone_on_with_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no tool calls"):
        continue_with(ASKED, result_with({"type": "text", "text": "done"}), [])
    with pytest.raises(InvalidRequest, match="not a prompt"):
        continue_with({"prompt": {"name": "p"}}, RESULT, ["x", "y"])


async def test_calls_run_here_with_results_in_their_order() -> None:
    calls = result_with(
        use("1", city="Rome"),
        use("2", "shout", text="hey"),
        use("3", city="Atlantis"),
        use("4", city="Babel"),
        use("5", city=7),
        use("6", "unknown"),
    ).tool_calls
    results = await run_calls(calls, [weather, shout])
    assert [one.tool_use_id for one in results] == ["1", "2", "3", "4", "5", "6"]
    assert encode([one.content for one in results]) == encode(
        [
            [{"type": "json", "value": {"degrees": 4.0}}],
            "HEY",
            "no such city",
            "the tool failed with RuntimeError",
            "city: 'city' must be a string, not an integer",
            "there is no tool called unknown",
        ]
    )
    assert [one.is_error for one in results] == [False, False, True, True, True, True]
    following = continue_with(
        ASKED, result_with(*({"type": "tool_use", "id": c.id, "name": c.name} for c in calls)), results
    )
    assert following.messages is not None


async def test_leaving_tells_the_functions() -> None:
    seen: list[ToolContext] = []

    @tool
    async def hang(ctx: ToolContext) -> None:
        """Hang."""
        seen.append(ctx)
        await asyncio.Event().wait()

    running = asyncio.ensure_future(run_calls([ToolUseBlock(id="a", name="hang")], [hang]))
    while not seen:  # noqa: ASYNC110
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert seen[0].is_cancelled


@given(texts=st.lists(st.text(max_size=5), min_size=1, max_size=6))
def test_any_texts_come_back_as_they_were(texts: list[str]) -> None:
    result = result_with(*(use(str(i)) for i in range(len(texts))))
    following = continue_with("Hi", result, texts)
    assert following.messages is not None
    content = following.messages[2].content
    assert [b.content for b in content if isinstance(b, ToolResultBlock)] == texts
