"""The registry on a real server: two replicas' views, garbage, a server that restarts, ordinary micro services."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import nats
import nats.micro
import pytest
from nats.micro.service import ServiceConfig

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.micro import NatsEndpoints
from sidecar.adapters.nats.streams.provision import ensure
from sidecar.adapters.nats.tool_bus import NatsToolBus
from sidecar.adapters.nats.tool_store import NatsToolStore
from sidecar.cli.nats_config import Watchers, password_variable, render
from sidecar.config.settings import CurrentPolicy, NatsSettings, Policy, ToolsPolicy
from sidecar.errors import BusUnavailable, Permanent, Temporary
from sidecar.models.subjects import Subjects, call_cancelled
from sidecar.ports.tools import ToolCall
from sidecar.runtime.bounded_work import BoundedWork
from sidecar.runtime.grace import Grace
from sidecar.runtime.lifecycle import SystemClock
from sidecar.runtime.schema_checks import SchemaChecks
from sidecar.tool_registry.service import ToolRegistry
from tests.support.bus_world import bus_settings
from tests.support.nats_server import Access, Server, make_server, no_environment, running

pytestmark = pytest.mark.nats

SUBJECTS = Subjects()
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
POLICY = Policy(tools=ToolsPolicy(discovery=("shared", "acme")))
PATIENCE_S = 60.0


class Replica(NamedTuple):
    mux: Mux
    registry: ToolRegistry
    endpoints: NatsEndpoints

    def finds(self, ref: str, tenant: str = "acme") -> str | None:
        try:
            tool = self.registry.find(tenant, ref)
        except Permanent:
            return None
        return f"{tool.scope}.{tool.name}.{tool.version}"


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Mux]:
    settings = NatsSettings(url=url, request_timeout_s=30.0, watchdog_s=30.0)
    connection = Connection(settings, environment=no_environment)
    try:
        await connection.start()
        mux = Mux(connection, timeout_s=30.0)
        await mux.start()
        yield mux
        await mux.close()
    finally:
        await connection.close()


@asynccontextmanager
async def replicas(url: str, count: int = 2) -> AsyncIterator[list[Replica]]:
    crashes: list[BaseException] = []
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            mux = await stack.enter_async_context(connected(url))
            await ensure(mux, bus_settings())
            work = BoundedWork()
            stack.push_async_callback(work.close)
            registry = ToolRegistry(
                store=NatsToolStore(mux, SUBJECTS),
                bus=NatsToolBus(mux),
                clock=SystemClock(),
                policy=CurrentPolicy(POLICY),
                subjects=SUBJECTS,
                checks=SchemaChecks(work),
                work=work,
                on_crash=crashes.append,
            )
            endpoints = NatsEndpoints(mux.connection, subjects=SUBJECTS)
            await registry.start()
            stack.push_async_callback(registry.stop)
            await endpoints.serve(registry.endpoints())
            stack.push_async_callback(endpoints.stop, Grace(SystemClock(), 0))
            made.append(Replica(mux, registry, endpoints))
        yield made
    assert not crashes


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - views are looked at
            await asyncio.sleep(0.02)


async def ask(mux: Mux, verb: str, body: Any, scope: str = "acme") -> tuple[dict[str, Any], Mapping[str, str]]:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = await mux.request(f"llm.v1.tools.{scope}.{verb}", payload)
    return json.loads(reply.payload), reply.headers


def registration(name: str = "orders", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "version": "1.2.0",
        "description": "Looks up.",
        "input_schema": SCHEMA,
        "ttl_s": 600,
        **more,
    }


GARBAGE = [
    b"",
    b"\x00\xff\xfe",
    b"null",
    b"[]",
    b'"text"',
    b"{" * 1000,
    b'{"name": 5}',
    b'{"name": "a", "version": "x"}',
    json.dumps(registration(input_schema=5)).encode(),
    json.dumps(registration(name="../../x")).encode(),
    json.dumps(registration(ttl_s=10**30)).encode(),
    json.dumps({**registration(), "subject": "$JS.API.STREAM.DELETE.LLM_REQ"}).encode(),
    b'{"cursor": "-1"}',
    b"x" * 900_000,
]


async def test_garbage_on_every_subject_is_an_error_and_no_more(nats_access: Access) -> None:
    async with replicas(nats_access.url, 1) as (one,), connected(nats_access.url) as client:
        for scope in ("acme", "shared", "a%20b"):
            for verb in ("register", "deregister", "list", "burn"):
                for payload in GARBAGE:
                    if verb == "burn":
                        with pytest.raises(BusUnavailable, match="nobody answers"):
                            await ask(client, verb, payload, scope)
                        continue
                    body, headers = await ask(client, verb, payload, scope)
                    if verb == "list" and payload == b"" and scope != "a%20b":
                        assert body["tools"] == []
                        continue
                    assert headers["Nats-Service-Error-Code"] in ("400", "413"), (verb, payload[:40], body)
        # What is written past the registry, by somebody who may.
        for key in ("acme.orders.1_2_0", "acme", "a.b.c.d", "acme.orders.garbage", "acme.or*ders.1_0_0"):
            for payload in GARBAGE[:8]:
                client.publish(f"$KV.LLM_TOOL.{key}", payload)
        client.publish("llm.v1.sys.tool.acme.orders.1_2_0", b"{}", headers={"Nats-Sequence": "7"})
        client.publish("$SRV.INFO", b"", reply="llm.v1.sys.tool.x.y.z")
        await client.connection.flush()
        assert (await ask(client, "register", registration("good")))[0]["subject"] == "llm.v1.call.acme.good.1_2_0"
        await until(lambda: one.finds("good") is not None)
        assert one.finds("orders") is None
        assert [tool["name"] for tool in (await ask(client, "list", {}))[0]["tools"]] == ["good"]


async def test_views_of_two_replicas_are_alike_over_a_restart_of_the_server(own_nats_server: Server) -> None:
    url = own_nats_server.url
    async with replicas(url) as pair, connected(url) as client:
        for i in range(20):
            await ask(client, "register", registration(f"t{i}"))
        await until(lambda: all(replica.finds(f"t{i}") for replica in pair for i in range(20)))
        await asyncio.to_thread(own_nats_server.restart, force=True)
        await until(lambda: all(r.mux.connection.is_connected for r in pair) and client.connection.is_connected)
        assert all(replica.finds(f"t{i}") for replica in pair for i in range(20))
        await retried(client, "register", registration("after"))
        await retried(client, "deregister", {"name": "t0", "version": "1.2.0"})
        await retried(client, "register", registration("t1"))
        await until(lambda: all(r.finds("after") and r.finds("t0") is None and r.finds("t1") for r in pair))
        late: list[str | None] = []
        async with replicas(url, 1) as (third,):
            late = [third.finds(f"t{i}") for i in range(20)]
            assert third.finds("after")
        assert late == [None, *(f"acme.t{i}.1.2.0" for i in range(1, 20))]
        changed = {**registration("t0"), "description": "Another."}
        assert (await retried(client, "register", changed))["error"]["details"]["path"] == "description"


async def retried(mux: Mux, verb: str, body: Any) -> dict[str, Any]:
    """Ask until a server that has just come back answers as it should."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                reply, _ = await ask(mux, verb, body)
            except BusUnavailable:
                await asyncio.sleep(0.1)
                continue
            if reply.get("error", {}).get("code") != "internal":
                return reply
            await asyncio.sleep(0.1)


async def test_what_was_missed_while_away_is_caught_up(nats_access: Access) -> None:
    async with replicas(nats_access.url) as (one, two), connected(nats_access.url) as client:
        await ask(client, "register", registration("gone"))
        await until(lambda: two.finds("gone") is not None)
        await one.endpoints.stop(Grace(SystemClock(), 20))
        # Its connection is lost, and cannot be made anew while things happen.
        connection, away = one.mux.connection, asyncio.Event()
        dial = connection._dial

        async def dial_later() -> None:
            await away.wait()
            await dial()

        connection._dial = dial_later  # type: ignore[method-assign]
        connection.reconnect()
        await until(lambda: not connection.is_connected)
        await ask(client, "register", registration("came"))
        await ask(client, "deregister", {"name": "gone", "version": "1.2.0"})
        assert one.finds("gone")
        away.set()
        await until(lambda: one.finds("came") is not None and one.finds("gone") is None)


async def test_an_ordinary_micro_service_is_a_tool_and_can_be_called(
    nats_access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EVERY_S", "GATHER_S"):
        monkeypatch.setattr(f"sidecar.tool_registry.discovery.{name}", 0.3)
    async with replicas(nats_access.url, 1) as (one,):
        connection = await nats.connect(nats_access.url)
        service = await nats.micro.add_service(connection, ServiceConfig(name="orders", version="7.0.0"))

        async def answer(request: Any) -> None:
            if json.loads(request.data)["id"] == "none":
                await request.respond_error(code="404", description="no such order")
            else:
                await request.respond(b'{"total": 5}')

        said = {"description": "Looks up.", "input_schema": SCHEMA, "idempotent": True}
        for subject, metadata in (
            ("llm.v1.call.acme.orders.1_2_0", {"llm.tool": json.dumps(said)}),
            ("llm.v1.call.globex.orders.1_2_0", {"llm.tool": json.dumps(said)}),
            ("orders.admin.drop", {"llm.tool": json.dumps({**said, "name": "drop", "version": "1.0.0"})}),
        ):
            name = re.sub(r"\W", "-", subject)
            await service.add_endpoint(name=name, subject=subject, handler=answer, metadata=metadata)
        try:
            await until(lambda: one.finds("orders") is not None)
            tool = one.registry.find("acme", "orders@^1")
            assert (tool.discovered, tool.idempotent, tool.subject) == (
                True,
                True,
                "llm.v1.call.acme.orders.1_2_0",
            )
            assert one.finds("orders", tenant="globex") is None
            assert one.finds("drop") is None
            bus = NatsToolBus(one.mux)
            assert await bus.call(called(tool.subject, b'{"id": "1"}')) == b'{"total": 5}'
            with pytest.raises(Permanent, match="no such order") as caught:
                await bus.call(called(tool.subject, b'{"id": "none"}'))
            assert caught.value.details["number"] == "404"
        finally:
            await service.stop()
            await connection.close()


def called(subject: str, payload: bytes = b"{}", timeout_s: float = 30.0) -> ToolCall:
    return ToolCall(subject=subject, payload=payload, headers={"Idempotency-Key": "k1"}, timeout_s=timeout_s)


@pytest.mark.parametrize("mode", ["accounts", "users"])
async def test_heartbeats_and_cancellations_pass_the_permissions_that_are_made(mode: Any) -> None:
    text = render(("acme", "globex"), mode=mode, watchers=Watchers(shared_tools=True))
    for user in ("sidecar", "shared", "acme", "globex"):
        text = text.replace(f"${password_variable(user)} ", '"p" ').replace(f"${password_variable(user)},", '"p",')
    with running(make_server(config=text)) as server:
        async with AsyncExitStack() as stack:
            urls = {
                name: server.url.replace("nats://", f"nats://{name}:p@") for name in ("sidecar", "acme", "shared")
            }
            mux = await stack.enter_async_context(connected(urls["sidecar"]))
            bus = NatsToolBus(mux)
            for scope in ("acme", "shared"):
                provider = await stack.enter_async_context(connected_provider(urls[scope], scope))
                await passes(bus, provider, scope)


class Provider(NamedTuple):
    connection: Any
    cancelled: list[Any]


@asynccontextmanager
async def connected_provider(url: str, scope: str) -> AsyncIterator[Provider]:
    connection = await nats.connect(url, inbox_prefix=f"_INBOX_{scope}".encode())
    cancelled: list[Any] = []

    async def answer(message: Any) -> None:
        if message.data == b'"silent"':
            return
        for _ in range(3):
            await connection.publish(message.reply, b"", headers={"Llm-Tool-Progress": "in_progress"})
        await connection.publish(message.reply, b'"done"')

    async def hear(message: Any) -> None:
        cancelled.append(message.headers["Idempotency-Key"])

    subject = f"llm.v1.call.{scope}.orders.1_2_0"
    await connection.subscribe(subject, queue="tool", cb=answer)
    await connection.subscribe(call_cancelled(subject), cb=hear)
    # A ping may overtake a subscription that waits to be written; the second one comes behind it.
    await connection.flush()
    await connection.flush()
    try:
        yield Provider(connection, cancelled)
    finally:
        await connection.close()


async def once_it_listens(bus: NatsToolBus, subject: str) -> bytes:
    """The answer; accounts learn of each other's subscriptions a moment later than the provider's own one does."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await bus.call(called(subject))
            except Temporary as e:
                if e.details.get("outcome") != "none":
                    raise
            await asyncio.sleep(0.05)


async def passes(bus: NatsToolBus, provider: Provider, scope: str) -> None:
    subject = f"llm.v1.call.{scope}.orders.1_2_0"
    assert await once_it_listens(bus, subject) == b'"done"'
    with pytest.raises(Temporary):
        await bus.call(called(subject, b'"silent"', 0.2))
    await until(lambda: provider.cancelled == ["k1"])
    with pytest.raises(Temporary, match="no provider"):
        await bus.call(called(f"llm.v1.call.{scope}.none.1_0_0"))


async def test_a_reply_subject_is_never_what_a_provider_says(nats_access: Access) -> None:
    """What comes in answer to a call is output, also when it looks like a request of the protocol."""
    async with connected(nats_access.url) as mux, connected(nats_access.url) as other:
        heard: list[BusMessage] = []
        await other.subscribe("llm.v1.request.>", heard.append)
        subject = "llm.v1.call.acme.orders.1_2_0"

        def answer(message: BusMessage) -> None:
            other.publish(message.reply, b'{"messages": []}', reply="llm.v1.request.acme.batch")

        await other.subscribe(subject, answer, queue="tool")
        assert await NatsToolBus(mux).call(called(subject)) == b'{"messages": []}'
        await other.connection.flush()
        assert heard == []
