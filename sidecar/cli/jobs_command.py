"""`sidecar jobs`: a tenant's jobs."""

import asyncio
from typing import Any

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options

STATES = ("queued", "running", "waiting", "succeeded", "failed", "cancelled", "expired", "rejected")


@click.group("jobs", invoke_without_command=True)
@click.option("--state", type=click.Choice(STATES), help="Only these.")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True)
@connection_options
@click.pass_context
def command(context: click.Context, state: Any, limit: int) -> int:
    """List a tenant's jobs, newest first, without their results. With --json one job a line.

    The subcommands are for operators: they need the rights of the sidecar itself, not those of a tenant.
    """
    if context.invoked_subcommand is not None:
        return exits.OK
    return asyncio.run(_jobs(context.find_object(Invocation) or Invocation(), state, limit))


@command.command("dead")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option("--all", "is_all", is_flag=True, help="Of all tenants.")
@connection_options
@click.pass_obj
def dead(invocation: Invocation, limit: int, is_all: bool) -> int:
    """List the requests that are kept of failed jobs, oldest first."""
    from sidecar.cli.dead_letters import list_dead

    return asyncio.run(list_dead(invocation, None if is_all else invocation.tenant, limit))


@command.command("replay")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("--keep", is_flag=True, help="Keep the dead letter.")
@connection_options
@click.pass_obj
def replay(invocation: Invocation, jobs: tuple[str, ...], keep: bool) -> int:
    """The same as `sidecar retry JOB...`."""
    from sidecar.cli.retry_command import retry_jobs

    return asyncio.run(retry_jobs(invocation, jobs, keep=keep))


@command.command("purge")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@connection_options
@click.pass_obj
def purge(invocation: Invocation, jobs: tuple[str, ...]) -> int:
    """Forget the requests of failed jobs."""
    from sidecar.cli.dead_letters import purge_dead

    return asyncio.run(purge_dead(invocation, jobs))


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
