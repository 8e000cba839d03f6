"""`sidecar jobs`: a tenant's jobs."""

import asyncio
import re
import time
from typing import Any

import click
import msgspec

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options
from sidecar.cli.operating import filter_of
from sidecar.errors import InvalidRequest
from sidecar.models.api import JobsPage
from sidecar.models.base import JOB_CLASSES, epoch, rfc3339
from sidecar.models.job import JobView

STATES = ("queued", "running", "waiting", "succeeded", "failed", "cancelled", "expired", "rejected")

_AGO = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Ago(click.ParamType[str]):
    """A time, or how long ago it was: becomes RFC 3339."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        found = _AGO.fullmatch(value)
        if found is not None:
            return rfc3339(time.time() - int(found[1]) * _SECONDS[found[2]])
        try:
            return rfc3339(epoch(value))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is neither 30s, 20m, 1h or 2d nor an RFC 3339 time with a zone", param, ctx)


@click.group("jobs", invoke_without_command=True)
@click.option("--state", type=click.Choice(STATES), help="Only these.")
@click.option("--class", "job_class", type=click.Choice(JOB_CLASSES), help="Only these.")
@click.option("--error", help="Only jobs that ended with an error of this code.")
@click.option("--since", type=Ago(), help="Only jobs of the last 30s, 20m, 1h or 2d, or since an RFC 3339 time.")
@click.option("--until", type=Ago(), help="Only jobs from before, given likewise.")
@click.option(
    "-w", "--where", multiple=True, metavar="NAME=VALUE", help="Only jobs with this metadata. May be repeated."
)
@click.option("--all-tenants", "is_all", is_flag=True, help="Of all tenants; needs an operator's rights.")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True)
@connection_options
@click.pass_context
def command(context: click.Context, /, where: tuple[str, ...], *, is_all: bool, limit: int, **given: Any) -> int:
    """List jobs, newest first, without their results: also those that wait unread. With --json one job a line.

    The subcommands are for operators: they need the rights of the sidecar itself, not those of a tenant.
    """
    if context.invoked_subcommand is not None:
        return exits.OK
    asked = {name.removeprefix("job_"): value for name, value in given.items() if value is not None}
    asked |= filter_of(where, ("tenant",)) if where else {}
    if "tenant" in asked and not is_all:
        raise InvalidRequest("tenant needs --all-tenants", path="--where")
    invocation = context.find_object(Invocation) or Invocation()
    return asyncio.run(_jobs(invocation, asked, limit=limit, is_all=is_all))


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


async def _jobs(invocation: Invocation, asked: dict[str, Any], *, limit: int, is_all: bool) -> int:
    unread = 0
    found: list[JobView] = []
    async with await (invocation.operator() if is_all else invocation.client()) as client:
        subjects = client.subjects
        subject = subjects.endpoint("admin", "jobs") if is_all else subjects.endpoint("jobs", client.tenant)
        cursor: str | None = None
        while len(found) < limit:
            body = {**asked, "limit": min(limit - len(found), 1000), **({"cursor": cursor} if cursor else {})}
            page = await client.ask_endpoint(subject, msgspec.json.encode(body), JobsPage)
            found += page.jobs
            cursor, unread = page.cursor, page.unread
            if cursor is None:
                break
    if invocation.is_json:
        for job in found:
            invocation.json(job)
    else:
        _show(found, with_tenant=is_all)
    if unread and "metadata" in asked:
        invocation.note(f"{unread:,} queued jobs were not read yet: whether they fit is not known")
    return exits.OK


def _show(jobs: list[JobView], *, with_tenant: bool) -> None:
    from sidecar.cli.tables import state_cell, table

    columns = ("job", "class", "state", "attempt", "model", "error", "created", "updated")
    rows = [
        (
            *((job.tenant,) if with_tenant else ()),
            job.job,
            job.job_class,
            state_cell(job.state),
            str(job.attempt),
            job.model or "",
            job.error_code or "",
            job.created,
            job.updated,
        )
        for job in jobs
    ]
    table((*(("tenant",) if with_tenant else ()), *columns), rows, numbers=("attempt",))
