"""Messages and headers as bytes."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.adapters.nats.client.message import BusMessage, decode_headers, encode_headers, encode_publish
from sidecar.adapters.nats.direct import split_headers
from sidecar.errors import BusRefused

NAMES = st.from_regex(r"\A[A-Za-z][A-Za-z0-9-]{0,20}\Z")
VALUES = st.text(st.characters(exclude_characters="\r\n", codec="utf-8")).map(str.strip)


@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_headers_come_back_as_they_went(headers: dict[str, str]) -> None:
    assert decode_headers(encode_headers(headers)) == headers


@given(NAMES, st.text(), st.sampled_from(["\r", "\n", "\r\n"]), st.text())
def test_a_line_break_never_leaves(name: str, before: str, line_break: str, after: str) -> None:
    with pytest.raises(BusRefused):
        encode_headers({name: before + line_break + after})
    with pytest.raises(BusRefused):
        encode_headers({name + line_break: after})


@given(st.binary(max_size=200))
def test_no_header_block_raises(raw: bytes) -> None:
    message = BusMessage(b"", b"NATS/1.0" + raw)
    assert isinstance(message.headers, dict)
    assert message.status is None or 0 <= message.status <= 999
    assert isinstance(message.description, str)


SERVER = b"Nats-Stream: LLM_REQ\r\nNats-Subject: a.b\r\nNats-Sequence: 7\r\nNats-Time-Stamp: t\r\n\r\n"
FOUND = {"Nats-Subject": "a.b", "Nats-Sequence": "7", "Nats-Time-Stamp": "t"}


@given(st.binary(max_size=120))
@example(b"a")
@example(b"NATS/1.0 404 Not Found\r\n")
@example(b"NATS/1.0 503\r\n")
@example(b"NATS/1.0\r\nNats-Stream: X\r\nNats-Sequence: 1\r\nNats-Subject: c.d\r\n")
def test_what_jetstream_appends_is_found_behind_any_block(block: bytes) -> None:
    own, server = split_headers(block + SERVER)
    assert own == block
    assert {name: server[name] for name in FOUND} == FOUND
    assert BusMessage(b"", block + SERVER).status is None


@pytest.mark.parametrize(
    ("raw", "status", "description", "headers"),
    [
        (b"", None, "", {}),
        (b"NATS/1.0\r\nA: b\r\n\r\n", None, "", {"A": "b"}),
        (b"NATS/1.0 503\r\n\r\n", 503, "", {}),
        (b"NATS/1.0 404 Message Not Found\r\n\r\n", 404, "Message Not Found", {}),
        (b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 0\r\n\r\n", 204, "EOB", {"Nats-Num-Pending": "0"}),
        (b"NATS/1.0\r\nA:1\r\nA: 2\r\nodd\r\n\r\n", None, "", {"A": "1"}),
    ],
)
def test_inline_statuses(raw: bytes, status: int | None, description: str, headers: dict[str, str]) -> None:
    message = BusMessage(b"", raw)
    assert (message.status, message.description, dict(message.headers)) == (status, description, headers)


def test_the_protocols_commands() -> None:
    assert encode_publish("a.b", "", None, b"hi") == b"PUB a.b  2\r\nhi\r\n"
    assert encode_publish("a", "r", None, b"") == b"PUB a r 0\r\n\r\n"
    assert encode_publish("a", "r", {"K": "v"}, b"hi") == b"HPUB a r 18 20\r\nNATS/1.0\r\nK: v\r\n\r\nhi\r\n"


@pytest.mark.parametrize(("subject", "reply"), [("", ""), ("a b", ""), ("a", "b c"), ("a\n", ""), ("a", "\r\n")])
def test_subjects_with_blanks_are_refused(subject: str, reply: str) -> None:
    with pytest.raises(BusRefused):
        encode_publish(subject, reply, None, b"")
