"""The parser, fed with whatever pieces a socket may give."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError

from sidecar.adapters.nats.client.wire import Parser, WireClient

Heard = list[tuple[bytes, bytes, bytes, bytes]]


class Other:
    """Stands where the client is: takes what is not for a handler."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.strangers: list[bytes] = []

    def pong(self) -> None:
        self.lines.append(b"PONG")

    async def control(self, line: bytes) -> None:
        self.lines.append(line)

    async def foreign(self, subject: bytes, sid: bytes, *_: Any) -> None:
        self.strangers.append(sid)


def parser() -> tuple[Parser, Other, Heard]:
    other, heard = Other(), []
    made = Parser(other)  # type: ignore[arg-type]
    made.handlers[b"w1"] = lambda *message: heard.append(message)
    return made, other, heard


MESSAGES = st.lists(
    st.tuples(
        st.from_regex(rb"\A[a-z]{1,8}(\.[a-z]{1,8}){0,2}\Z"),
        st.sampled_from([b"", b"_INBOX.x.1"]),
        st.sampled_from([b"", b"NATS/1.0\r\nA: b\r\n\r\n", b"NATS/1.0 503\r\n\r\n"]),
        st.binary(max_size=80),
    ),
    max_size=8,
)


def encoded(message: tuple[bytes, bytes, bytes, bytes]) -> bytes:
    subject, reply, header, payload = message
    where = b" ".join(part for part in (subject, b"w1", reply) if part)
    if header:
        return b"HMSG %b %d %d\r\n%b%b\r\n" % (where, len(header), len(header) + len(payload), header, payload)
    return b"MSG %b %d\r\n%b\r\n" % (where, len(payload), payload)


@given(MESSAGES, st.lists(st.integers(1, 40), min_size=1))
async def test_any_cut_of_the_stream_gives_the_same_messages(
    messages: list[tuple[bytes, bytes, bytes, bytes]], cuts: list[int]
) -> None:
    made, other, heard = parser()
    stream = b"PING\r\n".join([b"", *map(encoded, messages), b""])
    at = i = 0
    while at < len(stream):
        step = cuts[i % len(cuts)]
        await made.parse(stream[at : at + step])
        at, i = at + step, i + 1
    assert heard == messages
    assert other.lines == [b"PING"] * (len(messages) + 1)


async def test_a_message_for_nobody_is_passed_on() -> None:
    made, other, heard = parser()
    await made.parse(b"MSG a 7 2\r\nhi\r\nMSG a w9 2\r\nhi\r\nPONG\r\nMSG a w1 2\r\nhi\r\n")
    assert other.strangers == [b"7", b"w9"]
    assert other.lines == [b"PONG"]
    assert heard == [(b"a", b"", b"", b"hi")]


@pytest.mark.parametrize("garbage", [b"MSG a b\r\n", b"MSG\r\n", b"HMSG x y z\r\n", b"HMSG a w1 q 5\r\n12345\r\n"])
async def test_a_malformed_line_is_a_protocol_error(garbage: bytes) -> None:
    made, _, _ = parser()
    with pytest.raises(ProtocolError):
        await made.parse(garbage)


@given(st.binary(max_size=300))
async def test_garbage_raises_nothing_but_a_protocol_error(garbage: bytes) -> None:
    made, _, _ = parser()
    try:
        await made.parse(garbage)
    except ProtocolError:
        made.reset()
    await made.parse(b"")


async def test_an_endless_line_is_an_error_and_a_large_payload_is_not_copied_again_and_again() -> None:
    made, _, heard = parser()
    size = 4 << 20
    stream = b"MSG a w1 %d\r\n%b\r\n" % (size, b"x" * size)
    for at in range(0, len(stream), 1 << 15):
        await made.parse(stream[at : at + (1 << 15)])
    assert len(heard[0][3]) == size
    with pytest.raises(ProtocolError):
        await made.parse(b"y" * ((1 << 20) + 1))


async def test_this_release_of_nats_py_has_what_the_short_cut_needs() -> None:
    client = WireClient(on_lost=lambda: None, on_refused=lambda _: None, on_lame=lambda: None)
    assert not client.is_open
