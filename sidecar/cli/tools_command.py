"""`sidecar tools`: what is registered, live; and calls by hand."""

import asyncio
import sys

import click

from sidecar.cli.invocation import F, Invocation, connection_options


def scope_option(command: F) -> F:
    return click.option("--scope", metavar="NAME", help="Only this scope's, such as `shared`.")(command)


@click.group("tools")
def command() -> None:
    """The tools that a tenant's jobs may call: its own, and shared ones that those do not hide."""


@command.command("ls")
@scope_option
@connection_options
@click.pass_obj
def ls(invocation: Invocation, scope: str | None) -> int:
    """List live tools by name, highest version first. With --json one tool a line."""
    from sidecar.cli.tools_view import list_tools

    return asyncio.run(list_tools(invocation, scope))


@command.command("show")
@click.argument("ref", metavar="NAME[@RANGE]")
@scope_option
@connection_options
@click.pass_obj
def show(invocation: Invocation, ref: str, scope: str | None) -> int:
    """Show the version that a request for NAME[@RANGE] gets, with its schemas. Exit 1 when there is none."""
    from sidecar.cli.tools_view import show_tool

    return asyncio.run(show_tool(invocation, ref, scope))


@command.command(
    "call", epilog="Exit codes: 1 the tool failed, 2 the input does not fit, 3 no provider, 4 timeout."
)
@click.argument("ref", metavar="NAME[@RANGE]")
@click.argument("text", metavar="[INPUT]", default="-")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), help="Seconds; else the tool's."
)
@scope_option
@connection_options
@click.pass_obj
def call(invocation: Invocation, ref: str, text: str, timeout_s: float | None, scope: str | None) -> int:
    """Call a tool with INPUT (JSON; default: stdin) and print its output. No model and no job is involved.

    Needs the right to publish to call subjects, which the sidecar has and tenants of one account have not.
    """
    from sidecar.cli.tools_view import call_tool

    given = sys.stdin.read() if text == "-" else text
    return asyncio.run(call_tool(invocation, ref, given, timeout_s=timeout_s, scope=scope))


@command.command("watch", epilog="Goes on until interrupted.")
@scope_option
@click.option(
    "--every", "every_s", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds."
)
@connection_options
@click.pass_obj
def watch(invocation: Invocation, scope: str | None, every_s: float) -> int:
    """Print what is there, then each tool that comes, goes or lives on. With --json one change a line."""
    from sidecar.cli.tools_view import watch_tools

    return asyncio.run(watch_tools(invocation, scope, every_s=every_s))
