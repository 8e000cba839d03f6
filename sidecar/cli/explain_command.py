"""`sidecar explain`: a job's story. What it waited for and why, which models it called, what that cost."""

import asyncio

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options


@click.command("explain", epilog="Events are kept for retention.events_s; of an older job its result is told.")
@click.argument("job_id")
@connection_options
@click.pass_obj
def command(invocation: Invocation, job_id: str) -> int:
    """Tell a job's story: its waits with their causes, its calls, and the money. Exit 0 whatever its state."""
    return asyncio.run(_explain(invocation, job_id))


async def _explain(invocation: Invocation, job_id: str) -> int:
    from sidecar.cli.story import account, lines

    async with await invocation.client() as client:
        state = await client.get(job_id)
        events = [event async for event in client.replay(job_id)]
    if invocation.is_json:
        invocation.json(account(state, events))
        return exits.OK
    for line in lines(state, events):
        invocation.data(line)
    return exits.OK
