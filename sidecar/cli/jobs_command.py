"""`sidecar jobs`: a tenant's jobs."""

import asyncio
from typing import Any

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options

STATES = ("queued", "running", "waiting", "succeeded", "failed", "cancelled", "expired", "rejected")


@click.command("jobs")
@click.option("--state", type=click.Choice(STATES), help="Only these.")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True)
@connection_options
@click.pass_obj
def command(invocation: Invocation, state: Any, limit: int) -> int:
    """List a tenant's jobs, newest first, without their results. With --json one job a line."""
    return asyncio.run(_jobs(invocation, state, limit))


async def _jobs(invocation: Invocation, state: Any, limit: int) -> int:
    from sidecar.cli.tables import state_cell, table

    async with await invocation.client() as client:
        found = [job async for job in client.jobs(state=state, limit=limit)]
    if invocation.is_json:
        for job in found:
            invocation.json(job)
        return exits.OK
    rows = [
        (
            job.job,
            job.job_class,
            state_cell(job.state),
            str(job.attempt),
            job.model or "",
            job.created,
            job.updated,
        )
        for job in found
    ]
    table(("job", "class", "state", "attempt", "model", "created", "updated"), rows, numbers=("attempt",))
    return exits.OK
