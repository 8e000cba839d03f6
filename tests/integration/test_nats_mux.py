"""Requests over a real server: acks, errors, cancellation, kills and restarts under way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import msgspec
import nats
import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.errors import NotFound
from sidecar.adapters.nats.client.mux import BusMessage, Mux
from sidecar.adapters.nats.embedded import NatsServer
from sidecar.errors import BusRefused, BusUnavailable, Conflict
from tests.support.nats_server import Access, Server, counters_needed, no_environment, running

pytestmark = pytest.mark.nats

STREAM = {"name": "S", "subjects": ["s.>"], "allow_direct": True, "num_replicas": 1}


async def test_acks_duplicates_and_conflicts(nats_mux: Mux) -> None:
    await nats_mux.api("STREAM.CREATE.S", STREAM)
    first = await nats_mux.store("s.a", b"1", headers={"Nats-Msg-Id": "x"})
    again = await nats_mux.store("s.a", b"1", headers={"Nats-Msg-Id": "x"})
    assert (first.stream, first.seq, first.duplicate) == ("S", 1, False)
    assert (again.seq, again.duplicate) == (1, True)
    with pytest.raises(Conflict) as caught:
        await nats_mux.store("s.a", b"2", headers={"Nats-Expected-Last-Subject-Sequence": "9"})
    assert caught.value.details["err_code"] == 10071


async def test_a_counters_ack_carries_its_value(nats_mux: Mux) -> None:
    await counters_needed(nats_mux)
    await nats_mux.api("STREAM.CREATE.C", {**STREAM, "name": "C", "subjects": ["c.>"], "allow_msg_counter": True})
    await nats_mux.store("c.a", b"", headers={"Nats-Incr": "+5"})
    assert (await nats_mux.store("c.a", b"", headers={"Nats-Incr": "+2"})).value == "7"


async def test_replies_match_their_requests_under_concurrency(nats_mux: Mux) -> None:
    await nats_mux.api("STREAM.CREATE.S", STREAM)
    acks = await asyncio.gather(*(nats_mux.store(f"s.{i}", str(i).encode()) for i in range(500)))
    assert sorted(ack.seq for ack in acks) == list(range(1, 501))
    for ack, i in zip(acks[::50], range(0, 500, 50), strict=True):
        body = msgspec.json.encode({"seq": ack.seq})
        assert (await nats_mux.request(nats_mux.api_subject("DIRECT.GET.S"), body)).payload == str(i).encode()


async def test_headers_and_statuses_of_replies(nats_mux: Mux) -> None:
    await nats_mux.api("STREAM.CREATE.S", STREAM)
    await nats_mux.store("s.a", "grün".encode(), headers={"Odd": "a: b", "Text": "grün"})
    found = await nats_mux.request("$JS.API.DIRECT.GET.S", b'{"seq":1}')
    assert found.payload.decode() == "grün"
    assert found.headers["Odd"] == "a: b"
    assert found.headers["Text"] == "grün"
    assert found.status is None
    missing = await nats_mux.request("$JS.API.DIRECT.GET.S", b'{"seq":2}')
    assert (missing.status, missing.description) == (404, "Message Not Found")


async def test_many_replies_until_the_end_marker(nats_mux: Mux) -> None:
    await nats_mux.api("STREAM.CREATE.S", STREAM)
    for i in range(300):
        nats_mux.publish("s.a", str(i).encode())
    await nats_mux.store("s.b", b"")
    body = b'{"batch":1000,"seq":1,"next_by_subj":"s.a"}'
    got = []
    async with aclosing(nats_mux.request_many("$JS.API.DIRECT.GET.S", body)) as replies:
        async for message in replies:
            if message.status == 204:
                break
            got.append(int(message.payload))
    assert got == list(range(300))
    assert nats_mux.waiting == 0


async def test_api_errors_are_typed(nats_mux: Mux) -> None:
    with pytest.raises(NotFound):
        await nats_mux.api("STREAM.INFO.NONE")
    with pytest.raises(BusUnavailable, match="nobody answers nowhere"):
        await nats_mux.request("nowhere")
    with pytest.raises(BusUnavailable, match="nobody answers nowhere"):
        await anext(nats_mux.request_many("nowhere"))
    with pytest.raises(BusRefused) as caught:
        await nats_mux.store("s.a", b"x" * (2 << 20))
    assert caught.value.code == "payload_too_large"
    assert nats_mux.connection.is_connected


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 0\r\n\r\n", "a\tb"])
async def test_a_subject_cannot_smuggle_commands(nats_mux: Mux, subject: str) -> None:
    with pytest.raises(BusRefused):
        await nats_mux.request(subject)
    with pytest.raises(BusRefused):
        nats_mux.publish("fine", reply=subject or " ")
    with pytest.raises(BusRefused):
        nats_mux.publish("fine", headers={"a": "b\r\nPUB x 0"})


async def subscribed(client: Client, subject: str) -> Subscription:
    """A subscription that the server knows. nats-py's first ping overtakes what it has not written yet."""
    subscription = await client.subscribe(subject)
    await client.flush()
    await client.flush()
    return subscription


async def test_a_silent_service_times_out_and_its_late_or_double_reply_is_ignored(
    nats_mux: Mux, nats_access: Access
) -> None:
    other = await nats.connect(nats_access.url)
    subscription = await subscribed(other, "svc")
    with pytest.raises(BusUnavailable, match="did not answer svc"):
        await nats_mux.request("svc", timeout_s=0.1)
    late = await subscription.next_msg(timeout=20)
    await late.respond(b"late")
    task = asyncio.create_task(nats_mux.request("svc"))
    message = await subscription.next_msg(timeout=20)
    await message.respond(b"one")
    await message.respond(b"two")
    assert (await task).payload == b"one"
    await other.flush()
    await other.flush()
    await nats_mux.connection.flush()
    assert nats_mux.waiting == 0
    with pytest.raises(BusUnavailable, match="did not answer"):
        await anext(nats_mux.request_many("svc", idle_timeout_s=0.1))
    await other.close()


async def test_a_cancelled_request_leaves_nothing_behind(nats_mux: Mux, nats_access: Access) -> None:
    other = await nats.connect(nats_access.url)
    subscription = await subscribed(other, "svc")
    task = asyncio.create_task(nats_mux.request("svc"))
    await subscription.next_msg(timeout=20)
    assert nats_mux.waiting == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert nats_mux.waiting == 0
    await other.close()


async def test_a_callback_that_raises_stops_nothing(nats_mux: Mux) -> None:
    heard: asyncio.Queue[BusMessage] = asyncio.Queue()

    def callback(message: BusMessage) -> None:
        heard.put_nowait(message)
        raise RuntimeError("a bug of the subscriber")

    subscription = await nats_mux.subscribe("news.*", callback)
    for i in range(3):
        nats_mux.publish(f"news.{i}", headers={"N": str(i)}, reply="back.to.me")
    got = [await asyncio.wait_for(heard.get(), 20) for _ in range(3)]
    assert [(m.subject, m.headers["N"], m.reply) for m in got] == [
        (f"news.{i}", str(i), "back.to.me") for i in range(3)
    ]
    await subscription.unsubscribe()
    await subscription.unsubscribe()
    nats_mux.publish("news.4")
    await nats_mux.connection.flush()
    assert heard.empty()
    assert (await nats_mux.api("INFO"))["streams"] == 0


async def test_a_denied_publish_fails_at_once() -> None:
    users = "authorization { users: [{ user: u, password: p, permissions: { publish: { deny: [secret] } } }] }"
    with running(NatsServer(config=users)) as server:
        access = Access(server, server.url.replace("nats://", "nats://u:p@"))
        connection = Connection(access.settings(), environment=no_environment)
        await connection.start()
        mux = Mux(connection, timeout_s=60)
        await mux.start()
        with pytest.raises(BusRefused, match="no permission to publish to secret"):
            await mux.request("secret")
        await mux.api("INFO")
        await mux.close()
        await connection.close()


@pytest.fixture
async def own_mux(own_nats_server: Server) -> AsyncIterator[Mux]:
    access = Access(own_nats_server, own_nats_server.url)
    connection = Connection(access.settings(), environment=no_environment)
    await connection.start()
    mux = Mux(connection, timeout_s=60)
    await mux.start()
    yield mux
    await mux.close()
    await connection.close()


async def connected(connection: Connection) -> None:
    """Wait until the connection is back."""
    back = asyncio.Event()
    connection.on_state(lambda state: back.set() if state == "connected" else None)
    if not connection.is_connected:
        await asyncio.wait_for(back.wait(), 60)


async def test_a_crash_fails_what_is_under_way_at_once_and_a_restart_brings_all_back(
    own_mux: Mux, own_nats_server: Server
) -> None:
    await own_mux.api("STREAM.CREATE.S", STREAM)
    stored = await own_mux.store("s.a", b"kept")
    heard: asyncio.Queue[BusMessage] = asyncio.Queue()
    await own_mux.subscribe("news", heard.put_nowait)
    await own_mux.subscribe("silent", lambda _: None)
    one = asyncio.create_task(own_mux.request("silent"))
    many = own_mux.request_many("silent")
    several = asyncio.ensure_future(anext(many))
    await own_mux.connection.flush()
    await asyncio.to_thread(own_nats_server.kill)
    for task in (one, several):
        with pytest.raises(BusUnavailable, match="lost"):
            await asyncio.wait_for(task, 20)
    with pytest.raises(BusUnavailable):
        await own_mux.store("s.a", b"never sent")
    with pytest.raises(BusUnavailable):
        own_mux.publish("news")
    await asyncio.to_thread(own_nats_server.start)
    await connected(own_mux.connection)
    own_mux.publish("news", b"again")
    assert (await asyncio.wait_for(heard.get(), 60)).payload == b"again"
    assert (await own_mux.store("s.a", b"after")).seq == stored.seq + 1
    await many.aclose()


async def test_closing_fails_what_waits(own_mux: Mux) -> None:
    await own_mux.subscribe("silent", lambda _: None)
    task = asyncio.create_task(own_mux.request("silent"))
    await own_mux.connection.flush()
    await own_mux.close()
    with pytest.raises(BusUnavailable, match="closed before silent was answered"):
        await task
