"""The micro service, asked with plain nats-py."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.micro import NatsEndpoints
from sidecar.config.settings import EndpointsSettings
from sidecar.errors import BusUnavailable, Conflict, InvalidRequest
from sidecar.models.subjects import Subjects
from sidecar.ports.bus import Endpoint, Query, Reply
from sidecar.runtime.grace import Grace
from sidecar.runtime.lifecycle import SystemClock
from tests.support.nats_server import Access, no_environment

pytestmark = pytest.mark.nats

SERVICE = "llm-sidecar"


@pytest.fixture
async def caller(nats_access: Access) -> AsyncIterator[Client]:
    client = await nats.connect(nats_access.url)
    yield client
    await client.close()


@pytest.fixture
async def service(nats_mux: Mux) -> AsyncIterator[NatsEndpoints]:
    endpoints = NatsEndpoints(nats_mux.connection, subjects=Subjects())
    yield endpoints
    await endpoints.stop(Grace(SystemClock(), 20))


async def echo(query: Query) -> Reply:
    return Reply(json.dumps([query.verb, *query.tokens]).encode(), {"Seen": query.headers.get("Sent", "")})


async def ask(client: Client, subject: str, payload: bytes = b"", **headers: str) -> Msg:
    return await client.request(subject, payload, timeout=20, headers=headers or None)


async def test_a_request_is_answered_with_its_tokens_and_headers(service: NatsEndpoints, caller: Client) -> None:
    await service.serve([Endpoint("get", "get.*.*", echo), Endpoint("register", "tools.*.register", echo)])
    answer = await ask(caller, "llm.v1.get.acme.job1", Sent="x")
    assert json.loads(answer.data) == ["get", "acme", "job1"]
    assert answer.headers == {"Seen": "x"}
    assert json.loads((await ask(caller, "llm.v1.tools.acme.register")).data) == ["tools", "acme", "register"]


async def test_what_can_be_answered_at_once_is_and_the_rest_as_ever(
    service: NatsEndpoints, caller: Client
) -> None:
    def quick(query: Query) -> Reply | None:
        return Reply(b"quick") if query.payload == b"known" else None

    await service.serve([Endpoint("get", "get.*.*", echo, quick=quick)])
    assert (await ask(caller, "llm.v1.get.acme.job1", b"known")).data == b"quick"
    assert json.loads((await ask(caller, "llm.v1.get.acme.job1", b"new")).data) == ["get", "acme", "job1"]
    await caller.publish("llm.v1.get.acme.job1", b"known", reply="llm.v1.job.acme.x.result")
    stats = json.loads((await ask(caller, "$SRV.STATS")).data)["endpoints"][0]
    assert (stats["num_requests"], stats["num_errors"]) == (3, 1)


async def test_ping_info_and_stats_have_the_shapes_of_adr_32(service: NatsEndpoints, caller: Client) -> None:
    await service.serve([Endpoint("get", "get.*.*", echo, {"schema": '{"type":"object"}'})])
    await ask(caller, "llm.v1.get.acme.job1")
    found: dict[str, dict[str, Any]] = {}
    for verb in ("PING", "INFO", "STATS"):
        for suffix in ("", f".{SERVICE}", f".{SERVICE}.{service.id}"):
            found[verb] = json.loads((await ask(caller, f"$SRV.{verb}{suffix}")).data)
            assert found[verb]["type"] == f"io.nats.micro.v1.{verb.lower()}_response"
            assert (found[verb]["name"], found[verb]["id"]) == (SERVICE, service.id)
            assert found[verb]["metadata"] == {}
            assert re.fullmatch(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?", found[verb]["version"])
    place = {"name": "get", "subject": "llm.v1.get.*.*", "queue_group": "q"}
    assert found["INFO"]["endpoints"] == [{**place, "metadata": {"schema": '{"type":"object"}'}}]
    stats = found["STATS"]["endpoints"][0]
    assert place.items() <= stats.items()
    assert (stats["num_requests"], stats["num_errors"], stats["last_error"]) == (1, 0, "")
    assert stats["processing_time"] == stats["average_processing_time"] > 0
    assert found["STATS"]["started"].endswith("Z")


async def test_the_nats_py_models_can_read_it(service: NatsEndpoints, caller: Client) -> None:
    from nats.micro.service import ServiceInfo, ServicePing

    await service.serve([Endpoint("get", "get.*.*", echo)])
    ping = ServicePing.from_dict(json.loads((await ask(caller, "$SRV.PING")).data))
    info = ServiceInfo.from_dict(json.loads((await ask(caller, "$SRV.INFO")).data))
    assert ping.id == info.id == service.id
    assert info.endpoints[0].subject == "llm.v1.get.*.*"


async def test_errors_become_headers_and_a_body(service: NatsEndpoints, caller: Client) -> None:
    errors: dict[str, Exception] = {
        "bad": InvalidRequest("messages is missing:\r\nadd it", path="messages"),
        "lost": Conflict("somebody was first"),
        "away": BusUnavailable("try again"),
        "bug": ValueError("secret-detail"),
    }

    async def fail(query: Query) -> Reply:
        raise errors[query.tokens[1]]

    await service.serve([Endpoint("get", "get.*.*", fail)])
    found = {name: await ask(caller, f"llm.v1.get.acme.{name}") for name in errors}
    codes = {name: (m.headers or {})["Nats-Service-Error-Code"] for name, m in found.items()}
    assert codes == {"bad": "400", "lost": "409", "away": "503", "bug": "500"}
    assert (found["bad"].headers or {})["Nats-Service-Error"] == "messages is missing: add it"
    error = json.loads(found["bad"].data)["error"]
    assert error["code"] == "invalid_request"
    assert error["message"] == "messages is missing:\r\nadd it"
    assert error["details"] == {"path": "messages"}
    assert json.loads(found["bug"].data)["error"]["code"] == "internal"
    assert b"secret-detail" not in found["bug"].data
    assert "secret-detail" not in str(found["bug"].headers)
    stats = json.loads((await ask(caller, "$SRV.STATS")).data)["endpoints"][0]
    assert (stats["num_requests"], stats["num_errors"]) == (4, 4)
    assert "secret-detail" not in json.dumps(stats)


async def test_a_slow_answer_does_not_hold_up_others(service: NatsEndpoints, caller: Client) -> None:
    release = asyncio.Event()

    async def answer(query: Query) -> Reply:
        if query.tokens[1] == "slow":
            await release.wait()
        return Reply(query.tokens[1].encode())

    await service.serve([Endpoint("get", "get.*.*", answer)])
    slow = asyncio.create_task(ask(caller, "llm.v1.get.acme.slow"))
    quick = [await ask(caller, "llm.v1.get.acme.quick") for _ in range(3)]
    assert [m.data for m in quick] == [b"quick"] * 3
    assert not slow.done()
    release.set()
    assert (await slow).data == b"slow"


async def test_many_answers_come_in_order_and_the_generator_is_closed(
    service: NatsEndpoints, caller: Client
) -> None:
    closed = asyncio.Event()

    async def replay(query: Query) -> AsyncIterator[Reply]:
        try:
            for i in range(200):
                yield Reply(str(i).encode())
            yield Reply(b"", {"Llm-End": "true"})
        finally:
            closed.set()

    await service.serve([Endpoint("replay", "replay.*.*", replay)])
    inbox = caller.new_inbox()
    subscription = await caller.subscribe(inbox)
    await caller.publish("llm.v1.replay.acme.j", reply=inbox)
    got = []
    while not (message := await subscription.next_msg(timeout=20)).headers:
        got.append(int(message.data))
    assert got == list(range(200))
    assert message.headers == {"Llm-End": "true"}
    await asyncio.wait_for(closed.wait(), 20)


async def test_one_replica_answers_a_queue_and_all_answer_a_broadcast(
    service: NatsEndpoints, nats_access: Access, caller: Client
) -> None:
    connection = Connection(nats_access.settings(), environment=no_environment)
    await connection.start()
    mux = Mux(connection)
    await mux.start()
    other = NatsEndpoints(mux.connection, subjects=Subjects())
    endpoints = [Endpoint("get", "get.*.*", echo), Endpoint("all", "all.*", echo, is_broadcast=True)]
    await service.serve(endpoints)
    await other.serve(endpoints)
    inbox = caller.new_inbox()
    subscription = await caller.subscribe(inbox)
    await caller.publish("llm.v1.get.acme.j", reply=inbox)
    await caller.publish("llm.v1.all.acme", reply=inbox)
    await caller.publish("$SRV.PING", reply=inbox)
    got = [json.loads((await subscription.next_msg(timeout=20)).data) for _ in range(5)]
    assert got.count(["get", "acme", "j"]) == 1
    assert got.count(["all", "acme"]) == 2
    assert {entry["id"] for entry in got if isinstance(entry, dict)} == {service.id, other.id}
    await other.stop(Grace(SystemClock(), 20))
    await mux.close()
    await connection.close()


@pytest.mark.parametrize("reply", ["$JS.API.STREAM.DELETE.X", "llm.v1.request.other.batch", "_INBOX_other.x"])
async def test_answers_never_go_where_the_caller_could_not_write(
    service: NatsEndpoints, caller: Client, reply: str
) -> None:
    called: list[Query] = []

    async def answer(query: Query) -> Reply:
        called.append(query)
        return Reply(b"{}")

    await service.serve([Endpoint("get", "get.*.*", answer)])
    trap = await caller.subscribe(reply)
    await caller.publish("llm.v1.get.acme.j", reply=reply)
    assert (await ask(caller, "llm.v1.get.acme.j")).data == b"{}"
    assert len(called) == 1
    assert trap.pending_msgs == 0


async def test_stop_finishes_answers_under_way_and_takes_no_more(
    service: NatsEndpoints, nats_mux: Mux, caller: Client
) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def answer(query: Query) -> Reply:
        begun.set()
        await release.wait()
        return Reply(b"done")

    await service.serve([Endpoint("get", "get.*.*", answer)])
    under_way = asyncio.create_task(ask(caller, "llm.v1.get.acme.j"))
    await asyncio.wait_for(begun.wait(), 20)
    stopping = asyncio.create_task(service.stop(Grace(SystemClock(), 20)))
    await asyncio.sleep(0)
    await nats_mux.connection.flush()
    with pytest.raises(nats.errors.NoRespondersError):
        await ask(caller, "llm.v1.get.acme.j")
    release.set()
    assert (await under_way).data == b"done"
    await stopping
    with pytest.raises(nats.errors.NoRespondersError):
        await ask(caller, "$SRV.PING")


@pytest.mark.parametrize("verb", ["get", "ask"])
async def test_no_request_is_lost_between_a_stop_and_the_servers_hearing_of_it(
    service: NatsEndpoints, caller: Client, verb: str
) -> None:
    """Each is answered, or is told that nobody is there: none is left to wait for its timeout."""
    await service.serve([Endpoint(verb, f"{verb}.*.*", echo, is_ask=verb == "ask")])
    await ask(caller, f"llm.v1.{verb}.acme.first")
    asking = [asyncio.create_task(ask(caller, f"llm.v1.{verb}.acme.j{i}")) for i in range(300)]
    await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    grace = Grace(SystemClock(), 20)
    await (service.drain(grace) if verb == "ask" else service.stop(grace))
    ends = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(end) for end in ends} <= {Msg, nats.errors.NoRespondersError}


async def test_too_many_at_once_are_refused_and_a_stop_tells_those_it_gives_up(
    nats_mux: Mux, caller: Client
) -> None:
    few = EndpointsSettings(tenant_in_flight=1, tenant_waiting=1)
    service = NatsEndpoints(nats_mux.connection, subjects=Subjects(), settings=few)
    begun = asyncio.Event()

    async def answer(query: Query) -> Reply:
        begun.set()
        await asyncio.Event().wait()
        return Reply(b"never")

    await service.serve([Endpoint("get", "get.*.*", answer)])
    first = asyncio.create_task(ask(caller, "llm.v1.get.acme.j"))
    await asyncio.wait_for(begun.wait(), 20)
    second = asyncio.create_task(ask(caller, "llm.v1.get.acme.j"))
    await asyncio.sleep(0)
    refused = await ask(caller, "llm.v1.get.acme.j")
    assert (refused.headers or {})["Nats-Service-Error-Code"] == "429"
    error = json.loads(refused.data)["error"]
    assert (error["code"], error["details"]) == ("rate_limited", {"retry_after_s": 1.0})
    await service.stop(Grace(SystemClock(), 0))
    for given_up in (first, second):
        assert ((await given_up).headers or {})["Nats-Service-Error-Code"] == "503"


async def test_who_floods_is_not_heard_for_a_moment_and_others_are(nats_mux: Mux, caller: Client) -> None:
    few = EndpointsSettings(tenant_in_flight=1, tenant_waiting=1, refusals_per_s=1)
    service = NatsEndpoints(nats_mux.connection, subjects=Subjects(), settings=few)
    await service.serve([Endpoint("get", "get.*.*", echo), Endpoint("models", "models.*", echo)])
    for i in range(3000):
        await caller.publish("llm.v1.get.globex.j" if i % 2 else "llm.v1.models.globex")
    await caller.publish("llm.v1.get.globex.j", reply="_INBOX_acme.1")
    assert (await ask(caller, "llm.v1.get.acme.j")).data == b'["get", "acme", "j"]'
    async with asyncio.timeout(20):
        # It is heard again, once there is room.
        while True:
            with suppress(nats.errors.TimeoutError):
                heard = await caller.request("llm.v1.get.globex.j", timeout=0.2)
                if heard.data == b'["get", "globex", "j"]':
                    break
    tenants, requests = service.figures.tenants, service.figures.requests
    assert tenants["globex", "unheard"] > 2000
    assert requests["models", "unheard"] > 1000
    assert requests["get", "unheard"] + requests["models", "unheard"] == tenants["globex", "unheard"]
    assert ("acme", "unheard") not in tenants
    stats = json.loads((await ask(caller, f"$SRV.STATS.{SERVICE}")).data)["endpoints"]
    assert sum(one["num_requests"] for one in stats) > 3000
    await service.stop(Grace(SystemClock(), 0))


async def test_an_answer_too_large_becomes_an_error_reply(service: NatsEndpoints, caller: Client) -> None:
    async def answer(query: Query) -> Reply:
        return Reply(b"x" * (2 << 20))

    await service.serve([Endpoint("get", "get.*.*", answer)])
    reply = await ask(caller, "llm.v1.get.acme.j")
    assert json.loads(reply.data)["error"]["code"] == "payload_too_large"
