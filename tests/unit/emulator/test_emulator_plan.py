from typing import Any

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer

from sidecar.emulator.answer import Prompt, compose
from sidecar.emulator.behaviour import Behaviour, Fault
from sidecar.emulator.events import StreamEvent, make_events, make_metadata, make_reply
from sidecar.emulator.plan import (
    EOF,
    End,
    Send,
    Step,
    Wait,
    find_body_fault,
    is_before_headers,
    merge_sends,
    plan_reply,
    plan_stream,
    spoil_reply,
)

USAGE = {"inputTokens": 1, "outputTokens": 20, "totalTokens": 21}


def make_stream() -> list[StreamEvent]:
    answer = compose(Prompt("hello", b"d"), Behaviour(tokens=20))
    return [*make_events(answer, chunk_tokens=4), make_metadata(usage=USAGE, latency_ms=1, extra={})]


def kinds(steps: list[Step]) -> list[str]:
    buffer = EventStreamBuffer()
    buffer.add_data(b"".join(step.data for step in steps if isinstance(step, Send)))
    return [e.headers.get(":event-type") or e.headers.get(":exception-type") or "error" for e in buffer]


PLAIN = ["messageStart", *["contentBlockDelta"] * 5, "contentBlockStop", "messageStop", "metadata"]


def test_without_faults_all_events_come_and_the_stream_ends_properly() -> None:
    steps = plan_stream(make_stream(), [])
    assert kinds(steps) == PLAIN
    assert steps[-1] == EOF
    assert sum(step.tokens for step in steps if isinstance(step, Send)) == 20


@pytest.mark.parametrize(
    ("at", "before"), [("0", 0), ("3", 3), ("mid", 4), ("stop", 8), ("end", 9), ("99", 9), ("headers", 0)]
)
def test_an_exception_ends_the_stream_at_its_place(at: str, before: int) -> None:
    steps = plan_stream(make_stream(), [Fault("throttling", at=at)])
    assert kinds(steps) == [*PLAIN[:before], "throttlingException"]
    assert steps[-1] == EOF


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("missing_stop", PLAIN[:-2]),
        ("missing_metadata", PLAIN[:-1]),
        ("unknown_event", ["messageStart", "modelMoodChanged", *PLAIN[1:]]),
        (
            "unknown_block",
            [*PLAIN[:7], "contentBlockStart", "contentBlockDelta", "contentBlockStop", *PLAIN[7:]],
        ),
        ("error_frame", [*PLAIN[:4], "error"]),
        ("huge_frame", [*PLAIN[:2], "contentBlockDelta", *PLAIN[2:]]),
        ("drip", PLAIN),
        ("stall", PLAIN),
    ],
)
def test_faults_change_the_sequence_as_told(fault: str, expected: list[str]) -> None:
    assert kinds(plan_stream(make_stream(), [Fault(fault)])) == expected


def test_a_cut_ends_properly_inside_a_frame() -> None:
    whole, steps = plan_stream(make_stream(), []), plan_stream(make_stream(), [Fault("cut", at="3")])
    assert steps[-1] == EOF
    assert steps[:3] == whole[:3]
    last, full = steps[3], whole[3]
    assert isinstance(last, Send)
    assert isinstance(full, Send)
    assert full.data.startswith(last.data)
    assert 0 < len(last.data) < len(full.data)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_broken_connection_ends_the_plan(how: Any) -> None:
    steps = plan_stream(make_stream(), [Fault(how, at="2")])
    assert len(steps) == 3
    assert steps[-1] == End(how)


def test_a_stall_waits_at_its_place_and_goes_on() -> None:
    steps = plan_stream(make_stream(), [Fault("stall", at="2", s=7.0)])
    assert steps[2] == Wait(7.0)
    assert kinds(steps) == PLAIN


def test_a_wrong_checksum_is_in_one_frame_only() -> None:
    steps = plan_stream(make_stream(), [Fault("bad_crc", at="1")])
    assert kinds(steps[:1]) == ["messageStart"]
    with pytest.raises(ChecksumMismatch):
        kinds(steps[1:2])
    assert kinds(steps[2:]) == PLAIN[2:]


def test_missing_usage_leaves_the_rest_of_the_metadata() -> None:
    steps = plan_stream(make_stream(), [Fault("missing_usage")])
    last = steps[-2]
    assert isinstance(last, Send)
    assert b"latencyMs" in last.data
    assert b"usage" not in last.data


def test_a_drip_sends_single_bytes_with_pauses() -> None:
    steps = plan_reply(b"abc", [Fault("drip")])
    assert [step.data for step in steps if isinstance(step, Send)] == [b"a", b"b", b"c"]
    assert sum(isinstance(step, Wait) for step in steps) == 3


def test_merging_keeps_bytes_tokens_and_waits() -> None:
    steps = plan_stream(make_stream(), [Fault("stall", at="2")])
    merged = merge_sends(steps)
    assert len(merged) == 4
    assert b"".join(s.data for s in merged if isinstance(s, Send)) == b"".join(
        s.data for s in steps if isinstance(s, Send)
    )


def test_plain_replies_are_cut_or_broken_in_the_middle() -> None:
    body = b"0123456789"
    assert plan_reply(body, []) == [Send(body), EOF]
    assert plan_reply(body, [Fault("cut")]) == [Send(b"01234"), EOF]
    assert plan_reply(body, [Fault("close")]) == [Send(b"01234"), End("close")]
    assert plan_reply(body, [Fault("reset")]) == [Send(b"01234"), End("reset")]


def test_faults_of_content_change_the_reply() -> None:
    reply = make_reply(compose(Prompt("hello", b"d"), Behaviour()), usage=USAGE, latency_ms=1, extra={})
    assert "usage" not in spoil_reply(reply, [Fault("missing_usage")])
    assert "hologram" in spoil_reply(reply, [Fault("unknown_block")])["output"]["message"]["content"][-1]
    assert find_body_fault([Fault("empty")]) == b""
    assert b"<html>" in (find_body_fault([Fault("html")]) or b"")
    assert find_body_fault([Fault("cut")]) is None


def test_exceptions_without_a_place_come_as_a_status() -> None:
    assert is_before_headers(Fault("internal"), is_stream=True)
    assert not is_before_headers(Fault("internal", at="3"), is_stream=True)
    assert is_before_headers(Fault("internal", at="3"), is_stream=False)
    assert is_before_headers(Fault("stall"), is_stream=False)
    assert not is_before_headers(Fault("stall"), is_stream=True)
