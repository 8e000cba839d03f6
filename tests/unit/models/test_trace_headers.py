"""Trace headers are a stranger's words: what may not stand in a header again counts as no trace."""

import pytest

from sidecar.models.trace import trace_of

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_trace_is_carried_on() -> None:
    assert trace_of({"traceparent": PARENT, "tracestate": "a=1,b=2", "Other": "x"}) == {
        "traceparent": PARENT,
        "tracestate": "a=1,b=2",
    }
    assert trace_of({"traceparent": PARENT}) == {"traceparent": PARENT}
    assert trace_of({"tracestate": "a=1"}) == {}


@pytest.mark.parametrize(
    "parent",
    ["a\rb", f"{PARENT}\nNats-Rollup: all", f"{PARENT}\r\n", "", PARENT.upper(), PARENT + "-" + 300 * "x"],
)
def test_what_is_no_trace_is_none(parent: str) -> None:
    assert trace_of({"traceparent": parent}) == {}


@pytest.mark.parametrize("state", ["a\n\rb", "", "a=\x00", "x" * 513, "ä=1"])
def test_a_state_that_may_stand_in_no_header_is_left_out(state: str) -> None:
    assert trace_of({"traceparent": PARENT, "tracestate": state}) == {"traceparent": PARENT}
