"""`sidecar cancel`: end jobs, in whatever state they are."""

import asyncio
from typing import Any

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options
from sidecar.cli.operating import check_choice, filter_of, summed_up, told_in_parts, where_options


@click.command("cancel")
@click.argument("job_ids", nargs=-1, metavar="[JOB_ID]...")
@where_options
@click.option("--reason", help="Goes into the job's result.")
@connection_options
@click.pass_obj
def command(
    invocation: Invocation,
    job_ids: tuple[str, ...],
    where: tuple[str, ...],
    limit: int | None,
    is_dry: bool,
    reason: str | None,
) -> int:
    """Cancel jobs; also those that were not read yet, and any number of times.

    Ends with 1 where one of them had ended otherwise.
    """
    check_choice(job_ids, where)
    if where:
        asked = {**filter_of(where), "limit": limit, "dry_run": is_dry, "reason": reason}
        return asyncio.run(_cancel_many(invocation, asked))
    return asyncio.run(_cancel(invocation, job_ids, reason, is_dry=is_dry))


async def _cancel(invocation: Invocation, job_ids: tuple[str, ...], reason: str | None, *, is_dry: bool) -> int:
    code = exits.OK
    async with await invocation.client() as client:
        for job_id in job_ids:
            if is_dry:
                invocation.data(f"{job_id}: it is {(await client.get(job_id)).state}")
                continue
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


async def _cancel_many(invocation: Invocation, asked: dict[str, Any]) -> int:
    from sidecar.models.bulk import BulkCancelled

    count = 0
    async with await invocation.operator() as client:
        subject = client.subjects.endpoint("admin", "cancel")
        async for part in told_in_parts(client, subject, asked, BulkCancelled):
            count = part.count
            for job in part.jobs:
                if invocation.is_json:
                    invocation.json(job)
                else:
                    invocation.data(f"{job.tenant} {job.job}")
    summed_up(invocation, count, "cancelled", is_dry=asked["dry_run"])
    return exits.OK
