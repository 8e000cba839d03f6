"""The admin endpoint over real sockets of this machine: pages, refusals, clients that misbehave."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from sidecar.adapters.http.admin import AdminRoute, AdminServer, Page
from sidecar.adapters.http.connections import LONGEST_HEAD, MOST_CONNECTIONS, MOST_HEADERS, MOST_OF_A_PEER
from sidecar.adapters.http.guard import Guard, Request
from sidecar.errors import StartupError

TOKEN = "a-token-of-sixteen"
PROBES = 27


async def hello(is_operator: bool) -> Page:
    return Page(b'{"a": 1}')


async def away(is_operator: bool) -> Page:
    return Page(b"{}", 503)


async def who(is_operator: bool) -> Page:
    return Page(b"operator" if is_operator else b"anyone")


def routes() -> dict[str, AdminRoute]:
    return {
        "/hello": AdminRoute(hello),
        "/away": AdminRoute(away),
        "/who": AdminRoute(who),
        "/post": AdminRoute(hello, ("POST",)),
        "/read": AdminRoute(hello, audience="reader"),
        "/act": AdminRoute(hello, ("POST",), "operator"),
    }


@pytest.fixture
async def server() -> AsyncIterator[AdminServer]:
    made = AdminServer(routes(), host="127.0.0.1", port=0)
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


async def ask(server: AdminServer, line: str, *headers: str, host: str = "127.0.0.1") -> int:
    answer = await exchange(server, "\r\n".join([f"{line} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode())
    return int(answer.split(b" ")[1])


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
        (b"GET http://127.0.0.1/hello HTTP/1.1", b"404"),
        (b"GET /nothing HTTP/1.1", b"404"),
        (b"nonsense", b"400"),
        (b"GET /hello SMTP/1", b"400"),
        (b"GET  /hello HTTP/1.1", b"400"),
        (b"GET /hello HTTP/1.1\r\nA : b", b"400"),
        (b"GET /hello HTTP/1.1\r\nHost: y", b"400"),
        (b"GET /hello HTTP/1.1\r\nA: b\x00c", b"400"),
        (b"\xff\xfe\x00 / HTTP/1.1", b"400"),
        (b"", b"400"),
    ],
)
async def test_each_request_gets_its_answer(server: AdminServer, request_line: bytes, status: bytes) -> None:
    answer = await exchange(server, request_line + b"\r\nHost: x\r\n\r\n")
    assert answer.split(b" ")[1] == status
    assert b"Connection: close" in answer


async def test_head_has_the_length_and_no_body(server: AdminServer) -> None:
    answer = await exchange(server, b"HEAD /hello HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Content-Length: 8" in answer
    assert answer.endswith(b"\r\n\r\n")


GET = b"GET /hello HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (GET + b"X: " + b"x" * 2 * LONGEST_HEAD + b"\r\n\r\n", b"431"),
        (b"GET /" + b"x" * 2 * LONGEST_HEAD + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
        (GET + b"".join(b"X%d: 1\r\n" % i for i in range(MOST_HEADERS)) + b"\r\n", b"431"),
    ],
    ids=["header", "request line", "headers"],
)
async def test_a_head_that_is_too_large_is_refused_and_the_server_goes_on(
    server: AdminServer, request_: bytes, status: bytes
) -> None:
    assert (await exchange(server, request_)).split(b" ")[1] == status
    assert b"200" in await exchange(server, GET + b"\r\n")


async def test_of_requests_in_a_row_the_first_is_answered(server: AdminServer) -> None:
    answer = await exchange(server, (GET + b"\r\n") * 500)
    assert answer.count(b"HTTP/1.1 200") == 1
    assert b"200" in await exchange(server, GET + b"\r\n")


async def test_a_body_is_not_needed_and_not_in_the_way(server: AdminServer) -> None:
    body = b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nGET /hell"
    assert (await exchange(server, body)).count(b"HTTP/1.1 200") == 1


async def test_a_client_that_leaves_at_once_is_no_trouble(server: AdminServer) -> None:
    for _ in range(10):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /he")
        writer.close()
    assert b"200" in await exchange(server, GET + b"\r\n")


def dribble(sent: int, head: bytes) -> bytes:
    """The next byte of a head that never ends."""
    return head[sent : sent + 1] or b"x"


@pytest.mark.parametrize("strangers", [64, 500])
@pytest.mark.parametrize("kind", ["silent", "half a head", "trickling", "does not read"])
async def test_whoever_holds_connections_open_keeps_no_probe_out(
    server: AdminServer, strangers: int, kind: str
) -> None:
    held = []
    for _ in range(strangers):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        held.append((reader, writer))
        if kind == "half a head":
            writer.write(GET)
        elif kind == "does not read":
            writer.write(GET + b"\r\n")
    for turn in range(PROBES):
        if kind == "trickling":
            for _, writer in held:
                if not writer.is_closing():
                    writer.write(dribble(turn, GET))
        assert b"200" in await exchange(server, GET + b"\r\n")
        assert server.connections <= MOST_OF_A_PEER <= MOST_CONNECTIONS
    for _, writer in held:
        writer.transport.abort()


async def test_a_head_that_does_not_come_is_waited_for_no_longer_than_its_limit(
    server: AdminServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.adapters.http.connections.HEAD_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(GET)

    async def trickle() -> None:
        while True:
            writer.write(b"X: y\r\n")
            await asyncio.sleep(0.01)

    trickling = asyncio.create_task(trickle())
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    trickling.cancel()
    writer.close()
    assert server.connections == 0


async def test_one_peers_connections_take_no_place_of_anothers(server: AdminServer) -> None:
    loop = asyncio.get_running_loop()

    async def connect(source: str) -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        made.bind((source, 0))
        await loop.sock_connect(made, ("127.0.0.1", server.port))
        return made

    slow = await connect("127.0.0.2")
    await loop.sock_sendall(slow, GET)
    flood = [await connect("127.0.0.3") for _ in range(200)]
    await loop.sock_sendall(slow, b"\r\n")
    assert b"200" in await loop.sock_recv(slow, 4096)
    for made in (slow, *flood):
        made.close()


async def test_a_port_in_use_stops_the_start_with_the_remedy(server: AdminServer) -> None:
    second = AdminServer({}, host="127.0.0.1", port=server.port)
    with pytest.raises(StartupError, match=r"admin\.port"):
        await second.start()


async def test_a_page_that_breaks_closes_the_connection_and_not_the_server(server: AdminServer) -> None:
    async def broken(is_operator: bool) -> Page:
        raise ZeroDivisionError

    server._routes["/broken"] = AdminRoute(broken)  # type: ignore[index]
    answer = await exchange(server, b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.split(b" ")[1] == b"500"
    assert b"ZeroDivisionError" not in answer
    assert b"200" in await exchange(server, GET + b"\r\n")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8081", "[::1]:8081", "10.1.2.3:8081", "localhost:8081", "LocalHost", "pod-1"]
)
async def test_addresses_and_plain_names_are_known_hosts(server: AdminServer, host: str) -> None:
    assert await ask(server, "POST /act", host=host) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8081", "127.0.0.1.evil.example", "localhost.evil.example.", "a b", "::1", ""],
)
@pytest.mark.parametrize("line", ["POST /act", "GET /hello", "GET /read", "GET /nothing"])
async def test_a_name_of_the_web_reaches_no_page(server: AdminServer, line: str, host: str) -> None:
    assert await ask(server, line, host=host) == 403


@pytest.mark.parametrize(
    "header",
    ["Origin: http://evil.example", "Origin: null", "Origin: http://127.0.0.1", "Sec-Fetch-Site: cross-site"],
)
@pytest.mark.parametrize("line", ["POST /act", "GET /hello", "GET /read"])
async def test_a_web_page_is_not_answered(server: AdminServer, line: str, header: str) -> None:
    assert await ask(server, line, header) == 403


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "get"])
async def test_what_acts_is_done_by_post_alone(server: AdminServer, method: str) -> None:
    assert await ask(server, f"{method} /act") == 405


@pytest.mark.parametrize("header", ["Forwarded: for=10.0.0.1", "X-Forwarded-For: 10.0.0.1", "Via: 1.1 proxy"])
async def test_what_a_proxy_hands_on_is_not_of_this_machine(server: AdminServer, header: str) -> None:
    assert await ask(server, "POST /act", header) == 403
    assert await ask(server, "GET /read", header) == 200


async def test_a_token_takes_the_place_of_this_machines_address() -> None:
    guarded = AdminServer(routes(), host="127.0.0.1", port=0, guard=Guard(hosts=("a.example",), token=TOKEN))
    await guarded.start()
    try:
        right, wrong = f"Authorization: Bearer {TOKEN}", "Authorization: Bearer another"
        for line in ("POST /act", "GET /read"):
            assert await ask(guarded, line) == await ask(guarded, line, wrong) == 401
            assert await ask(guarded, line, right) == await ask(guarded, line, right, host="a.example") == 200
            assert await ask(guarded, line, right, "Origin: http://a.example") == 403
        assert await ask(guarded, "GET /hello") == 200
        assert b"anyone" in await exchange(guarded, b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
        asked = f"GET /who HTTP/1.1\r\nHost: x\r\n{right}\r\n\r\n".encode()
        assert b"operator" in await exchange(guarded, asked)
    finally:
        await guarded.close()


def test_strangers_read_and_do_not_act() -> None:
    guard = Guard()
    stranger = Request("POST", "/act", {"host": "10.0.0.9:8081"}, is_own_machine=False)
    assert guard.refusal(stranger, "anyone") is None
    assert guard.refusal(stranger, "reader") is None
    refusal = guard.refusal(stranger, "operator")
    assert refusal is not None
    assert refusal.status == 403
    assert guard.refusal(stranger._replace(is_own_machine=True), "operator") is None
