"""What the sidecar's connection and the client library make of bytes that a server passes, or never says."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.client import SidecarClient
from sidecar.config.settings import NatsSettings
from sidecar.errors import BusUnavailable
from tests.support.lying_server import LyingServer, lying_server
from tests.support.nats_server import no_environment

WAIT_S = 30.0
VIOLATIONS = [
    b"MSG a b\r\n",
    b"MSG llm.x 1 2\r\nhi!\r\n",
    b"HMSG a 1 9 5\r\n",
    b"HELLO\r\n",
    b"MSG a 1 99999999999\r\n",
]
# Header blocks as publishers may write them.
ODD_HEADERS = [
    b"x",
    b"NATS/1.0",
    b"\r\n\r\n",
    b"NATS/1.0 \xff\xfe\xfd\r\n\r\n",
    b"NATS/1.0 5\r\n\r\n",
    b"\xff" * 40,
]
ODD_SUBJECTS = [b"x\xff", b"x\x0b1", b"x\x00", b"x\xed\xa0\x80"]


@pytest.fixture
async def server() -> AsyncIterator[LyingServer]:
    async with lying_server() as found:
        yield found


@pytest.fixture
async def mux(server: LyingServer) -> AsyncIterator[Mux]:
    connection = Connection(NatsSettings(url=server.url), environment=no_environment)
    await connection.start()
    mux = Mux(connection, timeout_s=WAIT_S)
    await mux.start()
    yield mux
    await mux.close()
    await connection.close()


@pytest.fixture
async def client(server: LyingServer) -> AsyncIterator[SidecarClient]:
    async with await SidecarClient.connect(
        server.url, tenant="acme", request_timeout_s=WAIT_S, reconnect_time_wait=0.01
    ) as connected:
        yield connected


class Listening:
    """A `Listener` of the client's bus that keeps what it hears."""

    queue = ""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.heard: list[tuple[str, bytes]] = []
        self.came = asyncio.Event()

    def receive(self, message: object) -> bool:
        self.heard.append((message.subject, message.data))  # type: ignore[attr-defined]
        self.came.set()
        return True

    def mark_dirty(self) -> None:
        """Nothing is replayed."""

    def fail(self, error: Exception) -> None:
        """The client is closed at the end."""


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("violation", VIOLATIONS)
async def test_a_violation_ends_the_sidecars_connection_and_another_one_is_made(
    server: LyingServer, mux: Mux, violation: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        asking = asyncio.create_task(mux.request("a.b"))
        await server.until(lambda: bool(server.published))
        server.say(violation)
        with pytest.raises(BusUnavailable):
            await asking
        await server.until(lambda: server.connections == 2 and bool(server.sids))
    await eventually(lambda: mux.connection.is_connected)
    assert any("does not keep to its protocol" in message for message in caplog.messages)


@pytest.mark.parametrize("violation", VIOLATIONS)
async def test_a_violation_ends_the_clients_connection_and_another_one_is_made(
    server: LyingServer, client: SidecarClient, violation: bytes
) -> None:
    listening = Listening("llm.v1.job.acme.*.*")
    await client.bus.listen(listening)
    await server.subscription(b"llm.v1.job.")
    server.say(violation)
    await server.until(lambda: server.connections == 2)
    sid = await server.subscription(b"llm.v1.job.")
    await eventually(lambda: client.bus.is_connected)
    server.deliver(sid, b"llm.v1.job.acme.j.status", b"after")
    async with asyncio.timeout(WAIT_S):
        await listening.came.wait()
    assert listening.heard == [("llm.v1.job.acme.j.status", b"after")]


@pytest.mark.parametrize("subject", ODD_SUBJECTS)
@pytest.mark.parametrize("header", [b"", *ODD_HEADERS])
async def test_what_a_stranger_may_send_stops_no_client(
    server: LyingServer, client: SidecarClient, subject: bytes, header: bytes
) -> None:
    listening = Listening("llm.v1.job.acme.*.*")
    await client.bus.listen(listening)
    sid = await server.subscription(b"llm.v1.job.")
    server.deliver(sid, b"llm.v1.job.acme.j." + subject, b"odd", reply=b"_INBOX.\xff", header=header)
    server.deliver(sid, b"llm.v1.job.acme.j.status", b"plain")
    async with asyncio.timeout(WAIT_S):
        while len(listening.heard) < 2:
            listening.came.clear()
            await listening.came.wait()
    assert [payload for _, payload in listening.heard] == [b"odd", b"plain"]
    assert server.connections == 1


@pytest.mark.parametrize("between", [b"\x0b", b"\x0c", b"\x1c", b"\x85", b"\xa0"])
async def test_a_message_of_a_stranger_stays_with_its_subscription(
    server: LyingServer, client: SidecarClient, between: bytes
) -> None:
    events, calls = Listening("llm.v1.job.acme.*.*"), Listening("llm.v1.call.acme.tool.1_0_0")
    for one in (events, calls):
        await client.bus.listen(one)
    mine, other = [await server.subscription(one.subject.encode()) for one in (events, calls)]
    subject = b"llm.v1.job.acme.j.x%b%b%b5" % (between, other, between)
    server.deliver(mine, subject, b"forged")
    async with asyncio.timeout(WAIT_S):
        await events.came.wait()
    assert [payload for _, payload in events.heard] == [b"forged"]
    assert not calls.heard


async def test_what_does_not_fit_its_subscription_reaches_no_handler(
    server: LyingServer, mux: Mux, client: SidecarClient
) -> None:
    """Whatever the reason: here the server itself is at fault."""
    heard: list[BusMessage] = []
    await client.bus.listen(listening := Listening("llm.v1.job.acme.*.*"))
    sid = await server.subscription(b"llm.v1.job.acme.")
    server.deliver(sid, b"llm.v1.job.globex.j.result", b"foreign")
    server.deliver(sid, b"llm.v1.job.acme.j.result", b"own")
    async with asyncio.timeout(WAIT_S):
        await listening.came.wait()
    assert [payload for _, payload in listening.heard] == [b"own"]
    assert client.bus.misdelivered == 1
    assert not heard
    assert mux.connection.misdelivered.count == 0


async def test_only_the_whole_reply_subject_answers_a_request(server: LyingServer, mux: Mux) -> None:
    asking = asyncio.create_task(mux.request("a.b"))
    await server.until(lambda: bool(server.published))
    inbox = server.published[0][1]
    prefix, _, token = inbox.rpartition(b".")
    sid = await server.subscription(prefix)
    for forged in (b"llm.v1.get.globex." + token, prefix + b".1", prefix + b"." + token + b"\x0b", b"x" + inbox):
        server.deliver(sid, forged, b"forged")
    server.deliver(sid, inbox, b"answer")
    assert (await asking).payload == b"answer"
    assert mux.connection.misdelivered.count == 2


@pytest.mark.parametrize("ask", ["sidecar", "client"])
async def test_reply_subjects_tell_nothing_of_the_next(
    server: LyingServer, mux: Mux, client: SidecarClient, ask: str
) -> None:
    if ask == "sidecar":
        requests = [asyncio.create_task(mux.request("a.b")) for _ in range(50)]
    else:
        requests = [asyncio.create_task(client.bus.request("a.b", b"", timeout_s=WAIT_S)) for _ in range(50)]
    await server.until(lambda: len(server.published) == 50)
    tokens = {inbox.rpartition(b".")[2] for _, inbox in server.published}
    assert len(tokens) == 50
    assert all(len(token) >= 22 for token in tokens)
    shared = [len(set(column)) for column in zip(*(token[:22] for token in tokens), strict=True)]
    # Each of 22 characters varies over the 50 as chance would have it: no prefix, no counter.
    assert min(shared) > 15
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)
