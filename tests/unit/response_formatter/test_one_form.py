"""The same answer, whole and streamed in any pieces, comes out in one form; nothing a model says can break it."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.adapters.bedrock.call_form import EncodedCall
from sidecar.adapters.bedrock.decode import STOP_REASONS, decode_response
from sidecar.adapters.bedrock.stream import Assembler
from sidecar.adapters.bedrock.wire import convert_event, event_decoder
from sidecar.errors import ModelFailed, StreamInterrupted
from sidecar.models.call import ModelReply
from sidecar.models.content import ImageBlock, OtherBlock, TextBlock
from sidecar.models.facts import RunFacts
from sidecar.response_formatter.formatter import answered, digest, text_of

USAGE = {"inputTokens": 7, "outputTokens": 3, "cacheReadInputTokens": 1}
PLAIN, THINKING = EncodedCall(params={}), EncodedCall(params={}, splits_thinking=True)
NAMED = EncodedCall(params={}, tool_names={"llm_job": "llm.job"})
# What a model may write: tags in all places, white space, marks of other scripts.
TEXT = st.text(st.characters(codec="utf-8"), max_size=30) | st.lists(
    st.sampled_from(["<thinking>", "</thinking>", "<", "th", " ", "\n", "a b", "😀", "é", "</"]), max_size=8
).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=6,
)
CITATIONS = st.lists(
    st.fixed_dictionaries(
        {
            "title": TEXT,
            "location": st.fixed_dictionaries(
                {"documentPage": st.fixed_dictionaries({"start": st.integers(0, 9)})}
            ),
        }
    ),
    max_size=3,
)


def texts() -> st.SearchStrategy[dict[str, Any]]:
    return TEXT.map(lambda text: {"text": text})


def thoughts() -> st.SearchStrategy[dict[str, Any]]:
    signed = st.builds(
        lambda t, s: {"reasoningText": {"text": t, "signature": s}}, TEXT, st.text("ab+/", min_size=1)
    )
    plain = TEXT.map(lambda t: {"reasoningText": {"text": t}})
    hidden = st.binary(min_size=1, max_size=9).map(lambda d: {"redactedContent": b64encode(d).decode()})
    return st.one_of(signed, plain, hidden).map(lambda thought: {"reasoningContent": thought})


def calls() -> st.SearchStrategy[dict[str, Any]]:
    arguments = st.dictionaries(st.text("abc", max_size=3), JSON, max_size=3)
    return st.builds(
        lambda i, n, a: {"toolUse": {"toolUseId": i, "name": n, "input": a}},
        st.sampled_from(["t1", "t2", "t3"]),
        st.sampled_from(["search", "llm_job"]),
        arguments,
    )


def cited() -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda t, c: {"citationsContent": {"content": [{"text": t}], "citations": c}}, TEXT, CITATIONS
    )


def images() -> st.SearchStrategy[dict[str, Any]]:
    data = st.binary(min_size=1, max_size=20).map(lambda d: b64encode(d).decode())
    return data.map(lambda d: {"image": {"format": "png", "source": {"bytes": d}}})


BLOCKS = st.lists(st.one_of(texts(), thoughts(), calls(), cited(), images()), max_size=5)


def cut(text: str, sizes: list[int]) -> Iterator[str]:
    """A text in pieces of these sizes, over and over."""
    at, turn = 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        yield text[at : at + size]
        at, turn = at + size, turn + 1


def events_of(block: dict[str, Any], index: int, sizes: list[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """How the service streams a block."""
    (kind,) = block
    if kind in STARTS:
        yield "contentBlockStart", {"contentBlockIndex": index, "start": STARTS[kind](block[kind])}
    for delta in DELTAS[kind](block[kind], sizes):
        yield "contentBlockDelta", {"contentBlockIndex": index, "delta": delta}
    yield "contentBlockStop", {"contentBlockIndex": index}


def thought_deltas(thought: dict[str, Any], sizes: list[int]) -> Iterator[dict[str, Any]]:
    if "redactedContent" in thought:
        yield {"reasoningContent": thought}
        return
    yield from ({"reasoningContent": {"text": piece}} for piece in cut(thought["reasoningText"]["text"], sizes))
    if "signature" in thought["reasoningText"]:
        yield {"reasoningContent": {"signature": thought["reasoningText"]["signature"]}}


def cited_deltas(cited: dict[str, Any], sizes: list[int]) -> Iterator[dict[str, Any]]:
    yield from ({"text": piece} for piece in cut(cited["content"][0]["text"], sizes))
    yield from ({"citation": citation} for citation in cited["citations"])


STARTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "toolUse": lambda use: {"toolUse": {"toolUseId": use["toolUseId"], "name": use["name"]}},
    "image": lambda image: {"image": {"format": image["format"]}},
}
DELTAS: dict[str, Callable[[Any, list[int]], Iterable[dict[str, Any]]]] = {
    "text": lambda text, sizes: ({"text": piece} for piece in cut(text, sizes)),
    "reasoningContent": thought_deltas,
    "citationsContent": cited_deltas,
    "toolUse": lambda use, sizes: ({"toolUse": {"input": p}} for p in cut(json.dumps(use["input"]), sizes)),
    "image": lambda image, sizes: [{"image": {"source": image["source"]}}],
}


def whole(blocks: list[dict[str, Any]], stop: str, encoded: EncodedCall) -> ModelReply:
    body = {"output": {"message": {"role": "assistant", "content": blocks}}, "stopReason": stop, "usage": USAGE}
    return decode_response(json.dumps(body).encode(), encoded)


def streamed(
    blocks: list[dict[str, Any]], stop: str, encoded: EncodedCall, sizes: list[int]
) -> tuple[ModelReply, str, str]:
    """The reply, and the joined deltas of text and of reasoning."""
    assembler = Assembler(encoded)
    said, thought = "", ""
    events = [("messageStart", {"role": "assistant"})]
    for index, block in enumerate(blocks):
        events.extend(events_of(block, index, sizes))
    events += [("messageStop", {"stopReason": stop}), ("metadata", {"usage": USAGE})]
    for kind, payload in events:
        for delta in assembler.feed(event_decoder(kind)(json.dumps({**payload, "p": "abc"}).encode())):
            said += delta.text or ""
            thought += delta.reasoning or ""
    return assembler.finish(), said, thought


@settings(max_examples=100, deadline=None)
@given(
    BLOCKS,
    st.sampled_from(["end_turn", "tool_use", "stop_sequence", "content_filtered", "nobody_knows"]),
    st.sampled_from([PLAIN, THINKING, NAMED]),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_whole_and_streamed_answers_are_the_same(
    blocks: list[dict[str, Any]], stop: str, encoded: EncodedCall, sizes: list[int]
) -> None:
    one = whole(blocks, stop, encoded)
    other, said, thought = streamed(blocks, stop, encoded, sizes)
    assert one.content == other.content
    assert (one.stop_reason, one.raw_stop_reason, one.usage, sorted(one.warnings)) == (
        other.stop_reason,
        other.raw_stop_reason,
        other.usage,
        sorted(other.warnings),
    )
    result = answered(one, RunFacts())
    assert result.output.text == said == text_of(other.content)
    assert result.text_sha256 == digest(said)
    assert (
        "".join(
            getattr(block, "text", "") or ""
            for block in one.content
            if block.__class__.__name__ == "ReasoningBlock"
        )
        == thought
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXT, max_size=4))
def test_plain_text_is_exact(parts: list[str]) -> None:
    reply = whole([{"text": part} for part in parts], "end_turn", PLAIN)
    assert text_of(reply.content) == "".join(parts)


def test_the_text_that_is_cited_is_text_and_its_sources_are_kept() -> None:
    sources = [{"title": "page", "location": {"web": {"url": "https://example.com"}}}]
    block = {"citationsContent": {"content": [{"text": "It is "}, {"text": "so."}], "citations": sources}}
    reply = whole([block], "end_turn", PLAIN)
    assert reply.content == (TextBlock(text="It is so."), OtherBlock(value={"citations": sources}))
    assert reply.warnings == ()


def test_an_image_in_a_stream_is_an_image() -> None:
    data = b"\x89PNG"
    block = {"image": {"format": "png", "source": {"bytes": b64encode(data).decode()}}}
    reply, _, _ = streamed([block], "end_turn", PLAIN, [3])
    (image,) = reply.content
    assert isinstance(image, ImageBlock)
    assert image.source.data == data


@pytest.mark.parametrize(
    "block",
    [
        {"video": {"format": "mp4"}},
        {"citationsContent": {"content": [{"pdf": 1}]}},
        {"citationsContent": {"content": ["x"]}},
        {"image": {"format": "bmp", "source": {"bytes": "AAAA"}}},
        {"image": {"format": "png", "source": {"bytes": "not base64"}}},
        {"image": {"format": "png", "source": "s3"}},
        {"reasoningContent": {"redactedContent": "%%%"}},
        {"reasoningContent": {}},
        {},
    ],
)
def test_what_is_not_known_is_kept_with_a_warning_and_never_breaks_the_result(block: dict[str, Any]) -> None:
    reply = whole([{"text": "before"}, block], "end_turn", PLAIN)
    assert reply.content[0] == TextBlock(text="before")
    assert isinstance(reply.content[1], OtherBlock)
    assert reply.warnings
    msgspec.json.encode(answered(reply, RunFacts()))


def test_blocks_nested_without_end_are_an_error_of_the_model() -> None:
    body = b'{"output":{"message":{"content":[{"a":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}]}}"
    with pytest.raises(ModelFailed):
        decode_response(body + b',"stopReason":"end_turn"}', PLAIN)


EVENTS = st.sampled_from(
    [
        "messageStart",
        "contentBlockStart",
        "contentBlockDelta",
        "contentBlockStop",
        "messageStop",
        "metadata",
        "new",
    ]
)
PAYLOADS = st.fixed_dictionaries(
    {},
    optional={
        "contentBlockIndex": st.integers(0, 3),
        "start": st.dictionaries(st.sampled_from(["toolUse", "image", "x"]), JSON, max_size=2),
        "delta": st.dictionaries(
            st.sampled_from(["text", "toolUse", "reasoningContent", "citation", "image", "x"]), JSON, max_size=2
        ),
        "stopReason": st.sampled_from([*STOP_REASONS, "odd"]),
        "usage": st.fixed_dictionaries({}, optional={"inputTokens": st.integers(0, 9)}),
    },
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(EVENTS, PAYLOADS), max_size=8), st.sampled_from([PLAIN, THINKING]))
def test_any_row_of_events_is_an_answer_or_an_error_of_the_stream(
    events: list[tuple[str, dict[str, Any]]], encoded: EncodedCall
) -> None:
    assembler = Assembler(encoded)
    for kind, payload in events:
        try:
            event = convert_event(kind, payload)
        except msgspec.ValidationError:
            continue
        try:
            assembler.feed(event)
        except msgspec.ValidationError:
            return
    try:
        reply = assembler.finish()
    except StreamInterrupted:
        return
    msgspec.json.encode(answered(reply, RunFacts()))
