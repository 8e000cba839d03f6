"""`sidecar get`: a job's state document."""

import asyncio

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options


@click.command("get")
@click.argument("job_id")
@connection_options
@click.pass_obj
def command(invocation: Invocation, job_id: str) -> int:
    """Show what is known of a job; its result too, once there is one. Exit 0 whatever its state."""
    return asyncio.run(_get(invocation, job_id))


async def _get(invocation: Invocation, job_id: str) -> int:
    from sidecar.cli.view import describe_result

    async with await invocation.client() as client:
        state = await client.get(job_id)
    if invocation.is_json:
        invocation.json(state)
        return exits.OK
    for name in ("job", "tenant", "job_class", "state", "attempt", "model", "owner", "created", "updated"):
        value = getattr(state, name)
        if value is not None:
            invocation.data(f"{name.removeprefix('job_'):8}  {value}")
    if state.result is not None:
        invocation.data(f"\n{describe_result(state.result)}")
        if state.result.output.text:
            invocation.data(f"\n{state.result.output.text}")
    return exits.OK
