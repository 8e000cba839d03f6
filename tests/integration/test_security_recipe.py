"""What docs/security.md gives to applications that use nats-py alone, against the attack that it is there for."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.support.nats_server import AccountPool

PAGE = Path(__file__).parents[2] / "docs/security.md"
SEPARATORS = [b"\x0b", b"\x0c", b"\x1c"]


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    found = re.search(r"<!-- recipe[^\n]*-->\n```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(compile(found[1], str(PAGE), "exec"), names)  # noqa: S102 (our own page)
    return names


@asynccontextmanager
async def attacker(url: str) -> AsyncIterator[Any]:
    """Somebody who may publish, byte by byte: a function of subject and payload that returns once both are in."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    await reader.readline()
    login = {"user": place.username, "pass": place.password, "verbose": False, "pedantic": False}
    writer.write(b"CONNECT " + json.dumps(login).encode() + b"\r\n")

    async def publish(subject: bytes, payload: bytes) -> None:
        writer.write(b"PUB %s %d\r\n%s\r\nPING\r\n" % (subject, len(payload), payload))
        while (await reader.readline()) != b"PONG\r\n":
            pass

    try:
        yield publish
    finally:
        writer.close()


@asynccontextmanager
async def application(url: str) -> AsyncIterator[Client]:
    connection = await nats.connect(url, allow_reconnect=False)
    try:
        yield connection
    finally:
        await connection.close()


async def test_nats_py_alone_lets_the_subject_choose_the_subscription(nats_server: AccountPool) -> None:
    """As long as this is so the recipe is needed."""
    url = nats_server.take().url
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    async with application(url) as connection, attacker(url) as publish:
        await connection.subscribe("open.>", cb=heard.put)
        await connection.subscribe("closed", cb=heard.put)
        # nats-py writes a ping past what it still holds back; a second one is behind all of that.
        await connection.flush()
        await connection.flush()
        await publish(b"open.x\x0b2", b"forged")
        async with asyncio.timeout(10):
            assert (await heard.get()).subject == "open.x"
        assert connection._subs[2]._received == 1


@pytest.mark.parametrize("separator", SEPARATORS)
async def test_the_recipe_hears_no_forged_message(
    nats_server: AccountPool, recipe: dict[str, Any], separator: bytes
) -> None:
    url = nats_server.take().url
    of: dict[str, asyncio.Queue[Msg]] = {"open.>": asyncio.Queue(), "closed": asyncio.Queue()}
    async with application(url) as connection, attacker(url) as publish:
        for pattern, heard in of.items():
            await recipe["subscribe"](connection, pattern, heard.put)
        await connection.flush()
        for number in range(1, 4):
            await publish(b"open.x" + separator + b"%d" % number, b"forged")
            await publish(b"open.closed" + separator + b"%d" % number, b"forged")
        await publish(b"closed", b"true")
        async with asyncio.timeout(10):
            assert (await of["closed"].get()).data == b"true"
        assert of["closed"].empty()


async def test_an_answer_by_the_recipe_is_the_answer(nats_server: AccountPool, recipe: dict[str, Any]) -> None:
    url = nats_server.take().url
    async with application(url) as connection, attacker(url) as publish:
        await connection.subscribe("open.>")

        async def answer(message: Msg) -> None:
            # Before the answer comes, whatever a stranger can put in its place.
            for number in range(1, 8):
                await publish(b"open.x\x0b%d" % number, b"forged")
            await message.respond(b"true")

        await connection.subscribe("question", cb=answer)
        reply = await recipe["request"](connection, "question", b"", 10)
        assert reply.data == b"true"
        with pytest.raises(ConnectionError):
            await recipe["request"](connection, "nobody.answers", b"", 10)


@pytest.mark.parametrize(
    ("subject", "pattern", "is_fit"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.*", True),
        ("a.b.c", "a.>", True),
        ("a", ">", True),
        ("a", "a.>", False),
        ("a.b.c", "a.*", False),
        ("a.b", "*", False),
        ("b.a", "a.*", False),
        ("a..b", "a.*.b", False),
        ("", ">", False),
        ("a.b", "a.b.*", False),
    ],
)
def test_subjects_fit_as_the_server_has_it(
    recipe: dict[str, Any], subject: str, pattern: str, is_fit: bool
) -> None:
    assert recipe["fits"](subject, pattern) is is_fit
