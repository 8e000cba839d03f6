"""Tools of a real sidecar, as providers and users meet them: by the commands."""

import asyncio
import json
import signal
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from tests.acceptance.conftest import World
from tests.support.demo import Done, command, end, started

pytestmark = pytest.mark.nats

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"id": {"type": "integer"}},
    "required": ["id"],
    "additionalProperties": False,
}
PROMISED = {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}
PATIENCE_S = 60.0


class Provider:
    """A tool's provider that knows `schemas/README.md` and nats-py."""

    def __init__(self, connection: Client, scope: str) -> None:
        self.connection = connection
        self.scope = scope
        self.seen: list[Mapping[str, str]] = []

    async def register(self, version: str = "1.2.0", **more: Any) -> Any:
        body = {
            "name": "orders",
            "version": version,
            "description": "Looks up an order.\nBy its number.",
            "input_schema": SCHEMA,
            "output_schema": PROMISED,
            "timeout_s": 30,
            "ttl_s": 600,
            **more,
        }
        reply = await self.connection.request(
            f"llm.v1.tools.{self.scope}.register", json.dumps(body).encode(), timeout=30
        )
        return json.loads(reply.data)

    async def serve(self, subject: str) -> None:
        async def answer(message: Any) -> None:
            self.seen.append(message.headers)
            number = json.loads(message.data)["id"]
            if number == 404:
                headers = {"Nats-Service-Error-Code": "404", "Nats-Service-Error": "no such order"}
                await self.connection.publish(message.reply, b"", headers=headers)
            elif number == 500:
                await message.respond(b'{"sum": 1}')
            elif number != 0:
                await self.connection.publish(message.reply, b"", headers={"Llm-Tool-Progress": "in_progress"})
                await message.respond(b'{"total": 5.5}')

        await self.connection.subscribe(subject, queue="tool", cb=answer)
        await self.connection.flush()


@pytest.fixture
async def provider(world: World) -> AsyncIterator[Provider]:
    connection = await nats.connect(world.nats_url)
    yield Provider(connection, f"t{uuid.uuid4().hex[:12]}")
    await connection.close()
    assert world.sidecar.is_running, world.sidecar.log[-2000:]


async def run(world: World, provider: Provider, *arguments: str, stdin: str = "") -> Done:
    """A command, while the provider's connection goes on."""
    env = {"NATS_URL": world.nats_url, "SIDECAR_TENANT": provider.scope}
    return await asyncio.to_thread(command, "tools", *arguments, env=env, stdin=stdin)


async def test_tools_are_listed_and_shown(world: World, provider: Provider) -> None:
    empty = await run(world, provider, "ls", "--json")
    assert (empty.returncode, empty.stdout, empty.stderr) == (0, "", "")
    for version in ("1.2.0", "1.10.0"):
        await provider.register(version)
    listed = await run(world, provider, "ls", "--json")
    assert [json.loads(line)["version"] for line in listed.stdout.splitlines()] == ["1.10.0", "1.2.0"]
    plain = await run(world, provider, "ls")
    assert "orders" in plain.stdout
    assert "Looks up an order." in plain.stdout
    shown = json.loads((await run(world, provider, "show", "orders@~1.2", "--json")).stdout)
    assert (shown["version"], shown["subject"]) == ("1.2.0", f"llm.v1.call.{provider.scope}.orders.1_2_0")
    plain = await run(world, provider, "show", "orders")
    assert plain.returncode == 0
    for words in ("orders 1.10.0", "live:       1.10.0, 1.2.0", "By its number.", '"additionalProperties": false'):
        assert words in plain.stdout


async def test_a_tool_is_called_by_hand(world: World, provider: Provider) -> None:
    await provider.serve((await provider.register())["subject"])
    done = await run(world, provider, "call", "orders@^1", '{"id": 7}')
    assert (done.returncode, done.stdout) == (0, '{"total": 5.5}\n')
    done = await run(world, provider, "call", "orders", stdin='{"id": 8}')
    assert (done.returncode, done.stdout) == (0, '{"total": 5.5}\n')
    assert {headers["Llm-Tenant"] for headers in provider.seen} == {provider.scope}
    assert len({headers["Idempotency-Key"] for headers in provider.seen}) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("call", "orders", '{"id": "x"}'), 2, "does not fit at id"),
        (("call", "orders", '{"id": 1, "more": 2}'), 2, "additionalProperties"),
        (("call", "orders", "[]"), 2, "no JSON object"),
        (("call", "orders", "{"), 2, "no JSON object"),
        (("call", "orders@^9", '{"id": 1}'), 1, "live are 1.2.0"),
        (("call", "nothing", '{"id": 1}'), 1, "no version is live"),
        (("show", "orders@newest"), 2, "not a range"),
        (("show", "a.b"), 2, "no tool's name"),
        (("ls", "--scope", "a.b"), 2, "no scope"),
        (("call", "orders", '{"id": 404}'), 1, "no such order"),
        (("call", "orders", '{"id": 500}'), 1, "a model would be told that the tool failed"),
        (("call", "orders", '{"id": 0}', "--timeout", "0.3"), 4, "did not answer within 0.3 s"),
    ],
)
async def test_a_users_error_is_one_message_and_an_exit_code(
    world: World, provider: Provider, arguments: tuple[str, ...], code: int, words: str
) -> None:
    await provider.serve((await provider.register())["subject"])
    done = await run(world, provider, *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_tool_that_nobody_provides_is_unreachable(world: World, provider: Provider) -> None:
    await provider.register()
    done = await run(world, provider, "call", "orders", '{"id": 1}')
    assert done.returncode == 3
    assert "no provider listens" in done.stderr


async def test_changes_are_watched(world: World, provider: Provider) -> None:
    env = {"NATS_URL": world.nats_url, "SIDECAR_TENANT": provider.scope}
    await provider.register()
    with started(["tools", "watch", "--every", "0.1", "--json"], env=env) as process:
        assert process.stdout is not None

        async def heard() -> tuple[str, str]:
            line = json.loads(await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), PATIENCE_S))  # type: ignore[union-attr]
            return line["change"], line["tool"]["version"]

        assert await heard() == ("added", "1.2.0")
        await provider.register("2.0.0")
        assert await heard() == ("added", "2.0.0")
        body = json.dumps({"name": "orders", "version": "1.2.0"}).encode()
        await provider.connection.request(f"llm.v1.tools.{provider.scope}.deregister", body, timeout=30)
        assert await heard() == ("removed", "1.2.0")
        await provider.register("2.0.0", ttl_s=6000)
        assert await heard() == ("renewed", "2.0.0")
        assert end(process, signal.SIGINT) == 130
