"""What it takes to connect to NATS. Without pydantic: client commands are installed without it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol


class ConnectionOptions(Protocol):
    """Where to connect, as whom, and how patiently: the `[nats]` section of the settings, or `ConnectionSettings`.

    Durations are seconds.
    """

    @property
    def url(self) -> str | None: ...
    @property
    def context(self) -> str | None: ...
    @property
    def creds(self) -> Path | None: ...
    @property
    def nkey_seed(self) -> Path | None: ...
    @property
    def user(self) -> str | None: ...
    @property
    def password(self) -> str | None: ...
    @property
    def token(self) -> str | None: ...
    @property
    def tls_ca(self) -> Path | None: ...
    @property
    def tls_cert(self) -> Path | None: ...
    @property
    def tls_key(self) -> Path | None: ...
    @property
    def connect_timeout_s(self) -> float: ...
    @property
    def request_timeout_s(self) -> float: ...
    @property
    def watchdog_s(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """`ConnectionOptions` of a command: what stands on its command line, the rest as the settings have it."""

    url: str | None = None
    context: str | None = None
    creds: Path | None = None
    nkey_seed: Path | None = None
    user: str | None = None
    password: str | None = None
    token: str | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    connect_timeout_s: float = 5.0
    request_timeout_s: float = 5.0
    watchdog_s: float = 5.0


class NatsEnvironment(NamedTuple):
    """What the environment says to every NATS tool, under the names of the nats CLI."""

    url: str | None = None
    creds: str | None = None
    nkey: str | None = None
    user: str | None = None
    password: str | None = None
    token: str | None = None
    cert: str | None = None
    key: str | None = None
    ca: str | None = None
    context: str | None = None
    config_dir: Path = Path()

    def __repr__(self) -> str:
        return f"NatsEnvironment(url={self.url!r}, context={self.context!r}, creds={self.creds!r})"


def nats_environment() -> NatsEnvironment:
    """The values of `NATS_URL`, `NATS_CREDS` and so on at this moment; empty counts as not set."""

    def read(name: str) -> str | None:
        return os.environ.get(name) or None

    home = read("XDG_CONFIG_HOME")
    return NatsEnvironment(
        url=read("NATS_URL"),
        creds=read("NATS_CREDS"),
        nkey=read("NATS_NKEY"),
        user=read("NATS_USER"),
        password=read("NATS_PASSWORD"),
        token=read("NATS_TOKEN"),
        cert=read("NATS_CERT"),
        key=read("NATS_KEY"),
        ca=read("NATS_CA"),
        context=read("NATS_CONTEXT"),
        config_dir=Path(home) if home else Path.home() / ".config",
    )
