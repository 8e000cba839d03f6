"""Where to connect and as whom: settings, then the environment, then a context of the nats CLI.

Pure but for reading files: secrets are read anew for each connection, so that rotated ones are found.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sidecar.config.connection import ConnectionOptions, NatsEnvironment
from sidecar.errors import StartupError

DEFAULT_URL = "nats://127.0.0.1:4222"


class CliContext(msgspec.Struct, frozen=True):
    """The fields of a nats CLI context file that say how to connect."""

    url: str = ""
    creds: str = ""
    nkey: str = ""
    user: str = ""
    password: str = ""
    token: str = ""
    cert: str = ""
    key: str = ""
    ca: str = ""
    inbox_prefix: str = ""
    jetstream_domain: str = ""
    jetstream_api_prefix: str = ""
    tls_first: bool = False


@dataclass(frozen=True, slots=True)
class ConnectTarget:
    """How to connect. `source` says, for messages, where the address came from."""

    servers: tuple[str, ...]
    source: str
    creds: Path | None = None
    nkey_seed: Path | None = None
    user: str | None = None
    password: str | None = None
    token: str | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_first: bool = False
    inbox_prefix: str = "_INBOX"
    api_prefix: str = "$JS.API"

    def __repr__(self) -> str:
        return f"Target(servers={self.servers!r}, source={self.source!r})"


def resolve(settings: ConnectionOptions, environment: NatsEnvironment) -> ConnectTarget:
    """The target that `settings` and `environment` name together.

    Raises StartupError when a named context or file does not exist or cannot be read.
    """
    context, name = _context(settings, environment)
    url, source = _first(
        (settings.url, "nats.url"),
        (environment.url, "NATS_URL"),
        (context.url, f"context {name}"),
        (DEFAULT_URL, "the default"),
    )
    auth = _auth(settings, environment, context)
    domain = context.jetstream_domain
    return ConnectTarget(
        servers=_servers(url, source),
        source=source,
        tls_ca=_file(_first_of(settings.tls_ca, environment.ca, context.ca), "CA"),
        tls_cert=_file(_first_of(settings.tls_cert, environment.cert, context.cert), "certificate"),
        tls_key=_file(_first_of(settings.tls_key, environment.key, context.key), "key"),
        tls_first=context.tls_first,
        inbox_prefix=context.inbox_prefix or "_INBOX",
        api_prefix=context.jetstream_api_prefix or (f"$JS.{domain}.API" if domain else "$JS.API"),
        **auth,
    )


def _auth(settings: ConnectionOptions, environment: NatsEnvironment, context: CliContext) -> dict[str, Any]:
    """One way to say who we are: of the first source that has any. Ways of two sources are never mixed."""
    ways = (
        (settings.creds, settings.nkey_seed, settings.user, settings.password, settings.token),
        (environment.creds, environment.nkey, environment.user, environment.password, environment.token),
        (context.creds, context.nkey, context.user, context.password, context.token),
    )
    for creds, nkey, user, password, token in ways:
        if creds or nkey or user or token:
            return {
                "creds": _file(creds, "credentials"),
                "nkey_seed": _file(nkey, "nkey seed"),
                "user": user or None,
                "password": password or None,
                "token": token or None,
            }
    return {}


def _context(settings: ConnectionOptions, environment: NatsEnvironment) -> tuple[CliContext, str]:
    """The context named, or the selected one unless an address is given elsewhere."""
    folder = environment.config_dir / "nats"
    name = settings.context or environment.context
    if name is None:
        if settings.url or environment.url:
            return CliContext(), ""
        selected = folder / "context.txt"
        name = selected.read_text("utf-8").strip() if selected.is_file() else ""
        if not name:
            return CliContext(), ""
    path = folder / "context" / f"{name}.json"
    if "/" in name or not path.is_file():
        raise StartupError(f"there is no NATS context {name!r} in {path.parent}: see `nats context ls`")
    try:
        return msgspec.json.decode(path.read_bytes(), type=CliContext), name
    except (msgspec.DecodeError, OSError) as e:
        raise StartupError(f"the NATS context {path} cannot be read: {e}") from e


def _servers(urls: str, source: str) -> tuple[str, ...]:
    servers = tuple(url.strip() for url in urls.split(",") if url.strip())
    for url in servers:
        scheme, separator, _ = url.partition("://")
        if separator and scheme not in {"nats", "tls"}:
            raise StartupError(
                f"{source} names {_without_user(url)!r}: give nats:// or tls:// URLs, comma separated"
            )
    if not servers:
        raise StartupError(f"{source} names no server: give nats:// or tls:// URLs, comma separated")
    return servers


def _first(*candidates: tuple[str | None, str]) -> tuple[str, str]:
    return next((value, source) for value, source in candidates if value)


def _first_of(*values: Path | str | None) -> Path | str | None:
    return next((value for value in values if value), None)


def _file(value: Path | str | None, what: str) -> Path | None:
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.is_file():
        raise StartupError(f"the NATS {what} file {path} does not exist or may not be read")
    return path


def _without_user(url: str) -> str:
    """What may be quoted of a URL that is none: whoever stands before its host may be a password."""
    return url.rpartition("@")[2]
