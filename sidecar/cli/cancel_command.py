"""`sidecar cancel`: end jobs, in whatever state they are."""

import asyncio

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options


@click.command("cancel")
@click.argument("job_ids", nargs=-1, required=True)
@click.option("--reason", help="Goes into the job's result.")
@connection_options
@click.pass_obj
def command(invocation: Invocation, job_ids: tuple[str, ...], reason: str | None) -> int:
    """Cancel jobs; also those that were not read yet, and any number of times.

    Ends with 1 where one of them had ended otherwise.
    """
    return asyncio.run(_cancel(invocation, job_ids, reason))


async def _cancel(invocation: Invocation, job_ids: tuple[str, ...], reason: str | None) -> int:
    code = exits.OK
    async with await invocation.client() as client:
        for job_id in job_ids:
            reply = await client.cancel(job_id, reason=reason)
            code = code if reply.cancelled or reply.requested else exits.FAILED
            if invocation.is_json:
                invocation.json(reply)
            elif reply.cancelled:
                invocation.data(f"{job_id}: cancelled")
            elif reply.requested:
                invocation.data(f"{job_id}: to be cancelled, it is {reply.state}")
            else:
                invocation.data(f"{job_id}: not cancelled, it has {reply.state}")
    return code
