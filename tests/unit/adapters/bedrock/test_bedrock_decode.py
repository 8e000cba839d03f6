"""From Bedrock's answers to neutral ones, whole and streamed."""

import json
from typing import Any

import msgspec
import pytest

from sidecar.adapters.bedrock.call_form import EncodedCall
from sidecar.adapters.bedrock.decode import STOP_REASONS, decode_response
from sidecar.adapters.bedrock.frames import FrameDecoder
from sidecar.adapters.bedrock.stream import Assembler
from sidecar.adapters.bedrock.wire import event_decoder
from sidecar.errors import ModelFailed, StreamInterrupted
from sidecar.models.call import ModelDelta, ModelReply
from sidecar.models.content import OtherBlock, ReasoningBlock, TextBlock, ToolUseBlock
from tests.support.raw_bedrock import METADATA, START, STOP, answer, event, text, tool

PLAIN = EncodedCall(params={"messages": []})


def whole(
    content: list[dict[str, Any]], stop: str = "end_turn", *, encoded: EncodedCall = PLAIN, **more: Any
) -> ModelReply:
    return decode_response(json.dumps(answer(content, stop, **more)).encode(), encoded)


def streamed(*frames: bytes, encoded: EncodedCall = PLAIN) -> tuple[list[ModelDelta], ModelReply]:
    reading = FrameDecoder(lambda headers: event_decoder(str(headers[":event-type"])))
    assembler = Assembler(encoded)
    deltas = [delta for read, payload in reading.feed(b"".join(frames)) for delta in assembler.feed(read(payload))]
    return deltas, assembler.finish()


def stop(reason: str) -> bytes:
    return event("messageStop", stopReason=reason)


def call_of(name: str, arguments: Any, use_id: str = "t1", **more: Any) -> dict[str, Any]:
    return {"toolUse": {"toolUseId": use_id, "name": name, "input": arguments, **more}}


def test_every_modelled_stop_reason_has_a_neutral_one() -> None:
    from botocore.session import Session

    shape = Session().get_service_model("bedrock-runtime").shape_for("StopReason")
    assert set(shape.enum) == set(STOP_REASONS)


def test_usage_with_cache() -> None:
    usage = {"inputTokens": 1, "outputTokens": 2, "cacheReadInputTokens": 3, "cacheWriteInputTokens": 4, "new": {}}
    reply = whole([{"text": "x"}], usage=usage)
    assert msgspec.structs.astuple(reply.usage) == (1, 2, 3, 4)


def test_tool_names_go_back_to_those_of_the_call() -> None:
    encoded = EncodedCall(params={}, tool_names={"llm_job": "llm.job"})
    assert whole([call_of("llm_job", {})], "tool_use", encoded=encoded).content == (
        ToolUseBlock(id="t1", name="llm.job", input={}),
    )
    _, reply = streamed(START, tool("t1", "llm_job", '{"a": 1}'), stop("tool_use"), METADATA, encoded=encoded)
    assert reply.content == (ToolUseBlock(id="t1", name="llm.job", input={"a": 1}),)


def test_the_output_tool_becomes_text() -> None:
    encoded = EncodedCall(params={}, output_tool="structured_output")
    reply = whole([call_of("structured_output", {"city": "Paris"})], "tool_use", encoded=encoded)
    assert reply.content == (TextBlock(text='{"city":"Paris"}'),)
    assert reply.stop_reason == "end_turn"
    deltas, reply = streamed(
        START, tool("t1", "structured_output", '{"city": "Paris"}'), stop("tool_use"), METADATA, encoded=encoded
    )
    assert "".join(delta.text or "" for delta in deltas) == reply.content[0].text
    assert reply.content == (TextBlock(text='{"city":"Paris"}'),)
    assert reply.stop_reason == "end_turn"


def test_a_call_under_choice_none_never_runs() -> None:
    encoded = EncodedCall(params={}, takes_tools=False)
    reply = whole([call_of("search", {})], "tool_use", encoded=encoded)
    assert isinstance(reply.content[0], OtherBlock)
    assert reply.stop_reason == "malformed_output", "it says nothing else"
    assert whole([{"text": "x"}, call_of("search", {})], "tool_use", encoded=encoded).stop_reason == "other"
    assert any("tool_choice is none" in warning for warning in reply.warnings)


BROKEN = ['{"q": "a', '"text"', "[1]", "7", '{"q": "\\ud83d"}', "[" * 70 + "]" * 70]


@pytest.mark.parametrize("written", BROKEN)
@pytest.mark.parametrize("stop_reason", ["tool_use", "end_turn", "stop_sequence", "martian"])
def test_a_call_that_cannot_be_read_is_kept_for_the_model_and_never_made(written: str, stop_reason: str) -> None:
    frames = (START, text("ok"), tool("t1", "search", written, 1), stop(stop_reason), METADATA)
    replies = [streamed(*frames)[1], whole([{"text": "ok"}, call_of("search", written)], stop_reason)]
    for reply in replies:
        assert reply.content == (TextBlock(text="ok"), ToolUseBlock(id="t1", name="search", input={}))
        assert reply.stop_reason == "tool_use"
        (found,) = reply.unreadable
        assert (found.call, found.raw) == (0, call_of("search", written))
        assert found.problem
        assert reply.warnings
    plain = EncodedCall(params={}, offers_tools=False)
    unasked = streamed(*frames, encoded=plain)[1]
    assert unasked.unreadable == (), "nobody is asked again where there are no tools"
    assert unasked.content == (TextBlock(text="ok"), OtherBlock(value=call_of("search", written)))


def test_a_call_without_a_name_cannot_be_read() -> None:
    for start in ({"toolUseId": "t1", "name": None}, {"toolUseId": "t1"}, {"toolUseId": "t1", "name": ""}):
        frames = (
            event("contentBlockStart", contentBlockIndex=0, start={"toolUse": start}),
            event("contentBlockDelta", contentBlockIndex=0, delta={"toolUse": {"input": "{}"}}),
        )
        for reply in (
            streamed(START, *frames, stop("tool_use"), METADATA)[1],
            whole([{"toolUse": {**start, "input": {}}}], "tool_use"),
        ):
            assert reply.content == (ToolUseBlock(id="t1", name="unnamed_tool", input={}),)
            assert [found.problem for found in reply.unreadable] == ["it names no tool"]


@pytest.mark.parametrize("empty", [None, "", {}])
def test_no_arguments_at_all_are_an_empty_object(empty: Any) -> None:
    written = json.dumps(empty)
    for reply in (
        whole([call_of("search", empty)], "tool_use"),
        streamed(START, tool("t1", "search", written), stop("tool_use"), METADATA)[1],
        streamed(START, tool("t1", "search", ""), stop("tool_use"), METADATA)[1],
    ):
        assert reply.content == (ToolUseBlock(id="t1", name="search", input={}),)
        assert (reply.unreadable, reply.warnings) == ((), ())


@pytest.mark.parametrize("given", [{"q": "x"}, '{"q": "x"}'])
def test_arguments_may_come_with_the_start_of_a_call(given: Any) -> None:
    use = {"toolUseId": "t1", "name": "search", "input": given}
    begun = event("contentBlockStart", contentBlockIndex=0, start={"toolUse": use})
    end = event("contentBlockStop", contentBlockIndex=0)
    _, reply = streamed(START, begun, end, stop("tool_use"), METADATA)
    assert reply.content == (ToolUseBlock(id="t1", name="search", input={"q": "x"}),)
    encoded = EncodedCall(params={}, output_tool="search")
    deltas, reply = streamed(START, begun, end, stop("tool_use"), METADATA, encoded=encoded)
    assert reply.content == (TextBlock(text='{"q":"x"}'),)
    assert "".join(delta.text or "" for delta in deltas) == '{"q":"x"}'


@pytest.mark.parametrize("reason", ["end_turn", "stop_sequence", "tool_use", "martian"])
def test_a_whole_call_counts_whatever_the_stop_reason(reason: str) -> None:
    for reply in (
        whole([{"text": "ok"}, call_of("search", {"q": 1})], reason),
        streamed(START, text("ok"), tool("t1", "search", '{"q": 1}', 1), stop(reason), METADATA)[1],
    ):
        assert (reply.stop_reason, reply.raw_stop_reason) == ("tool_use", reason)
        assert bool(reply.warnings) is (reason != "tool_use")


@pytest.mark.parametrize(
    "reason", ["max_tokens", "guardrail_intervened", "content_filtered", "malformed_tool_use"]
)
def test_calls_of_a_cut_or_blocked_answer_are_not_made(reason: str) -> None:
    for reply in (
        whole([call_of("search", {"q": 1}), {"text": "and th"}], reason),
        streamed(START, tool("t1", "search", '{"q": 1}'), text("and th", 1), stop(reason), METADATA)[1],
        streamed(START, tool("t1", "search", '{"q": '), text("and th", 1), stop(reason), METADATA)[1],
    ):
        assert reply.stop_reason == STOP_REASONS[reason]
        assert reply.unreadable == ()


def test_stopping_for_no_known_reason_without_a_word_is_no_answer() -> None:
    assert whole([], "martian").stop_reason == "malformed_output"
    assert whole([{"text": " "}], "tool_use").stop_reason == "malformed_output"
    assert whole([{"text": "x"}], "martian").stop_reason == "other"
    assert streamed(START, stop("martian"), METADATA)[1].stop_reason == "malformed_output"


def test_what_the_provider_ran_itself_is_no_call_of_ours() -> None:
    block = call_of("code", {"a": 1}, type="server_tool_use")
    ran = {"toolResult": {"toolUseId": "t1", "content": [{"json": {"out": 1}}]}}
    reply = whole([block, ran, {"text": "1"}])
    assert reply.content == (OtherBlock(value=block), OtherBlock(value=ran), TextBlock(text="1"))
    assert reply.warnings == ()


def test_reasoning_comes_before_tool_calls() -> None:
    thought = {"reasoningContent": {"reasoningText": {"text": "why", "signature": "s"}}}
    reply = whole([call_of("search", {}), {"text": "t"}, thought], "tool_use")
    assert [type(block) for block in reply.content] == [ReasoningBlock, TextBlock, ToolUseBlock]


def test_inline_thinking_is_split_in_both_forms() -> None:
    encoded = EncodedCall(params={}, splits_thinking=True)
    expected = (ReasoningBlock(text="why"), TextBlock(text="answer"))
    assert whole([{"text": "<thinking> why </thinking>\nanswer"}], encoded=encoded).content == expected
    pieces = ["<thin", "king> w", "hy </", "thinking>", "\n", "ans", "wer"]
    deltas, reply = streamed(
        START,
        *(text(piece) for piece in pieces),
        event("contentBlockStop", contentBlockIndex=0),
        tool("t1", "search", "{}", 1),
        stop("tool_use"),
        METADATA,
        encoded=encoded,
    )
    assert reply.content[:2] == expected
    assert "".join(delta.reasoning or "" for delta in deltas) == "why"
    assert "".join(delta.text or "" for delta in deltas) == "answer"
    indexes = [delta.index for delta in deltas if delta.text or delta.reasoning]
    assert indexes == sorted(indexes)
    assert {delta.index for delta in deltas} == {0, 1, 2}


def test_masking_by_a_guardrail_is_no_blocking() -> None:
    def trace(action: str) -> dict[str, Any]:
        found = {"sensitiveInformationPolicy": {"piiEntities": [{"type": "EMAIL", "action": action}]}}
        return {"guardrail": {"outputAssessments": {"gr": [found]}}}

    masked = whole([{"text": "{EMAIL}"}], "guardrail_intervened", trace=trace("ANONYMIZED"))
    assert (masked.stop_reason, masked.raw_stop_reason) == ("end_turn", "guardrail_intervened")
    assert any("masked" in warning for warning in masked.warnings)
    assert masked.guardrail_trace
    assert whole([{"text": "no"}], "guardrail_intervened", trace=trace("BLOCKED")).stop_reason == "guardrail"
    assert whole([{"text": "no"}], "guardrail_intervened").stop_reason == "guardrail"


def test_empty_text_blocks_leave_nothing() -> None:
    deltas, reply = streamed(START, text(""), text("x", 2), STOP, METADATA)
    assert [(delta.index, delta.text) for delta in deltas] == [(0, None), (2, "x")]
    assert reply.content == (TextBlock(text="x"),)


def test_tool_arguments_are_a_sign_of_life_without_content() -> None:
    deltas, _ = streamed(START, tool("t1", "search", '{"a": 1}'), stop("tool_use"), METADATA)
    assert deltas
    assert all(delta.text is None and delta.reasoning is None for delta in deltas)


def test_warnings_of_the_encoder_come_with_the_reply() -> None:
    assert whole([{"text": "x"}], encoded=EncodedCall(params={}, warnings=("no top_k",))).warnings == ("no top_k",)


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b"[]", b'{"output": {}}', b"\xff"])
def test_what_is_no_answer_is_an_error(body: bytes) -> None:
    with pytest.raises(ModelFailed):
        decode_response(body, PLAIN)


def test_an_unfinished_stream_is_no_answer() -> None:
    with pytest.raises(StreamInterrupted):
        streamed(START, text("half"))
