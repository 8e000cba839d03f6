"""The admin endpoint over real sockets of this machine: pages, refusals, clients that misbehave."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sidecar.adapters.http.admin import LONGEST_HEAD, MOST_CONNECTIONS, AdminServer, Page, Route
from sidecar.errors import StartupError


async def hello() -> Page:
    return Page(b'{"a": 1}')


async def away() -> Page:
    return Page(b"{}", 503)


@pytest.fixture
async def server() -> AsyncIterator[AdminServer]:
    routes = {"/hello": Route(hello), "/away": Route(away), "/post": Route(hello, ("POST",))}
    made = AdminServer(routes, host="127.0.0.1", port=0)
    await made.start()
    yield made
    await made.close()


async def exchange(server: AdminServer, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /hello HTTP/1.1", b"200"),
        (b"GET /hello?verbose=1 HTTP/1.0", b"200"),
        (b"GET /away HTTP/1.1", b"503"),
        (b"POST /post HTTP/1.1", b"200"),
        (b"GET /post HTTP/1.1", b"405"),
        (b"POST /hello HTTP/1.1", b"405"),
        (b"GET /../etc/passwd HTTP/1.1", b"404"),
        (b"GET /nothing HTTP/1.1", b"404"),
        (b"nonsense", b"400"),
        (b"GET /hello SMTP/1", b"400"),
        (b"\xff\xfe\x00 / HTTP/1.1", b"404"),
        (b"", b"400"),
    ],
)
async def test_each_request_gets_its_answer(server: AdminServer, request_line: bytes, status: bytes) -> None:
    answer = await exchange(server, request_line + b"\r\nHost: x\r\n\r\n")
    assert answer.split(b" ")[1] == status
    assert b"Connection: close" in answer


async def test_head_has_the_length_and_no_body(server: AdminServer) -> None:
    answer = await exchange(server, b"HEAD /hello HTTP/1.1\r\n\r\n")
    assert b"Content-Length: 8" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_a_head_that_is_too_long_is_dropped_and_the_server_goes_on(server: AdminServer) -> None:
    await exchange(server, b"GET /hello HTTP/1.1\r\nX: " + b"x" * 2 * LONGEST_HEAD + b"\r\n\r\n")
    assert b"200" in await exchange(server, b"GET /hello HTTP/1.1\r\n\r\n")


async def test_a_client_that_leaves_at_once_is_no_trouble(server: AdminServer) -> None:
    for _ in range(10):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /he")
        writer.close()
    assert b"200" in await exchange(server, b"GET /hello HTTP/1.1\r\n\r\n")


async def test_too_many_connections_at_once_are_closed_unheard(server: AdminServer) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(MOST_CONNECTIONS)]
    assert await exchange(server, b"GET /hello HTTP/1.1\r\n\r\n") == b""
    for _, writer in idle:
        writer.close()
    for reader, _ in idle:
        assert await reader.read() == b""
    assert b"200" in await exchange(server, b"GET /hello HTTP/1.1\r\n\r\n")


async def test_a_port_in_use_stops_the_start_with_the_remedy(server: AdminServer) -> None:
    second = AdminServer({}, host="127.0.0.1", port=server.port)
    with pytest.raises(StartupError, match=r"admin\.port"):
        await second.start()


async def test_a_page_that_breaks_closes_the_connection_and_not_the_server(server: AdminServer) -> None:
    async def broken() -> Page:
        raise ZeroDivisionError

    server._routes["/broken"] = Route(broken)  # type: ignore[index]
    answer = await exchange(server, b"GET /broken HTTP/1.1\r\n\r\n")
    assert answer.split(b" ")[1] == b"500"
    assert b"ZeroDivisionError" not in answer
    assert b"200" in await exchange(server, b"GET /hello HTTP/1.1\r\n\r\n")
