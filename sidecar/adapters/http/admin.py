"""The admin endpoint: probes, metrics, drain. Pages behind a guard, over connections that strangers hold open."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec

from sidecar.adapters.http.connections import HEAD_TIMEOUT_S, BadHead, Door, listen
from sidecar.adapters.http.guard import Audience, Guard, Request
from sidecar.errors import StartupError

log = logging.getLogger(__name__)

_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Page(NamedTuple):
    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[str, ...] = ()


Handler = Callable[[bool], Awaitable[Page]]
"""Makes a page; it is told whether an operator asks, who may see more."""


class AdminRoute(NamedTuple):
    handler: Handler
    methods: tuple[str, ...] = ("GET", "HEAD")
    audience: Audience = "anyone"


class AdminServer:
    """Serves `routes` (path to handler) until closed, to whom `guard` lets in. One request a connection.

    The bounds on what a stranger can hold are those of `connections`.
    """

    def __init__(
        self,
        routes: Mapping[str, AdminRoute],
        *,
        host: str,
        port: int,
        guard: Guard | None = None,
        head_timeout_s: float = HEAD_TIMEOUT_S,
        places: int = 1,
    ) -> None:
        self._routes = routes
        self._host = host
        self._port = port
        self._guard = guard or Guard()
        self._door = Door(self._response, _refused, head_timeout_s=head_timeout_s, places=places)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Raises StartupError when the port cannot be had."""
        try:
            self._server = await listen(self._door, self._host, self._port)
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

    @property
    def connections(self) -> int:
        return len(self._door)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._door.close()
            await self._server.wait_closed()

    async def _response(self, request: Request) -> bytes:
        return _encoded(request.method, await self._page(request))

    async def _page(self, request: Request) -> Page:
        route = self._routes.get(request.path)
        refusal = self._guard.refusal(request, route.audience if route is not None else "anyone")
        if refusal is not None:
            page = error_page(refusal.status, refusal.reason)
            return page._replace(headers=("WWW-Authenticate: Bearer",)) if page.status == 401 else page
        if route is None:
            return error_page(404, "no such path")
        if request.method not in route.methods:
            return error_page(405, "method not allowed")._replace(headers=(f"Allow: {', '.join(route.methods)}",))
        try:
            return await route.handler(self._guard.is_operator(request))
        except Exception:
            log.exception("admin page %s failed", request.path)
            return error_page(500, "the sidecar failed; its log says how")


def error_page(status: int, reason: str) -> Page:
    return Page(msgspec.json.encode({"error": reason}), status)


def _refused(why: BadHead) -> bytes:
    return _encoded("GET", error_page(why.status, str(why)))


def _encoded(method: str, page: Page) -> bytes:
    more = "".join(f"{header}\r\n" for header in page.headers)
    head = (
        f"HTTP/1.1 {page.status} {_REASONS.get(page.status, 'Error')}\r\nContent-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\nConnection: close\r\nCache-Control: no-store\r\n"
        f"X-Content-Type-Options: nosniff\r\n{more}\r\n"
    ).encode()
    return head if method == "HEAD" else head + page.body
