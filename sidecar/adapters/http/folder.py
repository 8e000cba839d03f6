"""The folder of a web page over HTTP, for a browser of this machine. Nothing else is served."""

import hmac
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from ipaddress import ip_address

from sidecar.adapters.http.admin import AdminServer, Page, Route
from sidecar.errors import StartupError

KEY_HEADER = "sidecar-key"

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' ws: wss:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = (
    f"Content-Security-Policy: {_POLICY}",
    "X-Content-Type-Options: nosniff",
    "X-Frame-Options: DENY",
    "Referrer-Policy: no-referrer",
    "Cross-Origin-Opener-Policy: same-origin",
    "Cross-Origin-Resource-Policy: same-origin",
    "Permissions-Policy: camera=(), geolocation=(), microphone=()",
)
_NAMES_OF_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class FolderServer(AdminServer):
    """Serves the files of `folder`, read once, and `more` pages beside them, until closed.

    On a loopback address only requests that name it as their host are answered, so that no page of the web can
    reach in under a name of its own. `secrets` are pages for requests that carry `key` in the header
    `Sidecar-Key`; they are refused on any other address.
    """

    def __init__(
        self,
        folder: Traversable,
        *,
        host: str,
        port: int,
        more: Mapping[str, Page] | None = None,
        secrets: Mapping[str, Page] | None = None,
        key: str = "",
    ) -> None:
        self._is_loopback = is_loopback(host)
        if secrets and not (self._is_loopback and key):
            raise StartupError(f"credentials are served on a loopback address only, and {host} is none")
        self._secrets = dict(secrets or {})
        self._key = key
        pages = {**_read(folder), **(more or {}), **self._secrets}
        super().__init__({path: _route(page) for path, page in pages.items()}, host=host, port=port)

    async def start(self) -> None:
        """Raises StartupError when the port cannot be had."""
        try:
            await super().start()
        except StartupError as e:
            raise StartupError(
                f"nothing can listen on {self._host}:{self._port}; choose another --port, or 0 for any"
            ) from e

    async def _page(self, head: bytes) -> tuple[str, Page]:
        target, headers = _parsed(head)
        if self._is_loopback and _without_port(headers.get("host", "")) not in _NAMES_OF_LOOPBACK:
            return "GET", Page(b'{"error":"ask for 127.0.0.1 or localhost"}', 403)
        given = headers.get(KEY_HEADER, "").encode()
        if target in self._secrets and not hmac.compare_digest(given, self._key.encode()):
            return "GET", Page(b'{"error":"the key is missing or wrong"}', 403)
        return await super()._page(head)


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _read(folder: Traversable, under: str = "/") -> dict[str, Page]:
    pages = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            pages.update(_read(entry, f"{under}{entry.name}/"))
        elif (kind := _TYPES.get(entry.name.rpartition(".")[2])) is not None:
            pages[under + entry.name] = Page(entry.read_bytes(), content_type=kind)
    if f"{under}index.html" in pages:
        pages[under] = pages[f"{under}index.html"]
    return pages


def _route(page: Page) -> Route:
    guarded = page._replace(headers=(*HEADERS, *page.headers))

    async def answer() -> Page:
        return guarded

    return Route(answer)


def _parsed(head: bytes) -> tuple[str, dict[str, str]]:
    """The path, and the headers by name in small letters; of what is no HTTP, whatever can be made of it."""
    first, *lines = head.decode("latin-1").split("\r\n")
    target = first.partition(" ")[2].partition(" ")[0]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return target.split("?", 1)[0], {name.strip().lower(): value.strip() for name, _, value in pairs}


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name.lower() if colon and port.isdigit() else host.lower()
