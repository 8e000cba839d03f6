"""`sidecar dashboard`: the web page that shows queues, shares, jobs, models and money, live."""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, printing_options

if TYPE_CHECKING:
    from sidecar.adapters.http.folder import FolderServer

DEFAULT_PORT = 8090
DEFAULT_WEBSOCKET = "ws://127.0.0.1:8080"
_KEY_BYTES = 24


@click.command("dashboard")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: any.")
@click.option(
    "--allow-host",
    "hosts",
    metavar="NAME",
    multiple=True,
    help="A name with dots by which browsers may ask for it, beside its addresses.",
)
@click.option(
    "--websocket",
    metavar="URL",
    default=DEFAULT_WEBSOCKET,
    show_default=True,
    help="Where NATS listens for WebSocket: ws:// or wss://.",
)
@click.option(
    "--creds",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Read-only NATS credentials for the page. Without it the page asks.",
)
@click.option("--tenant", metavar="NAME", help="Show one tenant's jobs alone.")
@click.option("--prefix", default="llm", show_default=True, help="As the setting nats.prefix.")
@printing_options
@click.pass_obj
def command(
    invocation: Invocation,
    host: str,
    port: int,
    hosts: tuple[str, ...],
    websocket: str,
    creds: Path | None,
    tenant: str | None,
    prefix: str,
) -> int:
    """Serve the dashboard and print its address.

    The browser connects to NATS itself, so the server needs a `websocket` section. The page only looks: users
    for it that can do no more are made by `sidecar nats-config --dashboard`. Credentials of --creds are given
    to this machine's browser alone, for the key in the printed address; they are in no address and in no log.
    """
    from sidecar.models.subjects import is_name

    if not websocket.startswith(("ws://", "wss://")) or "@" in websocket:
        raise click.BadParameter("give ws://host:port or wss://host:port", param_hint="--websocket")
    if tenant is not None and not is_name(tenant):
        raise click.BadParameter("use 1 to 64 of A-Z a-z 0-9 _ -", param_hint="--tenant")
    key = secrets.token_urlsafe(_KEY_BYTES) if creds is not None else ""
    config = {"websocket": websocket, "prefix": prefix, "tenant": tenant}
    asyncio.run(_serve(invocation, host=host, port=port, hosts=hosts, config=config, creds=creds, key=key))
    return exits.OK


async def _serve(
    invocation: Invocation,
    *,
    host: str,
    port: int,
    hosts: tuple[str, ...],
    config: dict[str, str | None],
    creds: Path | None,
    key: str,
) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    credentials = await asyncio.to_thread(creds.read_bytes) if creds is not None else b""
    async with serving(
        host=host, port=port, config=config, credentials=credentials, key=key, hosts=hosts
    ) as server:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{server.port}/" + (f"#key={key}" if key else "")
        if invocation.is_json:
            invocation.json({"url": url})
        else:
            invocation.data(url)
            invocation.note(f"open it in a browser; it connects to NATS at {config['websocket']}. Ctrl-C ends it.")
        await ended.wait()


@asynccontextmanager
async def serving(
    *,
    host: str,
    port: int,
    config: dict[str, str | None],
    credentials: bytes = b"",
    key: str = "",
    hosts: tuple[str, ...] = (),
) -> "AsyncIterator[FolderServer]":
    """The dashboard's folder, served. `config` is what the page fills its form with. Raises StartupError."""
    from importlib.resources import files

    import msgspec

    from sidecar import __version__
    from sidecar.adapters.http.admin import Page
    from sidecar.adapters.http.folder import FolderServer

    offered = {**config, "version": __version__, "has_credentials": bool(credentials)}
    server = FolderServer(
        files("sidecar") / "dashboard",
        host=host,
        port=port,
        more={"/config.json": Page(msgspec.json.encode(offered))},
        secrets={"/credentials": Page(credentials, content_type="text/plain; charset=utf-8")}
        if credentials
        else None,
        key=key,
        hosts=hosts,
    )
    await server.start()
    try:
        yield server
    finally:
        await server.close()
