"""One attempt to connect to one server."""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any

from sidecar.adapters.nats.client.context import ConnectTarget
from sidecar.adapters.nats.client.errors import bus_error
from sidecar.adapters.nats.client.pace import Pace
from sidecar.adapters.nats.client.wire import WireClient
from sidecar.errors import BusRefused, BusUnavailable, SidecarError, StartupError

log = logging.getLogger(__name__)


def connect_options(target: ConnectTarget, server: str) -> dict[str, Any]:
    """Keyword arguments of nats-py's `connect` for one server; secrets are read from their files here."""
    options: dict[str, Any] = {"servers": [server], "inbox_prefix": target.inbox_prefix}
    if target.creds is not None:
        options["user_credentials"] = str(target.creds)
    if target.nkey_seed is not None:
        options["nkeys_seed_str"] = target.nkey_seed.read_text("ascii").strip()
    for name in ("user", "password", "token"):
        value = getattr(target, name)
        if value is not None:
            options[name] = value
    if target.user is not None and target.password is None:
        options["password"] = ""
    if target.tls_ca or target.tls_cert or server.startswith("tls://"):
        options["tls"] = _tls(target)
    if target.tls_first:
        options["tls_handshake_first"] = True
    return options


def _tls(target: ConnectTarget) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=target.tls_ca)
    if target.tls_cert is not None:
        context.load_cert_chain(target.tls_cert, target.tls_key)
    return context


async def dial(
    target: ConnectTarget,
    server: str,
    *,
    name: str,
    timeout_s: float,
    on_lost: Callable[[], None],
    on_refused: Callable[[str], None],
    on_lame: Callable[[], None],
    pace: Pace | None = None,
) -> WireClient:
    """A connected client. Raises BusUnavailable when the server is away, BusRefused when it does not let us in."""
    client = WireClient(on_lost=on_lost, on_refused=on_refused, on_lame=on_lame, pace=pace)
    errors: deque[Exception] = deque(maxlen=8)

    async def on_error(error: Exception) -> None:
        errors.append(error)
        log.debug("nats-py: %r", error)

    try:
        async with asyncio.timeout(2 * timeout_s):
            await client.connect(
                **connect_options(target, server),
                name=name,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=timeout_s,  # type: ignore[arg-type]
                error_cb=on_error,
            )
        client.opened()
    except StartupError:
        await client.hang_up()
        raise
    except Exception as e:
        await client.hang_up()
        raise _refusal(errors[-1] if errors else e, server) from e
    except asyncio.CancelledError:
        # No Exception, so the clause above lets it pass, and the socket may be open by now.
        await client.hang_up()
        raise
    return client


def _refusal(error: Exception, server: str) -> SidecarError:
    where = server.rpartition("@")[2]
    text = str(error).strip("'\"") or type(error).__name__
    if "authorization" in text.lower() or "authentication" in text.lower():
        return BusRefused(f"{where} does not let us in: {text}", code="access_denied")
    if isinstance(error, OSError | TimeoutError):
        return BusUnavailable(f"{where} cannot be reached: {text}")
    return bus_error(error, f"connecting to {where}")
