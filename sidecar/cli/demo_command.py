"""`sidecar demo`: the main job, end to end, with nothing to install or configure."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, printing_options

if TYPE_CHECKING:
    from sidecar.cli.demo_stage import Stage
    from sidecar.cli.demo_story import Row

DEFAULT_PORT = 4222
DASHBOARD_PORT = 8090
_NUMBERS = ("first token", "total", "in", "out", "cost")
_CONNECT = """
The demo stays up until Ctrl-C. Watch it in a browser:

  {dashboard}

Try, in another terminal:

  export NATS_URL={nats}
  nats req --reply-timeout 30s llm.v1.ask.acme.interactive 'What is JetStream?'
  nats sub 'llm.v1.job.acme.>'
  nats kv get LLM_JOB acme.stream

  sidecar --tenant acme ask 'What is JetStream?'
  sidecar --tenant globex jobs

  python examples/streaming.py

Bedrock emulator: {bedrock}    probes: {admin}/readyz"""


@click.command("demo")
@click.option("--serve", "is_served", is_flag=True, help="Stay up afterwards and say how to connect.")
@click.option("--no-story", is_flag=True, help="Run no jobs; with --serve, just be there.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Of NATS; 0: any free one. [default: 4222 with --serve, else any]",
)
@printing_options
@click.pass_obj
def command(invocation: Invocation, is_served: bool, no_story: bool, port: int | None) -> int:
    """The main job on an embedded NATS server and the Bedrock emulator, in one process tree.

    Three tenants, streaming, a tool, a fallback, a cancel and a rejected request; a table of all jobs at the
    end. Exit 0 when each job ended as it was to end. No AWS account is needed, and none is used.
    """
    from sidecar.cli.run_command import run_loop

    if port is None:
        port = _free(DEFAULT_PORT) if is_served else 0
    return run_loop(_demo(invocation, port=port, is_served=is_served, has_story=not no_story))


async def _demo(invocation: Invocation, *, port: int, is_served: bool, has_story: bool) -> int:
    from sidecar.adapters.nats.embedded import free_port
    from sidecar.cli.demo_stage import stage

    interrupted = _on_signals(asyncio.current_task())
    is_serving = False
    code = exits.OK
    try:
        invocation.note("starting a NATS server, the Bedrock emulator and a sidecar …")
        page = (_free(DASHBOARD_PORT) or free_port()) if is_served else None
        async with stage(port=port, dashboard_port=page) as up:
            if has_story:
                code = await _story(invocation, up)
            if is_served:
                _announce(invocation, up)
                is_serving = True
                await asyncio.Event().wait()
    except asyncio.CancelledError:
        if not interrupted():
            raise
        return code if is_serving else exits.INTERRUPTED
    return code


async def _story(invocation: Invocation, up: "Stage") -> int:
    from sidecar.cli.demo_story import TENANTS, Story
    from sidecar.client import SidecarClient

    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(await SidecarClient.connect(up.nats, tenant=tenant))
            for tenant in TENANTS
        ]
        story = Story(
            clients,
            note=invocation.note,
            text=lambda text: None if invocation.is_json else invocation.data(text, newline=False),
        )
        rows = await story.play()
    _print(invocation, rows)
    wrong = [row for row in rows if not row.is_as_expected]
    for row in wrong:
        invocation.note(f"{row.tenant}/{row.job} is {row.result.state}, but was to be {row.expected}")
    return exits.FAILED if wrong else exits.OK


def _print(invocation: Invocation, rows: "list[Row]") -> None:
    if invocation.is_json:
        for row in rows:
            invocation.json({"tenant": row.tenant, "class": row.job_class, "job": row.job, "result": row.result})
        return
    from sidecar.cli.tables import state_cell, table

    invocation.data("")
    table(
        ("tenant", "class", "job", "model", "state", *_NUMBERS, "what it shows"),
        [
            (
                row.tenant,
                row.job_class,
                row.job,
                row.result.model or "",
                state_cell(row.result.state),
                _ms(row.result.timings.first_token_ms),
                _ms(row.result.timings.total_ms),
                str(row.result.usage.input_tokens),
                str(row.result.usage.output_tokens),
                "?" if row.result.cost_usd is None else f"${row.result.cost_usd:.6f}",
                row.shows,
            )
            for row in rows
        ],
        numbers=_NUMBERS,
    )


def _ms(value: int | None) -> str:
    return "" if value is None else f"{value} ms"


def _announce(invocation: Invocation, up: "Stage") -> None:
    if invocation.is_json:
        invocation.json(up._asdict())
    else:
        invocation.data(_CONNECT.format(**up._asdict()))


def _on_signals(task: "asyncio.Task[int] | None") -> Callable[[], bool]:
    """SIGINT and SIGTERM end `task` in order, children included. Returns whether one came."""
    came: list[int] = []

    def leave(number: int) -> None:
        came.append(number)
        if task is not None and len(came) == 1:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, leave, number)
    return lambda: bool(came)


def _free(port: int) -> int:
    """`port`, where people look first, or 0 where somebody listens on it."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port
