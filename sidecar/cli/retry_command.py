"""`sidecar retry`: run failed jobs again, from the requests that are kept of them."""

import asyncio
from typing import TYPE_CHECKING, Any

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options
from sidecar.cli.operating import check_choice, filter_of, summed_up, told_in_parts, where_options

if TYPE_CHECKING:
    from sidecar.models.bulk import RetriedJob


@click.command("retry")
@click.argument("job_ids", nargs=-1, metavar="[JOB]...")
@where_options
@click.option("--keep", is_flag=True, help="Keep the requests, to be run again once more.")
@connection_options
@click.pass_obj
def command(
    invocation: Invocation,
    job_ids: tuple[str, ...],
    where: tuple[str, ...],
    limit: int | None,
    is_dry: bool,
    keep: bool,
) -> int:
    """Run failed jobs again, from the requests that are kept of them, without deadlines that have passed. Each
    becomes a job with an id of its own, which is printed, and does so once, however often this is said.

    Ends with 1 where one of them could not be run again.
    """
    check_choice(job_ids, where)
    if where:
        asked = {**filter_of(where), "limit": limit, "dry_run": is_dry, "keep": keep}
        return asyncio.run(_retry_many(invocation, asked))
    return asyncio.run(retry_jobs(invocation, job_ids, keep=keep, is_dry=is_dry))


async def retry_jobs(invocation: Invocation, job_ids: tuple[str, ...], *, keep: bool, is_dry: bool = False) -> int:
    """A tenant's own, one by one."""
    async with await invocation.client() as client:
        for job_id in job_ids:
            _show(invocation, await client.retry(job_id, keep=keep, dry_run=is_dry), is_one=True)
    return exits.OK


async def _retry_many(invocation: Invocation, asked: dict[str, Any]) -> int:
    from sidecar.models.bulk import BulkRetried

    count, code = 0, exits.OK
    async with await invocation.operator() as client:
        subject = client.subjects.endpoint("admin", "retry")
        async for part in told_in_parts(client, subject, asked, BulkRetried):
            count = part.count
            for job in part.jobs:
                code = code if job.error is None else exits.FAILED
                _show(invocation, job, is_one=False)
    summed_up(invocation, count, "run again", is_dry=asked["dry_run"])
    return code


def _show(invocation: Invocation, job: "RetriedJob", *, is_one: bool) -> None:
    if invocation.is_json:
        invocation.json(job)
    elif job.error is not None:
        invocation.note(f"{job.tenant} {job.job}: not run again: {job.error.message}")
    elif is_one:
        invocation.data(job.retried_as or "")
        if job.before:
            invocation.note(f"{job.job} was run again before, under this id")
    else:
        invocation.data(f"{job.tenant} {job.job} {job.retried_as}")
