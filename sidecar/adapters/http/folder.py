"""The folder of a web page over HTTP, for a browser of this machine. Nothing else is served."""

import hmac
from collections.abc import Collection, Mapping
from importlib.resources.abc import Traversable

from sidecar.adapters.http.admin import AdminRoute, AdminServer, Page, error_page
from sidecar.adapters.http.guard import Guard, Request, is_loopback
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
    "X-Frame-Options: DENY",
    "Referrer-Policy: no-referrer",
    "Cross-Origin-Opener-Policy: same-origin",
    "Cross-Origin-Resource-Policy: same-origin",
    "Permissions-Policy: camera=(), geolocation=(), microphone=()",
)


# Browsers open connections before they need them; one that is gone by then is an error on the page.
PAGE_HEAD_TIMEOUT_S = 30.0
# Two pages of one browser ask for fifty files within the second that an answered connection may linger.
PAGE_PLACES = 16


class FolderServer(AdminServer):
    """Serves the files of `folder`, read once, and `more` pages beside them, until closed.

    Requests are answered that name an address, or one of `hosts`, as their host, so that no page of the web can
    reach in under a name of its own. `secrets` are pages for requests that carry `key` in the header
    `Sidecar-Key`; they are refused on any other than a loopback address.
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
        hosts: Collection[str] = (),
    ) -> None:
        if secrets and not (is_loopback(host) and key):
            raise StartupError(f"credentials are served on a loopback address only, and {host} is none")
        self._secrets = dict(secrets or {})
        self._key = key
        pages = {**_read(folder), **(more or {}), **self._secrets}
        routes = {path: _route(page) for path, page in pages.items()}
        super().__init__(
            routes,
            host=host,
            port=port,
            guard=Guard(hosts=hosts, where="--allow-host", has_pages=True),
            head_timeout_s=PAGE_HEAD_TIMEOUT_S,
            places=PAGE_PLACES,
        )

    async def start(self) -> None:
        """Raises StartupError when the port cannot be had."""
        try:
            await super().start()
        except StartupError as e:
            raise StartupError(
                f"nothing can listen on {self._host}:{self._port}; choose another --port, or 0 for any"
            ) from e

    async def _page(self, request: Request) -> Page:
        given = request.headers.get(KEY_HEADER, "").encode()
        if request.path in self._secrets and not hmac.compare_digest(given, self._key.encode()):
            return error_page(403, "the key is missing or wrong")
        return await super()._page(request)


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


def _route(page: Page) -> AdminRoute:
    guarded = page._replace(headers=(*HEADERS, *page.headers))

    async def answer(_: bool) -> Page:
        return guarded

    return AdminRoute(answer)
