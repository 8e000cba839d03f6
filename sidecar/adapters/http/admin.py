"""The admin endpoint: probes, metrics, drain. A few lines of HTTP/1.1, hardened, and nothing imported for it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from sidecar.errors import StartupError

log = logging.getLogger(__name__)

LONGEST_HEAD = 8_192
READ_TIMEOUT_S = 5.0
MOST_CONNECTIONS = 64

_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Page(NamedTuple):
    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[str, ...] = ()


Handler = Callable[[], Awaitable[Page]]


class Route(NamedTuple):
    handler: Handler
    methods: tuple[str, ...] = ("GET", "HEAD")


class AdminServer:
    """Serves `routes` (path to handler) until closed. One request a connection.

    A request must arrive whole within 5 seconds and 8 KiB; bodies are not read; the 65th connection at once is
    closed unheard.
    """

    def __init__(self, routes: Mapping[str, Route], *, host: str, port: int) -> None:
        self._routes = routes
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self) -> None:
        """Raises StartupError when the port cannot be had."""
        try:
            self._server = await asyncio.start_server(
                self._serve, self._host, self._port, limit=LONGEST_HEAD, reuse_address=True
            )
        except OSError as e:
            raise StartupError(
                f"the admin endpoint cannot listen on {self._host}:{self._port}: {e.strerror}; set admin.port "
                "to a free port, or 0 for any, or admin.enabled to false"
            ) from e

    @property
    def port(self) -> int:
        """The port it listens on. Raises StartupError before `start`."""
        if self._server is None or not self._server.sockets:
            raise StartupError("the admin endpoint has not been started")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MOST_CONNECTIONS:
                await self._answer(reader, writer)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as e:
            log.debug("admin request dropped", extra={"error": type(e).__name__})
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(READ_TIMEOUT_S):
            head = await reader.readuntil(b"\r\n\r\n")
        method, page = await self._page(head)
        reason = _REASONS.get(page.status, "Error")
        more = "".join(f"{header}\r\n" for header in page.headers)
        writer.write(
            f"HTTP/1.1 {page.status} {reason}\r\nContent-Type: {page.content_type}\r\n"
            f"Content-Length: {len(page.body)}\r\nConnection: close\r\nCache-Control: no-store\r\n"
            f"{more}\r\n".encode()
        )
        if method != "HEAD":
            writer.write(page.body)
        async with asyncio.timeout(READ_TIMEOUT_S):
            await writer.drain()

    async def _page(self, head: bytes) -> tuple[str, Page]:
        line = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(line) != 3 or not line[2].startswith("HTTP/1."):
            return "", Page(b'{"error":"not an HTTP/1 request"}', 400)
        method, target, _ = line
        route = self._routes.get(target.split("?", 1)[0])
        if route is None:
            return method, Page(b'{"error":"no such path"}', 404)
        if method not in route.methods:
            return method, Page(b'{"error":"method not allowed"}', 405)
        try:
            return method, await route.handler()
        except Exception:
            log.exception("admin page %s failed", target)
            return method, Page(b'{"error":"the sidecar failed; its log says how"}', 500)
