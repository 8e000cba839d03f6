"""`sidecar pause`: hold jobs back that have not begun."""

import asyncio
from typing import Any

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options
from sidecar.cli.operating import pause_filter_of

_WHERE = "What to hold: tenant, class, model; * is any. May be repeated."


@click.command("pause")
@click.option("-w", "--where", "where", multiple=True, metavar="NAME=VALUE", help=_WHERE)
@click.option("--reason", default="", help="What the held jobs are told.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Show what would be held then, and hold nothing.")
@connection_options
@click.pass_obj
def command(invocation: Invocation, where: tuple[str, ...], reason: str, is_dry: bool) -> int:
    """Begin no more jobs that fit, until `sidecar resume`; what runs goes on. They stay queued, over restarts too.

    Without --where, show what is held. For operators.
    """
    if not where:
        return asyncio.run(change(invocation, "resume", {"tenant": "*", "dry_run": True}, is_listing=True))
    asked = {**pause_filter_of(where), "reason": reason, "dry_run": is_dry}
    return asyncio.run(change(invocation, "pause", asked))


async def change(invocation: Invocation, verb: str, asked: dict[str, Any], *, is_listing: bool = False) -> int:
    """Ask for a change, and show what is held then; with `is_listing` what is held now."""
    from sidecar.cli.tables import table
    from sidecar.models.codec import encode
    from sidecar.models.pauses import Pauses

    async with await invocation.operator() as client:
        held = await client.ask_endpoint(client.subjects.endpoint("admin", verb), encode(asked), Pauses)
    pauses = held.before if is_listing else held.pauses
    if invocation.is_json:
        for pause in pauses:
            invocation.json(pause)
        return exits.OK
    if not pauses:
        invocation.note("nothing is held")
        return exits.OK
    rows = [
        (pause.tenant or "any", pause.job_class or "any", pause.model or "any", pause.since, pause.reason)
        for pause in pauses
    ]
    table(("tenant", "class", "model", "since", "reason"), rows)
    return exits.OK
