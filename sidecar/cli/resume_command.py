"""`sidecar resume`: release what `sidecar pause` holds."""

import asyncio

import click

from sidecar.cli.invocation import Invocation, connection_options
from sidecar.cli.operating import pause_filter_of
from sidecar.errors import InvalidRequest

_WHERE = "Which pauses: those that say this tenant, class or model; * is whatever they say. May be repeated."


@click.command("resume")
@click.option("-w", "--where", "where", multiple=True, metavar="NAME=VALUE", help=_WHERE)
@click.option("--dry-run", "is_dry", is_flag=True, help="Show what would still be held then, and release nothing.")
@connection_options
@click.pass_obj
def command(invocation: Invocation, where: tuple[str, ...], is_dry: bool) -> int:
    """End the pauses that fit, and show what is still held. For operators."""
    from sidecar.cli.pause_command import change

    if not where:
        raise InvalidRequest("say which, as --where tenant=acme; --where 'tenant=*' ends all")
    return asyncio.run(change(invocation, "resume", {**pause_filter_of(where), "dry_run": is_dry}))
