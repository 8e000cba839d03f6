"""Tools provided by the client library, on a real NATS server, against a stand-in for the registry."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from sidecar import SidecarClient, ToolContext, ToolError, ToolProvider, tool
from sidecar.client import InvalidTool
from sidecar.client.tools import registering
from sidecar.errors import AccessDenied, BusUnavailable, CallTimeout, InvalidRequest
from tests.support.fake_registry import FakeRegistry
from tests.support.nats_server import Access, Server, make_server, running

pytestmark = pytest.mark.nats

WAIT_S = 60.0
FAST = 0.02


class Sum(msgspec.Struct):
    total: int
    parts: list[int]


@tool(version="1.0.0")
async def add(numbers: list[int]) -> Sum:
    """Add numbers.

    Args:
        numbers: What to add.
    """
    return Sum(sum(numbers), numbers)


@tool
def shout(text: str, ctx: ToolContext) -> dict[str, Any]:
    """Shout."""
    return {
        "text": text.upper(),
        "thread": threading.current_thread() is not threading.main_thread(),
        "job": ctx.job_id,
        "same": ToolContext.current() is ctx,
    }


class Gate:
    """A tool whose calls stop until let through, and what became of them."""

    def __init__(self, **options: Any) -> None:
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.open = asyncio.Event()
        self.news = asyncio.Event()

        @tool(name="gate", **options)
        async def gate(name: str) -> str:
            """Wait."""
            self.begun.append(name)
            self.news.set()
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise
            return name

        self.tool = gate

    async def has_begun(self, count: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(self.begun) < count:
                self.news.clear()
                await self.news.wait()


@pytest.fixture
async def registry(nats_access: Access) -> AsyncIterator[FakeRegistry]:
    fake = FakeRegistry()
    await fake.start(nats_access.url)
    yield fake
    await fake.stop()


@pytest.fixture
async def client(nats_access: Access) -> AsyncIterator[SidecarClient]:
    async with await SidecarClient.connect(
        nats_access.url, tenant="acme", connect_timeout_s=WAIT_S, request_timeout_s=WAIT_S
    ) as connected:
        yield connected


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_tool_is_registered_and_answers(client: SidecarClient, registry: FakeRegistry) -> None:
    async with client.provide([add, shout]) as provider:
        assert provider.is_registered
        registration = (await registry.seen("add", 1))[0]
        assert registration["scope"] == "acme"
        assert registration["input_schema"]["properties"]["numbers"]["description"] == "What to add."
        assert await registry.ask("add", {"numbers": [1, 2]}) == {"total": 3, "parts": [1, 2]}
    assert sorted(registry.deregistered) == ["add@1.0.0", "shout@1.0.0"]
    assert not client.bus._feeds


async def test_a_plain_function_runs_in_a_thread_and_knows_its_call(
    client: SidecarClient, registry: FakeRegistry
) -> None:
    async with client.provide([shout], scope="shared"):
        headers = {"Llm-Job-Id": "j1", "Llm-Tenant": "other"}
        output = await registry.ask("shout", {"text": "hey"}, scope="shared", headers=headers)
    assert output == {"text": "HEY", "thread": True, "job": "j1", "same": True}


async def test_the_context_tells_what_the_headers_say(client: SidecarClient, registry: FakeRegistry) -> None:
    seen: list[ToolContext] = []

    @tool
    async def look(ctx: ToolContext) -> None:
        """Look."""
        seen.append(ctx)

    async with client.provide([look]):
        headers = {
            "Llm-Job-Id": "j1",
            "Llm-Tenant": "acme",
            "Llm-Tool-Use-Id": "t1",
            "Idempotency-Key": "k1",
            "Llm-Deadline": "2999-01-01T00:00:00.000Z",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        }
        assert await registry.ask("look", {}, headers=headers) is None
        assert await registry.ask("look", {}, headers={"Llm-Deadline": "soon"}) is None
    context = seen[0]
    assert (context.job_id, context.tenant, context.tool_use_id) == ("j1", "acme", "t1")
    assert context.idempotency_key == "k1"
    assert context.deadline is not None
    assert context.deadline.year == 2999
    assert context.traceparent == headers["traceparent"]
    assert seen[1].deadline is None
    assert not context.is_cancelled


async def test_invalid_input_is_refused_with_its_path(client: SidecarClient, registry: FakeRegistry) -> None:
    async with client.provide([add]):
        assert await registry.fail("add", {"numbers": [1, "x"]}) == (
            400,
            "numbers[1]: 'numbers[1]' must be an integer, not a string",
        )
        assert await registry.fail("add", {}) == (400, "numbers: field 'numbers' is missing: add it")
        number, text = await registry.fail("add", b"{nonsense")
        assert number == 400
        assert "not JSON" in text
        message = await (await registry.call("add", {"numbers": 1})).answer()
        error = json.loads(message.data)["error"]
        assert error["code"] == "invalid_request"
        assert error["details"] == {"path": "numbers"}


async def test_errors_of_a_function_are_told_safely(
    client: SidecarClient, registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    def make(kind: str) -> None:
        if kind == "told":
            raise ToolError("no such\r\norder", code=404)
        raise RuntimeError("password=hunter2")

    @tool(name="plain")
    def plain(kind: str) -> None:
        """Break."""
        make(kind)

    @tool(name="waiting")
    async def waiting(kind: str) -> None:
        """Break."""
        make(kind)

    with caplog.at_level(logging.ERROR):
        async with client.provide([plain, waiting]):
            for name in ("plain", "waiting"):
                assert await registry.fail(name, {"kind": "told"}) == (404, "no such order")
                assert not caplog.records
                assert await registry.fail(name, {"kind": "x"}) == (500, "the tool failed with RuntimeError")
                assert "hunter2" in caplog.text
                assert "Traceback" in caplog.text
                caplog.clear()


async def test_an_output_without_json_or_too_large_is_an_error(
    client: SidecarClient, registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    @tool
    async def odd(size: int) -> Any:
        """Give something odd."""
        return "x" * size if size else object()

    async with client.provide([odd]):
        assert await registry.fail("odd", {"size": 0}) == (500, "the tool failed with TypeError")
        assert "no JSON form" in caplog.text
        number, text = await registry.fail("odd", {"size": client.bus.max_payload})
        assert number == 413
        assert str(client.bus.max_payload) in text


async def test_calls_beyond_the_limit_wait_in_order_and_more_are_refused(
    client: SidecarClient, registry: FakeRegistry
) -> None:
    gate = Gate(concurrency=2, max_waiting=3)
    async with client.provide([gate.tool]) as provider:
        calls = [await registry.call("gate", {"name": str(i)}) for i in range(5)]
        await eventually(lambda: provider.in_flight == 5)
        assert gate.begun == ["0", "1"]
        assert (await registry.fail("gate", {"name": "x"}))[0] == 429
        gate.open.set()
        assert [json.loads((await call.answer()).data) for call in calls] == [str(i) for i in range(5)]
        assert gate.begun == [str(i) for i in range(5)]


async def test_a_call_that_waits_or_runs_long_gives_signs_of_life(
    client: SidecarClient, registry: FakeRegistry
) -> None:
    gate = Gate(concurrency=1)
    async with client.provide([gate.tool], heartbeat_s=FAST):
        first, second = [await registry.call("gate", {"name": name}) for name in "ab"]
        answers = [asyncio.ensure_future(call.answer()) for call in (first, second)]
        await eventually(lambda: first.heartbeats > 2 and second.heartbeats > 2)
        gate.open.set()
        await asyncio.gather(*answers)


async def test_a_cancelled_call_is_told_to_an_async_function(
    client: SidecarClient, registry: FakeRegistry
) -> None:
    gate = Gate(concurrency=2)
    async with client.provide([gate.tool]) as provider:
        headers = [{"Llm-Tenant": "acme", "Idempotency-Key": f"k{i}"} for i in range(4)]
        calls = [await registry.call("gate", {"name": str(i)}, headers=headers[i]) for i in range(4)]
        await eventually(lambda: provider.in_flight == 4)
        for i in (0, 2):
            await registry.nc.publish("llm.v1.call.acme.gate.1_0_0.cancel", b"", headers=headers[i])
        for i in (0, 2):
            assert (await calls[i].answer()).headers["Nats-Service-Error-Code"] == "499"
        await gate.has_begun(3)
        assert gate.cancelled == ["0"]
        assert gate.begun == ["0", "1", "3"]
        gate.open.set()
        assert [json.loads((await calls[i].answer()).data) for i in (1, 3)] == ["1", "3"]


async def test_a_cancelled_call_is_told_to_a_thread_and_keeps_its_slot(
    client: SidecarClient, registry: FakeRegistry
) -> None:
    order: list[str] = []
    told, leave = threading.Event(), threading.Event()

    @tool(concurrency=1)
    def work(name: str, ctx: ToolContext) -> str:
        """Work."""
        order.append(f"{name} begins")
        if name == "first":
            ctx.wait_cancelled(WAIT_S)
            told.set()
            leave.wait(WAIT_S)
        order.append(f"{name} ends")
        ctx.raise_if_cancelled()
        return name

    async with client.provide([work]):
        headers = {"Llm-Tenant": "acme", "Llm-Job-Id": "j", "Idempotency-Key": "k"}
        first = await registry.call("work", {"name": "first"}, headers=headers)
        second = await registry.call("work", {"name": "second"})
        await eventually(lambda: order == ["first begins"])
        await registry.nc.publish("llm.v1.call.acme.work.1_0_0.cancel", b"", headers=headers)
        assert (await first.answer()).headers["Nats-Service-Error-Code"] == "499"
        await asyncio.to_thread(told.wait, WAIT_S)
        assert order == ["first begins"]
        leave.set()
        assert json.loads((await second.answer()).data) == "second"
        assert order == ["first begins", "first ends", "second begins", "second ends"]


async def test_calls_of_others_are_not_cancelled_along(client: SidecarClient, registry: FakeRegistry) -> None:
    gate = Gate()
    async with client.provide([gate.tool], scope="shared"):
        one = {"Llm-Tenant": "acme", "Llm-Job-Id": "j", "Idempotency-Key": "k"}
        other = {**one, "Llm-Tenant": "globex"}
        calls = [await registry.call("gate", {"name": "x"}, scope="shared", headers=h) for h in (one, other)]
        await gate.has_begun(2)
        await registry.nc.publish("llm.v1.call.shared.gate.1_0_0.cancel", b"", headers=other)
        await registry.nc.publish("llm.v1.call.shared.gate.1_0_0.cancel", b"")
        assert (await calls[1].answer()).headers["Nats-Service-Error-Code"] == "499"
        gate.open.set()
        assert json.loads((await calls[0].answer()).data) == "x"


async def test_a_repeated_call_is_not_run_again(client: SidecarClient, registry: FakeRegistry) -> None:
    gate = Gate()
    async with client.provide([gate.tool]):
        headers = {"Llm-Tenant": "acme", "Llm-Job-Id": "j", "Idempotency-Key": "k"}
        calls = [await registry.call("gate", {"name": "x"}, headers=headers) for _ in range(2)]
        await gate.has_begun(1)
        gate.open.set()
        assert [json.loads((await call.answer()).data) for call in calls] == ["x", "x"]
        assert await registry.ask("gate", {"name": "x"}, headers=headers) == "x"
        assert gate.begun == ["x"]
        assert await registry.ask("gate", {"name": "y"}, headers=headers) == "y"
        assert await registry.ask("gate", {"name": "x"}, headers={**headers, "Llm-Tenant": "globex"}) == "x"
        assert gate.begun == ["x", "y", "x"]


async def test_a_function_that_takes_too_long_is_stopped(client: SidecarClient, registry: FakeRegistry) -> None:
    gate = Gate(max_run_s=0.05)
    async with client.provide([gate.tool]):
        assert (await registry.fail("gate", {"name": "x"}))[0] == 504
        assert gate.cancelled == ["x"]


async def test_a_call_whose_deadline_is_over_is_not_run(client: SidecarClient, registry: FakeRegistry) -> None:
    gate = Gate()
    async with client.provide([gate.tool]):
        number, text = await registry.fail("gate", {"name": "x"}, headers={"Llm-Deadline": "2001-01-01T00:00:00Z"})
    assert number == 504
    assert "deadline" in text
    assert not gate.begun


async def test_stopping_lets_calls_finish_and_tells_those_that_do_not(
    client: SidecarClient, registry: FakeRegistry
) -> None:
    gate = Gate()
    provider = client.provide([gate.tool])
    await provider.start()
    call = await registry.call("gate", {"name": "x"})
    await gate.has_begun(1)
    stopping = asyncio.ensure_future(provider.stop(grace_s=WAIT_S))
    await eventually(lambda: bool(registry.deregistered))
    gate.open.set()
    assert json.loads((await call.answer()).data) == "x"
    await stopping

    gate = Gate()
    provider = client.provide([gate.tool])
    await provider.start()
    call = await registry.call("gate", {"name": "y"})
    await gate.has_begun(1)
    await provider.stop(grace_s=0.01)
    assert (await call.answer()).headers["Nats-Service-Error-Code"] == "503"
    assert gate.cancelled == ["y"]
    await provider.stop()


async def test_only_the_last_provider_of_a_version_takes_it_back(
    client: SidecarClient, registry: FakeRegistry
) -> None:
    first, second = client.provide([add]), client.provide([add])
    await first.start()
    await second.start()
    await first.stop()
    assert not registry.deregistered
    assert await registry.ask("add", {"numbers": [4]}) == {"total": 4, "parts": [4]}
    await second.stop()
    assert registry.deregistered == ["add@1.0.0"]


async def test_providers_share_the_calls(client: SidecarClient, registry: FakeRegistry) -> None:
    gates = [Gate(), Gate()]
    async with client.provide([gates[0].tool]) as one, client.provide([gates[1].tool]) as other:
        calls = [await registry.call("gate", {"name": str(i)}) for i in range(40)]
        await eventually(lambda: one.in_flight + other.in_flight == 40)
        for gate in gates:
            gate.open.set()
        assert [json.loads((await call.answer()).data) for call in calls] == [str(i) for i in range(40)]
    assert all(gate.begun for gate in gates)


async def test_registrations_are_renewed(
    client: SidecarClient, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = tool(name="quick")(add.function)
    quick.registration = msgspec.structs.replace(quick.registration, ttl_s=FAST)
    async with client.provide([quick]):
        await registry.seen("quick", 4)


async def test_a_refusal_is_raised_and_nothing_stays(client: SidecarClient, registry: FakeRegistry) -> None:
    registry.refuse = (400, "invalid_request", "this version is published with other content")
    with pytest.raises(InvalidRequest, match="other content") as caught:
        await client.provide([add, shout]).start()
    assert caught.value.path == "version"
    assert not client.bus._feeds


async def test_a_later_refusal_is_logged_and_tried_on(
    client: SidecarClient, registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    quick = tool(name="quick")(add.function)
    quick.registration = msgspec.structs.replace(quick.registration, ttl_s=FAST)
    async with client.provide([quick]) as provider:
        registry.refuse = (403, "tenant_denied", "scope taken away")
        await eventually(lambda: not provider.is_registered)
        await registry.seen("quick", len(registry.registrations["quick"]) + 3)
        registry.refuse = None
        await provider.wait_registered(timeout_s=WAIT_S)
    assert caplog.text.count("scope taken away") == 1


async def test_a_sidecar_that_is_away_is_waited_for(
    client: SidecarClient,
    registry: FakeRegistry,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registering, "_FIRST_PAUSE_S", FAST)
    await registry.deafen()
    async with client.provide([add]) as provider:
        assert not provider.is_registered
        with pytest.raises(CallTimeout):
            await provider.wait_registered(timeout_s=0.2)
        # Calls that come before the registration is accepted wait for it.
        early = await registry.call("add", {"numbers": [1]})
        await eventually(lambda: provider.in_flight == 1)
        await registry.listen()
        await provider.wait_registered(timeout_s=WAIT_S)
        assert json.loads((await early.answer()).data) == {"total": 1, "parts": [1]}
    assert caplog.text.count("is not registered yet") == 1


async def test_no_call_is_lost_between_registration_and_subscription(
    client: SidecarClient, registry: FakeRegistry
) -> None:
    calls: list[Any] = []
    register = registry._register

    async def call_at_once(message: Any) -> None:
        calls.append(await registry.call("add", {"numbers": [7]}))
        await register(message)

    await registry.deafen()
    registry._register = call_at_once  # type: ignore[method-assign]
    await registry.listen()
    async with client.provide([add]):
        assert json.loads((await calls[0].answer()).data) == {"total": 7, "parts": [7]}


async def test_the_subject_that_the_registry_names_counts(client: SidecarClient, registry: FakeRegistry) -> None:
    registry.subject = "llm.v1.call.acme.add.elsewhere"
    async with client.provide([add]):
        assert await registry.ask("add", {"numbers": [2]}, version="elsewhere") == {"total": 2, "parts": [2]}


async def test_replies_go_nowhere_but_to_inboxes(client: SidecarClient, registry: FakeRegistry) -> None:
    gate = Gate()
    async with client.provide([gate.tool]):
        for reply in ("$JS.API.STREAM.DELETE.X", "llm.v1.cancel.acme.j", ""):
            await registry.nc.publish("llm.v1.call.acme.gate.1_0_0", b'{"name": "x"}', reply=reply)
        call = await registry.call("gate", {"name": "y"})
        await gate.has_begun(1)
        gate.open.set()
        await call.answer()
    assert gate.begun == ["y"]


async def test_wrong_use_is_refused(client: SidecarClient) -> None:
    async def plain(text: str) -> str:
        return text

    for wrong, match in ([[plain], "decorate"], [[], "no tools"], [[add, add], "add@1.0.0"]):
        with pytest.raises(InvalidTool, match=match):
            client.provide(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="scope"):
        ToolProvider(client, [add], scope="a.b")


async def test_tools_survive_a_restart_of_the_server() -> None:
    with running(make_server()) as server:
        registry = FakeRegistry()
        await registry.start(server.url)
        gate = Gate()
        async with (
            await SidecarClient.connect(
                server.url, tenant="acme", connect_timeout_s=WAIT_S, request_timeout_s=2, reconnect_time_wait=0.1
            ) as client,
            client.provide([add, gate.tool]),
        ):
            before = len(await registry.seen("add", 1))
            await registry.call("gate", {"name": "x"})
            await gate.has_begun(1)
            await asyncio.to_thread(server.restart)
            await registry.seen("add", before + 1)
            assert await registry.ask("add", {"numbers": [3]}) == {"total": 3, "parts": [3]}
            assert gate.cancelled == []
            gate.open.set()
        await registry.stop()


async def test_missing_permission_is_raised(server_with_users: Server) -> None:
    registry = FakeRegistry()
    await registry.start(server_with_users.url.replace("nats://", "nats://sidecar:p@"))
    url = server_with_users.url.replace("nats://", "nats://deaf:p@")
    async with await SidecarClient.connect(url, tenant="acme", connect_timeout_s=WAIT_S) as client:
        with pytest.raises(AccessDenied, match=r"subscribe to llm\.v1\.call\.acme\.add"):
            await client.provide([add]).start()
        assert not registry.registrations["add"]
    await registry.stop()


@pytest.fixture
def server_with_users() -> Any:
    config = """
    authorization { users: [
      { user: sidecar, password: p }
      { user: deaf, password: p, permissions: { publish: ">", subscribe: "_INBOX_acme.>" } }
    ] }
    """
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(running(make_server(config=config)))


async def test_a_connection_that_ended_for_good_is_made_anew(
    client: SidecarClient, registry: FakeRegistry
) -> None:
    async with client.provide([add]) as provider:
        await registry.seen("add", 1)
        await client.bus._nc.close()
        await registry.seen("add", 2)
        assert await registry.ask("add", {"numbers": [5]}) == {"total": 5, "parts": [5]}
        assert provider.is_registered


async def test_while_one_provider_goes_no_call_is_lost(client: SidecarClient, registry: FakeRegistry) -> None:
    going, staying = client.provide([add]), client.provide([add])
    await going.start()
    await staying.start()
    stopping: asyncio.Task[None] | None = None
    calls = []
    for i in range(300):
        calls.append(await registry.call("add", {"numbers": [i]}))
        if i == 100:
            stopping = asyncio.ensure_future(going.stop())
        await asyncio.sleep(0)
    outputs = [json.loads((await call.answer()).data)["total"] for call in calls]
    assert outputs == list(range(300))
    assert stopping is not None
    await stopping
    await staying.stop()


async def test_starting_may_be_cancelled_anywhere(client: SidecarClient, registry: FakeRegistry) -> None:
    outcomes = []
    for steps in range(0, 60, 2):
        provider = client.provide([add, shout])
        starting = asyncio.ensure_future(provider.start())
        for _ in range(steps):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        outcomes.append(starting.cancelled())
        await provider.stop()
        await eventually(lambda: not client.bus._feeds)
    assert any(outcomes)
    subjects = {sub.subject for sub in client.bus._nc._subs.values()}
    assert not [subject for subject in subjects if subject.startswith("llm.v1.call")]


async def test_closing_the_client_ends_its_providers(client: SidecarClient, registry: FakeRegistry) -> None:
    provider = await client.provide([add]).start()
    await client.close()
    await eventually(lambda: all(task.done() for task in provider._tasks[:-1]))
    await provider.stop()


async def test_a_signal_ends_the_provider(client: SidecarClient, registry: FakeRegistry) -> None:
    async with client.provide([add]) as provider:
        waiting = asyncio.ensure_future(provider.run_until_signal(signal.SIGUSR1))
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(waiting, WAIT_S)
    waiting = asyncio.ensure_future(provider.run_until_signal(signal.SIGUSR1))
    await asyncio.wait_for(waiting, WAIT_S)


async def test_a_function_that_cancels_itself_is_answered_for(
    client: SidecarClient, registry: FakeRegistry
) -> None:
    @tool(concurrency=1)
    async def odd(how: str) -> str:
        """Be odd."""
        if how == "cancel":
            raise asyncio.CancelledError
        if how == "exit":
            raise SystemExit(3)
        return how

    @tool(name="leave", concurrency=1)
    def leave(how: str) -> str:
        """Leave."""
        if how == "exit":
            raise SystemExit(3)
        return how

    async with client.provide([odd, leave]):
        for name, how in (("odd", "cancel"), ("odd", "exit"), ("leave", "exit")):
            assert (await registry.fail(name, {"how": how}))[0] == 500
            assert await registry.ask(name, {"how": "well"}) == "well"


async def test_closing_the_client_ends_a_start(client: SidecarClient, registry: FakeRegistry) -> None:
    await registry.deafen()
    asked = asyncio.Event()

    async def say_nothing(_: Any) -> None:
        asked.set()

    registry._register = say_nothing  # type: ignore[method-assign]
    await registry.listen()
    client.request_timeout_s = 1.0
    starting = asyncio.ensure_future(client.provide([add]).start())
    await asyncio.wait_for(asked.wait(), WAIT_S)
    await client.close()
    with pytest.raises(BusUnavailable):
        await asyncio.wait_for(starting, WAIT_S)
