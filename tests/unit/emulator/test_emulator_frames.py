import json
from typing import Any

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from sidecar.emulator.frames import corrupt, encode_error, encode_event, encode_exception

payloads = st.dictionaries(
    st.text(max_size=8).filter(lambda key: key != "p"),
    st.integers(-(2**53), 2**53) | st.text(max_size=40),
    max_size=5,
)


def decode(data: bytes) -> list[Any]:
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return list(buffer)


@given(st.lists(payloads, max_size=4))
def test_botocore_decodes_what_is_encoded(bodies: list[dict[str, Any]]) -> None:
    events = decode(b"".join(encode_event("contentBlockDelta", body) for body in bodies))
    assert [event.headers for event in events] == [
        {":event-type": "contentBlockDelta", ":content-type": "application/json", ":message-type": "event"}
    ] * len(bodies)
    decoded = [json.loads(event.payload) for event in events]
    for payload in decoded:
        assert payload.pop("p").startswith("ab")
    assert decoded == bodies


def test_equal_events_are_equal_bytes() -> None:
    assert encode_event("messageStart", {"role": "assistant"}) == encode_event(
        "messageStart", {"role": "assistant"}
    )


def test_exception_frames_carry_type_and_message() -> None:
    [event] = decode(encode_exception("throttlingException", "slow down"))
    assert event.headers[":message-type"] == "exception"
    assert event.headers[":exception-type"] == "throttlingException"
    assert json.loads(event.payload) == {"message": "slow down"}


def test_error_frames_tell_all_in_headers() -> None:
    [event] = decode(encode_error("InternalFailure", "broken"))
    assert event.headers[":message-type"] == "error"
    assert event.headers[":error-code"] == "InternalFailure"


def test_a_corrupt_frame_fails_its_checksum() -> None:
    with pytest.raises(ChecksumMismatch):
        decode(corrupt(encode_event("messageStop", {"stopReason": "end_turn"})))
