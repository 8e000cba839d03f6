"""What was said on the command line about where to connect and how to print; one object for all commands."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sidecar.models.shown import visible, visible_json

if TYPE_CHECKING:
    from sidecar.client import SidecarClient

OPERATOR_INBOX = "_INBOX.operator"

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Invocation:
    """Options may stand before or after the command's name: each writes its value here."""

    server: str | None = None
    context: str | None = None
    creds: Path | None = None
    tenant: str = "default"
    prefix: str = "llm"
    connect_timeout_s: float = 5.0
    is_json: bool = False
    is_quiet: bool = False

    async def client(self, *, tenant: str | None = None, inbox_prefix: str | None = None) -> "SidecarClient":
        """A connected client, with `inbox_prefix` where nobody chose one.

        Raises StartupError for a context or file that is not there, BusUnavailable.
        """
        from sidecar.adapters.nats.client.context import resolve
        from sidecar.adapters.nats.client.dial import connect_options
        from sidecar.client import SidecarClient
        from sidecar.config.connection import ConnectionSettings, nats_environment

        settings = ConnectionSettings(url=self.server, context=self.context, creds=self.creds)
        target = resolve(settings, nats_environment())
        options = connect_options(target, target.servers[0])
        del options["servers"]
        if target.inbox_prefix == "_INBOX":
            # Nobody chose one: the tenant's own is what the permission templates allow.
            del options["inbox_prefix"]
            if inbox_prefix is not None:
                options["inbox_prefix"] = inbox_prefix
        return await SidecarClient.connect(
            target.servers,
            tenant=tenant or self.tenant,
            prefix=self.prefix,
            connect_timeout_s=self.connect_timeout_s,
            **options,
        )

    async def operator(self) -> "SidecarClient":
        """A connected client for operators' subjects, with an inbox as `nats-config --operator` allows it."""
        return await self.client(inbox_prefix=OPERATOR_INBOX)

    def draw(self, text: str) -> None:
        """Progress on a terminal's stderr, in place of what was drawn before."""
        if not self.is_quiet:
            click.secho(f"\r{visible(text)}\x1b[K", err=True, dim=True, nl=False)

    def note(self, text: str) -> None:
        """Progress, on stderr; never data."""
        if not self.is_quiet:
            click.secho(visible(text), err=True, dim=sys.stderr.isatty())

    def complain(self, text: str) -> None:
        """What went wrong, on stderr, also where no progress is wanted."""
        click.echo(visible(text), err=True)

    def data(self, text: str, *, newline: bool = True) -> None:
        """Data, on stdout, at once. A terminal gets no control characters of strangers."""
        click.echo(visible(text) if sys.stdout.isatty() else text, nl=newline)
        sys.stdout.flush()

    def json(self, value: Any) -> None:
        """One JSON document on one line, in which what could steer a terminal is escaped."""
        from sidecar.models.codec import encode

        click.echo(visible_json(encode(value).decode()))
        sys.stdout.flush()


def leave_broken_pipe() -> int:
    """The reader of our output went away (`| head`): end quietly, as other filters do."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
    return 128 + 13


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    invocation = context.find_object(Invocation)
    if invocation is not None and value is not None and value is not False:
        setattr(invocation, parameter.name or "", value)


def _option(*names: str, **how: Any) -> Callable[[F], F]:
    return click.option(*names, expose_value=False, callback=_keep, **how)


_CONNECTION = (
    _option(
        "-s", "--server", metavar="URL", help="NATS servers, comma separated; else NATS_URL, else the context."
    ),
    _option(
        "--context", metavar="NAME", help="Context of the nats CLI; else NATS_CONTEXT, else the selected one."
    ),
    _option("--creds", type=click.Path(path_type=Path), help="NATS credentials file; else NATS_CREDS."),
    _option("-t", "--tenant", metavar="NAME", envvar="SIDECAR_TENANT", help="Whose jobs. [default: default]"),
    _option("--prefix", metavar="NAME", envvar="SIDECAR_NATS__PREFIX", help="Subject prefix. [default: llm]"),
    _option("--connect-timeout", "connect_timeout_s", metavar="S", type=float, help="Seconds. [default: 5]"),
)
_PRINTING = (
    _option("--json", "is_json", is_flag=True, help="Data as JSON on stdout."),
    _option("-q", "--quiet", "is_quiet", is_flag=True, help="No progress on stderr."),
)


def connection_options(command: F) -> F:
    """The options that say where and as whom to connect, and `--json` and `--quiet`."""
    for option in reversed((*_CONNECTION, *_PRINTING)):
        command = option(command)
    return command


def printing_options(command: F) -> F:
    """`--json` and `--quiet` alone, for commands that connect to nothing or by settings."""
    for option in reversed(_PRINTING):
        command = option(command)
    return command
