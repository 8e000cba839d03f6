"""`sidecar submit`: jobs from a file or stdin."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options
from sidecar.errors import InvalidRequest
from sidecar.models.base import JOB_CLASSES

_AT_ONCE = 64


@click.command("submit", epilog="Interrupted while watching, it leaves the jobs alone.")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("-c", "--class", "job_class", type=click.Choice(JOB_CLASSES), default="standard", show_default=True)
@click.option("--job-id", help="The job's id; with several requests they become ID-1, ID-2, …")
@click.option("-w", "--watch", "is_watched", is_flag=True, help="Wait for the jobs and print what they answer.")
@connection_options
@click.pass_obj
def command(invocation: Invocation, file: Any, job_class: Any, job_id: str | None, is_watched: bool) -> int:
    """Hand in FILE (default: stdin): one JSON request, a JSON array of them, or one a line.

    Prints the ids once the requests are stored durably. The class of jobs nobody waits for is `batch`.
    """
    requests = read_requests(file.read(), name=Path(getattr(file, "name", "<stdin>")).name)
    return asyncio.run(_submit(invocation, requests, job_class, job_id, is_watched))


def read_requests(payload: bytes, *, name: str) -> tuple[Any, ...]:
    """The requests in a file's bytes, each validated. Raises InvalidRequest that names the line."""
    import msgspec

    from sidecar.models.codec import decode_request

    try:
        whole = msgspec.json.decode(payload)
    except msgspec.MsgspecError:
        lines = [(f"{name}, line {i}", line) for i, line in enumerate(payload.splitlines(), 1) if line.strip()]
    else:
        entries = whole if isinstance(whole, list) else [whole]
        lines = [(f"{name}, entry {i}", msgspec.json.encode(entry)) for i, entry in enumerate(entries, 1)]
    requests = []
    for place, line in lines:
        try:
            requests.append(decode_request(line))
        except InvalidRequest as e:
            raise InvalidRequest(f"{place}: {e.path + ': ' if e.path else ''}{e.message}", path=e.path) from e
    if not requests:
        raise InvalidRequest(f"{name} holds no request: give a JSON request, an array of them, or one a line")
    return tuple(requests)


def job_ids(job_id: str | None, count: int) -> Sequence[str | None]:
    """The ids to submit under; None leaves the choice to the client."""
    if job_id is None:
        return [None] * count
    return [job_id] if count == 1 else [f"{job_id}-{i}" for i in range(1, count + 1)]


async def _submit(
    invocation: Invocation, requests: tuple[Any, ...], job_class: Any, job_id: str | None, is_watched: bool
) -> int:
    async with await invocation.client() as client:
        # A file of many thousand requests must not wait for as many acknowledgements at once: they would time out.
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(request: Any, wanted: str | None) -> Any:
            async with gate:
                return await client.submit(
                    request, job_class=job_class, job_id=wanted, ack_timeout_s=10.0, follow=is_watched
                )

        ids = job_ids(job_id, len(requests))
        outcomes = await asyncio.gather(*map(one, requests, ids), return_exceptions=True)
        jobs = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        for job in jobs if not is_watched or invocation.is_json else ():
            _print_accepted(invocation, job)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures:
            invocation.note(f"{len(jobs)} of {len(requests)} requests were stored")
            raise failures[0]
        return await _watch(invocation, jobs) if is_watched else exits.OK


def _print_accepted(invocation: Invocation, job: Any) -> None:
    if invocation.is_json:
        invocation.json({"job": job.id, "tenant": job.tenant, "sequence": job.sequence})
    else:
        invocation.data(job.id)


async def _watch(invocation: Invocation, jobs: list[Any]) -> int:
    from sidecar.cli.view import describe_result, follow

    if len(jobs) == 1:
        invocation.note(f"job {jobs[0].id}")
        return exits.of_result(await follow(jobs[0], invocation, has_events=invocation.is_json))
    code = exits.OK
    for finished in asyncio.as_completed([_finish(job) for job in jobs]):
        job, result = await finished
        code = max(code, exits.of_result(result))
        if invocation.is_json:
            invocation.json({"job": job.id, "tenant": job.tenant, **_plain(result)})
        else:
            invocation.data(f"{job.id}\t{result.state}\t{' '.join(result.text.split())}")
            if result.error is not None:
                invocation.note(f"{job.id}: {describe_result(result)}")
    sys.stdout.flush()
    return code


async def _finish(job: Any) -> tuple[Any, Any]:
    return job, await job.result()


def _plain(result: Any) -> dict[str, Any]:
    return {name: getattr(result, name) for name in result.__struct_fields__}
