"""The parser, fed with whatever pieces a socket may give and whatever bytes a stranger may send."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.adapters.nats.client.wire import WireClient
from sidecar.errors import ProtocolViolation
from sidecar.wire.parser import MAX_LINE, PAYLOAD_SLACK, Parser
from tests.support.wire_reference import MAX_PAYLOAD, Heard, read


class Ear:
    """Hears everything, in order: what is for a handler and what is not."""

    max_payload = MAX_PAYLOAD

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self.infos: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.strangers = 0
        self.parser = Parser(self)
        for sid in (b"w1", b"w2"):
            self.parser.handlers[sid] = self._handler(sid)

    def _handler(self, sid: bytes) -> Any:
        def handle(subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
            self.heard.append(Heard("MSG", (sid, subject, reply, header, payload)))

        return handle

    async def heard_message(self, subject: bytes, sid: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        self.strangers += 1
        self.heard.append(Heard("MSG", (sid, subject, reply, header, payload)))

    def heard_pong(self) -> None:
        self.heard.append(Heard("PONG", ()))

    async def heard_ping(self) -> None:
        self.heard.append(Heard("PING", ()))

    async def heard_info(self, info: dict[str, Any]) -> None:
        self.infos.append(info)
        self.heard.append(Heard("INFO", ()))

    async def heard_error(self, text: str) -> None:
        self.errors.append(text)
        self.heard.append(Heard("-ERR", ()))

    def violation(self, error: ProtocolViolation) -> Exception:
        return error

    async def hear(self, *pieces: bytes) -> bool:
        """Whether the pieces keep to the protocol."""
        try:
            for piece in pieces:
                await self.parser.parse(piece)
        except ProtocolViolation:
            return False
        return True


# What the server passes within a subject, and what others take for white space.
ODD = st.sampled_from(
    [b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\x1f", b"\x85", b"\xa0", b"\x00", b"\xff", b"."]
)
TOKEN = st.one_of(st.sampled_from([b"w1", b"w2", b"w3", b"7", b"_INBOX.x.1", b"llm.v1.get.globex.a"]), ODD)
SUBJECT = st.lists(TOKEN, min_size=1, max_size=4).map(b"".join)
HEADER = st.sampled_from([b"", b"NATS/1.0\r\nA: b\r\n\r\n", b"NATS/1.0 503\r\n\r\n", b"\xff\r\nMSG a w1 0\r\n"])
MESSAGE = st.builds(
    lambda verb, blank, subject, sid, reply, header, payload: (
        blank.join(
            [
                *([b"H" + verb] if header else [verb]),
                subject,
                sid,
                *([reply] if reply else []),
                *([b"%d" % len(header)] if header else []),
                b"%d\r\n" % (len(header) + len(payload)),
            ]
        )
        + header
        + payload
        + b"\r\n"
    ),
    st.sampled_from([b"MSG", b"MSG", b"msg", b"mSg"]),
    st.sampled_from([b" ", b" ", b"\t"]),
    SUBJECT,
    st.sampled_from([b"w1", b"w2", b"w3", b"7"]),
    st.one_of(st.just(b""), SUBJECT),
    HEADER,
    st.binary(max_size=40),
).map(lambda message: message.replace(b"Hmsg", b"hmsg"))
CONTROL = st.sampled_from(
    [
        b"PING\r\n",
        b"PONG\r\n",
        b"+OK\r\n",
        b"ping\t\r\n",
        b'INFO {"max_payload": 5}\r\n',
        b"-ERR 'Stale Connection'\r\n",
    ]
)
BROKEN = st.one_of(
    st.binary(max_size=30),
    st.lists(
        st.sampled_from(
            [b"MSG", b"HMSG", b" ", b"\t", b"w1", b"a", b"5", b"-1", b"+5", b"1_0", b"\r", b"\n", b"\r\n"]
        ),
        max_size=12,
    ).map(b"".join),
)
STREAM = st.lists(st.one_of(MESSAGE, MESSAGE, CONTROL, BROKEN), max_size=8).map(b"".join)
CUTS = st.lists(st.integers(1, 40), min_size=1)


@given(STREAM)
@example(b"MSG llm.v1.get.globex.x1\x0bw1 w2 2\r\nhi\r\n")
@example(b"MSG a w1  0\r\n\r\n")
@example(b"MSG  a w1 0\r\n\r\n")
@example(b"MSG a w1 2 \r\nhi\r\n")
@example(b"MSG a w1 2\r\nhi\n\r")
@example(b"HMSG a w1 3 2\r\nhi\r\n")
@example(b"MSG a w1 2\nhi\r\n")
@example(b"MSG a w1 0x2\r\nhi\r\n")
@example(b"MSG a w1 \xd9\xa3\r\nhi!\r\n")
@example(b"INFO [1]\r\n")
@example(b"INFO \xff\r\n")
@example(b"PINGS\r\n")
@example(b"\r\n")
async def test_a_stream_is_read_as_the_slow_reference_reads_it(stream: bytes) -> None:
    ear = Ear()
    is_whole = await ear.hear(stream)
    heard, rest = read(stream)
    assert [one for one in heard if one.verb != "+OK"] == ear.heard
    assert is_whole == (rest is not None)


@given(STREAM, CUTS)
async def test_any_cut_of_the_stream_gives_the_same(stream: bytes, cuts: list[int]) -> None:
    whole, cut = Ear(), Ear()
    pieces, at = [], 0
    while at < len(stream):
        step = cuts[len(pieces) % len(cuts)]
        pieces.append(stream[at : at + step])
        at += step
    assert await whole.hear(stream) == await cut.hear(*pieces)
    assert whole.heard == cut.heard


async def test_a_cut_at_every_place_gives_the_same() -> None:
    stream = (
        b"PING\r\nHMSG a.b w1 r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"
        b"MSG x\x0bw1 w2 3\r\n\r\n!\r\nmsg\ta\tw3\t0\r\n\r\nPONG\r\n"
    )
    whole = Ear()
    assert await whole.hear(stream)
    assert len(whole.heard) == 5
    for at in range(len(stream)):
        cut = Ear()
        assert await cut.hear(stream[:at], stream[at:])
        assert cut.heard == whole.heard


@pytest.mark.parametrize("odd", [b"\x0b", b"\x0c", b"\x1c", b"\x1f", b"\x85", b"\xa0", b"\xc2\xa0", b"\x00"])
async def test_no_byte_within_a_subject_chooses_the_subscription(odd: bytes) -> None:
    ear = Ear()
    subject = b"llm.v1.get.globex.filler1" + odd + b"w1"
    assert await ear.hear(b"MSG %b w2 _INBOX_globex.x%by 2\r\nhi\r\n" % (subject, odd))
    assert ear.heard == [Heard("MSG", (b"w2", subject, b"_INBOX_globex.x" + odd + b"y", b"", b"hi"))]


async def test_a_message_for_no_handler_is_passed_on_under_its_exact_id() -> None:
    ear = Ear()
    assert await ear.hear(b"MSG a 7 2\r\nhi\r\nMSG a w01 0\r\n\r\nMSG a W1 0\r\n\r\nMSG a w1 2\r\nhi\r\n")
    assert ear.strangers == 3
    assert [one.fields[0] for one in ear.heard] == [b"7", b"w01", b"W1", b"w1"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"MSG a b\r\n",
        b"MSG\r\n",
        b"MSG a w1 r x 5\r\n",
        b"HMSG x y z\r\n",
        b"HMSG a w1 q 5\r\n12345\r\n",
        b"HMSG a w1 r x 1 5\r\n",
        b"MSG a w1 -1\r\n",
        b"MSG a w1 +1\r\n1\r\n",
        b"MSG a w1 1_0\r\n1234567890\r\n",
        b"MSG a w1 %d\r\n" % (MAX_PAYLOAD + PAYLOAD_SLACK + 1),
        b"MSG a w1 " + b"9" * 5000 + b"\r\n",
        b"HMSG a w1 9 5\r\n",
        b"MSG a w1 2\r\nhi!\r\n",
        b"MSG a w1 2\nhi\r\n",
        b"MSG a\rb w1 2\r\nhi\r\n",
        b"PINGPONG\r\n",
        b"INFO nothing\r\n",
        b"INFO " + b"[" * 100_000 + b"\r\n",
    ],
)
async def test_what_no_server_writes_is_a_protocol_violation(garbage: bytes) -> None:
    assert not await Ear().hear(garbage)


@given(st.binary(max_size=300))
async def test_garbage_raises_nothing_but_a_protocol_violation(garbage: bytes) -> None:
    ear = Ear()
    await ear.hear(garbage)
    ear.parser.reset()
    assert await ear.hear(b"PING\r\n")


async def test_an_endless_line_is_an_error_and_a_large_payload_is_not_copied_again_and_again() -> None:
    ear = Ear()
    size = 4 << 20
    stream = b"MSG a w1 %d\r\n%b\r\n" % (size, b"x" * size)
    assert await ear.hear(*(stream[at : at + (1 << 15)] for at in range(0, len(stream), 1 << 15)))
    assert len(ear.heard[0].fields[4]) == size
    assert not await ear.hear(b"y" * (MAX_LINE + 1))
    assert not await Ear().hear(*[b"MSG " + b"y" * (MAX_LINE // 4)] * 5)


async def test_errors_and_infos_come_as_they_were_sent() -> None:
    ear = Ear()
    assert await ear.hear(b'-ERR \'Permissions Violation for Publish to "a\x0bb"\'\r\nINFO {"ldm": true}\r\n')
    assert ear.errors == ["'Permissions Violation for Publish to \"a\x0bb\"'"]
    assert ear.infos == [{"ldm": True}]


async def test_this_release_of_nats_py_has_what_the_short_cut_needs() -> None:
    client = WireClient(on_lost=lambda: None, on_refused=lambda _: None, on_lame=lambda: None)
    assert not client.is_open
