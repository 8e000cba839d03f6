"""What operators do to many jobs at once: `--where`, and the parts of an answer."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import click
import msgspec

from sidecar.cli.invocation import Invocation
from sidecar.client import SidecarClient
from sidecar.errors import InvalidRequest, Permanent
from sidecar.models.plain import UNREADABLE

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

PAUSE_FIELDS = ("tenant", "class", "model")
# What a filter has fields for; any other name is one of the requests' metadata.
FIELDS = ("tenant", "state", "class", "error", "since", "until")


def where_options(command: F) -> F:
    """`--where`, `--limit` and `--dry-run`."""
    options = (
        click.option(
            "-w",
            "--where",
            "where",
            multiple=True,
            metavar="NAME=VALUE",
            help="Instead of ids, all jobs of any tenant that fit: tenant, class, state, error, since, until"
            " (RFC 3339), or a name in the requests' metadata. May be repeated; needs an operator's rights.",
        ),
        click.option("-n", "--limit", type=click.IntRange(1), help="At most so many, oldest first."),
        click.option("--dry-run", "is_dry", is_flag=True, help="Tell which, and do nothing."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def filter_of(where: Sequence[str], fields: Sequence[str] = FIELDS) -> dict[str, Any]:
    """The filter that `--where` gives. Raises InvalidRequest for one without a value or given twice."""
    found: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for given in where:
        name, sign, value = given.partition("=")
        if not (name and sign and value):
            raise InvalidRequest(f"{given!r} is no NAME=VALUE", path="--where")
        into = found if name in fields else metadata
        if name in into:
            raise InvalidRequest(f"{name} is given twice: both cannot be", path="--where")
        into[name] = value
    return {**found, "metadata": metadata} if metadata else found


def pause_filter_of(where: Sequence[str]) -> dict[str, Any]:
    """What `--where` of pause and resume gives."""
    found = filter_of(where, PAUSE_FIELDS)
    if "metadata" in found:
        unknown = next(iter(found["metadata"]))
        raise InvalidRequest(
            f"{unknown} is nothing to hold jobs by: use {', '.join(PAUSE_FIELDS)}", path="--where"
        )
    return found


def check_choice(names: Sequence[str], where: Sequence[str]) -> None:
    """Raises InvalidRequest unless exactly one of ids and a filter is given."""
    if bool(names) == bool(where):
        raise InvalidRequest("give either ids, or --where for all jobs that fit")


async def told_in_parts(
    client: SidecarClient, subject: str, asked: dict[str, Any], kind: type[T]
) -> AsyncGenerator[T, None]:
    """The parts of an answer. Raises what the sidecar refuses with, AccessDenied, BusUnavailable."""
    replies = client.ask_for_many(subject, msgspec.json.encode(asked))
    async with aclosing(replies):
        async for reply in replies:
            try:
                yield msgspec.json.decode(reply, type=kind)
            except UNREADABLE as e:
                raise Permanent(f"the reply on {subject} cannot be read ({e}): update the client") from e


def summed_up(invocation: Invocation, count: int, done: str, *, is_dry: bool) -> None:
    jobs = "1 job" if count == 1 else f"{count:,} jobs"
    invocation.note(f"{jobs} would be {done}" if is_dry else f"{jobs} {done}")
