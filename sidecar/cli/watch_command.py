"""`sidecar watch`: follow a job that exists."""

import asyncio

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options


@click.command("watch", epilog="Interrupted, it leaves the job alone.")
@click.argument("job_id")
@connection_options
@click.pass_obj
def command(invocation: Invocation, job_id: str) -> int:
    """Follow a job: its stored events, then live ones, until its end. With --json one event a line."""
    return asyncio.run(_watch(invocation, job_id))


async def _watch(invocation: Invocation, job_id: str) -> int:
    from sidecar.cli.view import follow

    async with await invocation.client() as client:
        result = await follow(client.job(job_id), invocation, has_events=invocation.is_json)
    return exits.of_result(result)
