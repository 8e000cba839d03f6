"""What providers answer, and which answers they keep."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.client import ToolCancelled, ToolError
from sidecar.client.tools.calls import Identity, Outcomes, identity_of
from sidecar.client.tools.context import ToolContext, context_of
from sidecar.client.tools.replies import Reply, error_reply, failure, header_text, output_reply

KEY = Identity("acme", "j", "t", "k")


@given(st.text(max_size=2000))
def test_any_text_is_safe_in_a_header(text: str) -> None:
    safe = header_text(text)
    assert 0 < len(safe) <= 500
    assert safe.isprintable()
    assert safe == safe.strip()


def test_errors_say_their_code_and_text() -> None:
    reply = failure(ToolError("no such order", code=404))
    assert reply.headers == {"Nats-Service-Error-Code": "404", "Nats-Service-Error": "no such order"}
    assert json.loads(reply.payload)["error"]["message"] == "no such order"
    assert (failure(ToolCancelled()).headers or {})["Nats-Service-Error-Code"] == "499"
    hidden = failure(RuntimeError("password"))
    assert b"password" not in hidden.payload
    assert (hidden.headers or {})["Nats-Service-Error"] == "the tool failed with RuntimeError"
    with pytest.raises(ValueError, match="400 to 599"):
        ToolError("x", code=200)


def test_outputs_larger_than_the_bus_takes_are_errors() -> None:
    assert output_reply(b"x" * 1000, limit_bytes=4096) == Reply(b"x" * 1000)
    reply = output_reply(b"x" * 4096, limit_bytes=4096)
    assert reply.is_error
    assert json.loads(reply.payload)["error"]["details"] == {"bytes": 4096, "limit_bytes": 4096}


def test_outcomes_are_kept_for_a_while_and_within_bounds() -> None:
    kept = Outcomes(most=3, most_bytes=1000, keep_s=10)
    kept.put(KEY, b"in", Reply(b"out"), now=0)
    assert kept.get(KEY, b"in", now=9) == Reply(b"out")
    assert kept.get(KEY, b"in", now=10) is None
    assert kept.get(KEY, b"other", now=0) is None
    assert kept.get(KEY._replace(tenant="globex"), b"in", now=0) is None
    for i in range(5):
        kept.put(KEY._replace(job_id=str(i)), b"", Reply(b"x" * 100), now=1)
    assert [kept.get(KEY._replace(job_id=str(i)), b"", now=1) is not None for i in range(5)] == [False] * 2 + [
        True
    ] * 3
    kept.put(KEY._replace(job_id="large"), b"", Reply(b"x" * 500), now=1)
    assert kept.get(KEY._replace(job_id="large"), b"", now=1) is None


def test_the_oldest_outcomes_make_room_by_bytes() -> None:
    kept = Outcomes(most=100, most_bytes=1000, keep_s=10)
    for i in range(20):
        kept.put(KEY._replace(job_id=str(i)), b"", Reply(b"x" * 100), now=0)
    assert sum(kept.get(KEY._replace(job_id=str(i)), b"", now=0) is not None for i in range(20)) == 10


def test_a_context_is_what_the_headers_say() -> None:
    assert identity_of(context_of({})) is None
    context = context_of({"Llm-Job-Id": "j", "Llm-Deadline": "2026-01-01T00:00:10.000Z"})
    assert identity_of(context) == Identity(None, "j", None, None)
    assert context.deadline is not None
    assert context.remaining_s(clock=lambda: context.deadline.timestamp() - 4) == pytest.approx(4)  # type: ignore[union-attr]
    assert context.remaining_s(clock=lambda: context.deadline.timestamp() + 4) == 0  # type: ignore[union-attr]
    assert ToolContext().remaining_s() is None
    assert ToolContext().late_s() == float("-inf")
    with pytest.raises(LookupError):
        ToolContext.current()
    context.token.set()
    assert context.is_cancelled
    with pytest.raises(ToolCancelled):
        context.raise_if_cancelled()
    assert error_reply(404, "x").is_error


@pytest.mark.parametrize("ahead_s", [-3600.0, -7.0, 0.0, 7.0, 3600.0])
def test_a_provider_with_a_wrong_clock_knows_how_long_it_has(ahead_s: float) -> None:
    sent = 1_767_225_600.0
    headers = {"Llm-Deadline": "2026-01-01T00:00:10.000Z", "Llm-Time-Left": "10.000"}
    context = context_of(headers, clock=lambda: sent + ahead_s)
    assert context.remaining_s(clock=lambda: sent + ahead_s + 4) == pytest.approx(6)
    assert context.late_s(clock=lambda: sent + ahead_s + 12) == pytest.approx(2)


@pytest.mark.parametrize("time_left", ["soon", "nan", "inf", ""])
def test_a_time_left_that_is_none_leaves_the_deadline_to_this_clock(time_left: str) -> None:
    headers = {"Llm-Deadline": "2026-01-01T00:00:10.000Z", "Llm-Time-Left": time_left}
    assert context_of(headers, clock=lambda: 5.0).clock_ahead_s == 0.0
