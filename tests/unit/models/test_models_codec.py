"""Bytes to messages and back: what is refused, with which path and remedy, and that nothing else is raised."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scripts.schema.catalog import MESSAGES
from sidecar.errors import InvalidRequest
from sidecar.models.api import CancelRequest, JobsRequest, ReplayRequest
from sidecar.models.codec import (
    decode,
    decode_event,
    decode_plain_or_request,
    decode_request,
    decode_state,
    encode,
)
from sidecar.models.event import Event
from sidecar.models.job import JobState
from sidecar.models.request import JobRequest
from sidecar.models.tool import ToolRegistration
from tests.support.messages import JSON, messages_of

USER = {"role": "user", "content": "hello"}
BLOCK_PATH = "messages[0].content[0]"
SOURCE_PATH = f"{BLOCK_PATH}.source"


def refusal(payload: bytes, decoder: Any = decode_request) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        decoder(payload)
    assert caught.value.code == "invalid_request"
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000
    return caught.value


def explains_itself(decoder: Any, payload: bytes) -> bool:
    """Whether the payload was taken, or refused with a message fit for a header; anything else is raised."""
    try:
        decoder(payload)
    except InvalidRequest as error:
        return error.message != "" and error.message.isprintable() and len(error.message) < 1000
    return True


def with_fields(**fields: Any) -> bytes:
    return json.dumps({"messages": [USER], **fields}).encode()


def with_block(**block: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": [block]}]}).encode()


@pytest.mark.parametrize(
    ("payload", "path", "words"),
    [
        (b'{"mesages":[]}', "mesages", "did you mean 'messages'?"),
        (with_fields(params={"max_token": 5}), "params.max_token", "did you mean 'max_tokens'?"),
        (with_fields(params={"zzz": 5}), "params.zzz", "known here: max_tokens, temperature"),
        (with_block(type="text", text="a", bold=1), f"{BLOCK_PATH}.bold", "known here: type, text"),
        (with_block(type="image", source={}), f"{BLOCK_PATH}.source", "exactly one of 'bytes'"),
        (with_block(type="image", source={"object": "a"}), f"{BLOCK_PATH}.format", "'format' is missing"),
        (with_block(type="video"), f"{BLOCK_PATH}.type", "use one of text, image, document"),
        (with_block(text="a"), f"{BLOCK_PATH}.type", "give one of text, image, document"),
        (with_block(type=5), f"{BLOCK_PATH}.type", "must be a string"),
        (
            with_block(type="image", format="png", source={"bytes": "?"}),
            f"{SOURCE_PATH}.bytes",
            "not base64",
        ),
        (with_block(type="image", format="png", source={"bytes": ""}), f"{SOURCE_PATH}.bytes", "is empty"),
        (
            with_block(type="image", format="tiff", source={"object": "a"}),
            f"{BLOCK_PATH}.format",
            "gif, jpeg, png",
        ),
        (
            with_block(type="image", format="png", source={"object": "a\n"}),
            f"{SOURCE_PATH}.object",
            "control",
        ),
        (b'{"messages":5}', "messages", "must be a list or null, not an integer"),
        (b'{"messages":[]}', "messages", "at least 1 entries, not 0"),
        (b'{"messages":[{"role":"user"}]}', "messages[0].content", "'content' is missing"),
        (b'{"messages":[{"role":"system","content":"x"}]}', "messages[0].role", "use one of assistant, user"),
        (b"{}", "", "exactly one of 'messages' and 'prompt'"),
        (with_fields(prompt={"name": "a"}), "", "exactly one of 'messages' and 'prompt'"),
        (with_fields(params={"max_tokens": 0}), "params.max_tokens", "must be >= 1, not 0"),
        (with_fields(params={"max_tokens": 1.5}), "params.max_tokens", "must be an integer or null, not a number"),
        (with_fields(params={"temperature": 2}), "params.temperature", "must be <= 1.0, not 2"),
        (with_fields(timeout_s=0), "timeout_s", "must be > 0"),
        (with_fields(timeout_s="5"), "timeout_s", "must be a number or null, not a string"),
        (with_fields(model=""), "model", "at least 1"),
        (with_fields(model=["m"] * 17), "model", "at most 16 entries, not 17"),
        (with_fields(tool_choice="sometimes"), "tool_choice", "use one of any, auto, none"),
        (with_fields(deadline="2026-12-01T10:00:00"), "deadline", "no time zone: end it with Z"),
        (with_fields(deadline="tomorrow"), "deadline", "write it like 2026-12-01T10:00:00.000Z"),
        (with_fields(reasoning={}), "reasoning", "exactly one of 'effort' and 'budget_tokens'"),
        (with_fields(stream=1), "stream", "must be true or false, not an integer"),
        (with_fields(filters=["a\n"]), "filters[0]", "1 to 64 of A-Z a-z 0-9 _ -"),
        (with_fields(tools=["a b"]), "tools[0]", "name@range"),
        (with_fields(metadata={"fine": 1, "list": []}), 'metadata["list"]', "not a list"),
        (with_fields(metadata={"a\nb": {}}), 'metadata["a\\nb"]', "not an object"),
        (with_fields(metadata={"a": "x" * 9000}), "metadata", "larger than 8192 bytes"),
        (with_fields(**{"bad\nname": 1}), '["bad\\nname"]', "known here: messages, prompt"),
        (with_fields(**{"n" * 500: 1}), f'["{"n" * 40}"]', "known here"),
        (with_fields(cache="x" * 5000), "cache", "use one of auto, none"),
        (with_fields(output={"schema": []}), "output.schema", "must be an object, not a list"),
        (b"[1]", "", "must be an object, not a list"),
        (b'"text"', "", "must be an object, not a string"),
    ],
)
def test_a_bad_field_is_refused_with_its_path_and_the_remedy(payload: bytes, path: str, words: str) -> None:
    error = refusal(payload)
    assert error.path == path
    assert words in error.message


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b" ", "is empty"),
        (b"{", "not JSON: Expecting property name"),
        (b'{"messages":\n [1,}', "line 2, column 5 (byte 17)"),
        (b'{"messages":[]} x', "Extra data at line 1, column 17 (byte 16)"),
        (b"{'a':1}", "(byte 1)"),
        (b'{"system":"\xff"}', "not UTF-8: byte 11 (0xff)"),
        (b'{"system":"\xed\xa0\x80"}', "not UTF-8: byte 11"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8: byte 0"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"timeout_s": NaN}', "(byte 14): NaN and Infinity are not JSON"),
        (b'{"timeout_s":\n -Infinity}', "line 2"),
        (b'{"system":"\\ud800"}', "half a surrogate pair"),
        (b'{"system":"\\udc00a"}', "half a surrogate pair"),
        (b'{"a":' * 5000, "nested too deep"),
        (b'{"output":{"schema":' + b'{"a":' * 5000 + b"1" + b"}" * 5002, "nested"),
        (b"[" * 200_000, "nested too deep"),
    ],
)
def test_what_is_no_json_text_is_refused_with_the_place(payload: bytes, words: str) -> None:
    error = refusal(payload)
    assert error.path == ""
    assert words in error.message


@pytest.mark.parametrize(
    ("number", "path"),
    [("1e999", 'output.schema["a"][1]["b"]'), ("9" * 5000, 'output.schema["a"][1]["b"]')],
)
def test_a_number_out_of_range_is_refused_where_it_stands(number: str, path: str) -> None:
    payload = b'{"messages":[],"output":{"schema":{"x":1,"a":[1,{"b":%s}]}}}' % number.encode()
    error = refusal(payload.replace(b"[],", b'[{"role":"user","content":"a"}],'))
    assert error.path == path
    assert "out of range" in error.message


def test_the_last_of_repeated_keys_counts() -> None:
    payload = b'{"messages":[{"role":"user","content":"a"}],"system":"first","system":"last"}'
    assert decode_request(payload).system == "last"


def test_a_number_out_of_range_is_found_in_one_walk_however_deep_it_lies() -> None:
    deep = b'{"a":' * 900 + b'{"wide":[' + b"1," * 300_000 + b"1e999]}" + b"}" * 900
    error = refusal(b'{"messages":[{"role":"user","content":"a"}],"output":{"schema":' + deep + b"}}")
    assert error.path.startswith('output.schema["a"]["a"]')
    assert len(error.path) == 512


def test_a_huge_payload_without_end_is_refused_in_linear_time() -> None:
    assert "not JSON" in refusal(b'{"system":"' + b"\\\\" * 2_000_000).message


@settings(max_examples=300)
@given(st.binary(max_size=200))
@example(b'{"messages":[{"role":"user","content":[{"type":"\\ud800"}]}]}')
def test_garbage_raises_nothing_but_invalid_request(payload: bytes) -> None:
    for decoder in (decode_request, decode_event, decode_state, decode_plain_or_request):
        assert explains_itself(decoder, payload)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(request=messages_of(JobRequest).map(encode), data=st.data())
def test_damaged_requests_raise_nothing_but_invalid_request(request: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(request)))
    upto = data.draw(st.integers(at, min(len(request), at + 8)))
    damaged = request[:at] + data.draw(st.binary(max_size=4)) + request[upto:]
    assert explains_itself(decode_request, damaged)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from([f.name for f in msgspec.structs.fields(JobRequest)]), JSON, max_size=4))
def test_wrong_values_of_known_fields_raise_nothing_but_invalid_request(fields: dict[str, Any]) -> None:
    assert explains_itself(decode_request, encode(fields))


@pytest.mark.parametrize("kind", [m.type for m in MESSAGES], ids=[m.name for m in MESSAGES])
def test_every_message_survives_the_wire(kind: Any) -> None:
    @settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
    @given(messages_of(kind))
    def survives(message: Any) -> None:
        decoded = decode_event(encode(message)) if kind is Event else decode(encode(message), kind)
        assert decoded == message

    survives()


@pytest.mark.parametrize("kind", [CancelRequest, ReplayRequest, JobsRequest])
def test_an_empty_payload_stands_for_all_defaults(kind: Any) -> None:
    assert decode(b"", kind) == kind()


def test_an_empty_payload_where_fields_are_needed_names_the_first() -> None:
    assert refusal(b"", lambda payload: decode(payload, ToolRegistration)).path == "name"


def test_plain_text_becomes_one_user_message() -> None:
    request = decode_plain_or_request("Was ist „NATS“? 🚀 [1]\n".encode())
    assert request.messages is not None
    assert request.messages[0].content == "Was ist „NATS“? 🚀 [1]\n"
    assert len(request.messages) == 1


def test_what_begins_with_a_brace_is_json_not_text() -> None:
    assert decode_plain_or_request(b' \n{"messages":[{"role":"user","content":"a"}]}').messages is not None
    assert "not JSON" in refusal(b"{ is a brace", decode_plain_or_request).message


@pytest.mark.parametrize("payload", [b"", b" \n\t", "\u2003".encode()])
def test_a_question_without_text_is_refused(payload: bytes) -> None:
    assert "is empty" in refusal(payload, decode_plain_or_request).message


def test_plain_text_that_is_not_utf8_is_refused() -> None:
    assert "not UTF-8: byte 4" in refusal(b"caf \xe9", decode_plain_or_request).message


def test_fields_of_newer_versions_in_events_are_ignored() -> None:
    event = decode_event(
        b'{"job":"j","tenant":"t","type":"delta","attempt":1,"n":2,"time":"x","metadata":{},'
        b'"data":{"index":0,"text":"a","colour":"red"},"shard":7}'
    )
    assert msgspec.to_builtins(event.data) == {"index": 0, "text": "a"}


def test_a_fault_in_an_events_data_is_found_below_data() -> None:
    error = refusal(
        b'{"job":"j","tenant":"t","type":"delta","attempt":1,"n":2,"time":"x","metadata":{},"data":{"index":"a"}}',
        decode_event,
    )
    assert error.path == "data.index"


def test_a_state_document_keeps_the_words_of_the_protocol() -> None:
    state = JobState(
        job="j",
        tenant="t",
        job_class="batch",
        state="queued",
        attempt=0,
        owner=None,
        model=None,
        request_seq=1,
        created="x",
        updated="x",
    )
    assert json.loads(encode(state))["class"] == "batch"
    assert decode_state(encode(state)) == state


def test_half_surrogates_of_a_model_are_replaced_not_fatal() -> None:
    assert json.loads(encode({"text": "a\ud83d b", "emoji": "🚀", "list": ("\udc00",)})) == {
        "text": "a� b",
        "emoji": "🚀",
        "list": ["�"],
    }


def test_numbers_without_a_json_word_become_null() -> None:
    assert encode({"a": float("nan"), "b": float("inf")}) == b'{"a":null,"b":null}'


@pytest.mark.parametrize("read", [decode_request, lambda payload: decode(payload, dict)])
def test_numbers_that_take_a_decoder_long_are_refused_by_name(read: Any) -> None:
    """Each number near the ends of a double's range takes five hundred times as long as any other."""
    many, few = b"[1" + b",1e308" * 20_000 + b"]", b"[1" + b",1e308" * 900 + b",1.5" * 20_000 + b"]"
    request = b'{"messages":[{"role":"user","content":"x"}],"output":{"schema":{"enum":%s}}}'
    with pytest.raises(InvalidRequest, match="exponents"):
        read(request % many)
    read(request % few)
