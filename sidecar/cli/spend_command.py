"""`sidecar spend`: what was spent, by day, tenant, model and class."""

import asyncio
import csv
import io
from typing import TYPE_CHECKING

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options

if TYPE_CHECKING:
    from sidecar.models.spend import SpendPage, SpendRow

_BY = ("day", "tenant", "model", "class")
_COUNTS = (
    "calls",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cost_usd",
    "estimated_usd",
    "unpriced_calls",
)
_SHOWN = ("calls", "in", "out", "cache read", "cache write", "cost $", "estimated $", "no price")


@click.command("spend")
@click.option("--from", "first", metavar="DAY", help="First day, as 2026-12-01. [default: 30 days back]")
@click.option("--to", "last", metavar="DAY", help="Last day. [default: today]")
@click.option(
    "--by", default="day,model", show_default=True, metavar="NAME,…", help="Of day, tenant, model, class."
)
@click.option("--all", "is_all", is_flag=True, help="Of all tenants; needs an operator's rights.")
@click.option("--csv", "is_csv", is_flag=True, help="As CSV, with money to the last digit that is known.")
@connection_options
@click.pass_obj
def command(
    invocation: Invocation, first: str | None, last: str | None, by: str, is_all: bool, is_csv: bool
) -> int:
    """What jobs took: calls, tokens and money, by the days of UTC in which they ended; some seconds late.

    A day marked with * lacks jobs whose results nobody was there to read.
    """
    names = tuple(name.strip() for name in by.split(",") if name.strip())
    return asyncio.run(_spend(invocation, first, last, names, is_all=is_all, is_csv=is_csv))


async def _spend(
    invocation: Invocation,
    first: str | None,
    last: str | None,
    by: tuple[str, ...],
    *,
    is_all: bool,
    is_csv: bool,
) -> int:
    from sidecar.client.spending import request_of, spend_of

    request = request_of(first, last, by)
    async with await (invocation.operator() if is_all else invocation.client()) as client:
        subjects = client.subjects
        subject = subjects.endpoint("admin", "spend") if is_all else subjects.endpoint("spend", client.tenant)
        page = await spend_of(client, subject, request)
    if invocation.is_json:
        for row in page.rows:
            invocation.json(row)
    elif is_csv:
        invocation.data(as_csv(page, by), newline=False)
    else:
        _show(invocation, page, by)
    return exits.OK


def as_csv(page: "SpendPage", by: tuple[str, ...]) -> str:
    """The rows, with a line of names first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*by, *_COUNTS, "incomplete"])
    for row in page.rows:
        money = {"cost_usd": f"{row.cost_usd:.9f}", "estimated_usd": f"{row.estimated_usd:.9f}"}
        counts = [money.get(name, str(getattr(row, name))) for name in _COUNTS]
        writer.writerow([*_keys(row, by), *counts, str(row.incomplete).lower()])
    return text.getvalue()


def _keys(row: "SpendRow", by: tuple[str, ...]) -> list[str]:
    return [str(getattr(row, "job_class" if name == "class" else name)) for name in by]


def _show(invocation: Invocation, page: "SpendPage", by: tuple[str, ...]) -> None:
    from sidecar.cli.tables import table

    rows = [_row(row, by) for row in page.rows]
    if len(page.rows) > 1:
        rows.append(_total(page, by))
    table((*by, *_SHOWN), rows, numbers=_SHOWN)
    if page.as_of is None:
        invocation.note("nothing was summed up yet: the replica that schedules writes sums every few seconds")
    else:
        invocation.note(f"jobs that ended up to {page.as_of}")
    if page.incomplete_days:
        invocation.note(f"* jobs may be missing: {', '.join(page.incomplete_days)}")


def _row(row: "SpendRow", by: tuple[str, ...]) -> list[str]:
    keys = _keys(row, by)
    if row.incomplete:
        keys[0] += " *"
    return [*keys, *_numbers([getattr(row, name) for name in _COUNTS])]


def _total(page: "SpendPage", by: tuple[str, ...]) -> list[str]:
    sums = [sum(getattr(row, name) for row in page.rows) for name in _COUNTS]
    return ["total", *[""] * (len(by) - 1), *_numbers(sums)]


def _numbers(values: list[float]) -> list[str]:
    return [
        f"{value:.6f}" if name.endswith("_usd") else f"{value:,}"
        for name, value in zip(_COUNTS, values, strict=True)
    ]
