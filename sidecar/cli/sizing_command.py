"""`sidecar sizing`: what a load takes of JetStream and of the sidecars."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from sidecar.cli.invocation import Invocation, printing_options

F = TypeVar("F", bound=Callable[..., Any])

_MB = 1e6


def _number(name: str, default: float, text: str, *, most: float = 1e12) -> Callable[[F], F]:
    kind = click.FloatRange(0, most)
    return click.option(name, type=kind, default=default, show_default=True, metavar="N", help=text)


@click.command("sizing")
@click.option("--jobs-per-second", type=click.FloatRange(0, 1e6), required=True, metavar="N", help="On average.")
@_number("--answer-kb", 2.0, "An answer, in thousands of bytes.")
@_number("--question-kb", 2.0, "A request, in thousands of bytes.")
@_number("--answer-seconds", 5.0, "How long a job runs.")
@_number("--streamed", 0.0, "Share of jobs that stream.", most=1.0)
@_number("--tool-calls", 0.0, "Calls of registered tools a job.")
@_number("--cancelled", 0.0, "Share of jobs that are cancelled.", most=1.0)
@_number("--waiting", 0.0, "Jobs that wait in the queue.")
@_number("--state-s", 86_400, "As the setting retention.state_s.")
@_number("--events-s", 3_600, "As the setting retention.events_s.")
@printing_options
@click.pass_obj
def command(
    invocation: Invocation,
    jobs_per_second: float,
    answer_kb: float,
    question_kb: float,
    answer_seconds: float,
    streamed: float,
    tool_calls: float,
    cancelled: float,
    waiting: float,
    state_s: float,
    events_s: float,
) -> None:
    """Reckon what a load takes of JetStream's disk and memory once as much goes as comes, and how many slots.

    From measured figures (docs/operating.md). With three copies each of three servers holds all of it.
    """
    from sidecar.cli import sizing

    work = sizing.ExpectedLoad(
        jobs_per_s=jobs_per_second,
        question_bytes=question_kb * 1_000,
        answer_bytes=answer_kb * 1_000,
        streamed=streamed,
        answer_s=answer_seconds,
        tool_calls=tool_calls,
        cancelled=cancelled,
        waiting=waiting,
        state_s=state_s,
        events_s=events_s,
    )
    found = list(sizing.shares(work))
    whole, memory = sum(share.total for share in found), sizing.server_memory(work)
    slots = jobs_per_second * answer_seconds
    if invocation.is_json:
        invocation.json(
            {
                "streams": [
                    {"stream": s.stream, "kind": s.kind, "messages": round(s.messages), "bytes": round(s.total)}
                    for s in found
                ],
                "bytes": round(whole),
                "server_memory_bytes": round(memory),
                "slots": slots,
            }
        )
        return
    from sidecar.cli.tables import table

    rows = [(s.stream, s.kind, f"{s.messages:,.0f}", f"{s.size:,.0f}", f"{s.total / _MB:,.1f}") for s in found]
    rows.append(("all", "", f"{sum(s.messages for s in found):,.0f}", "", f"{whole / _MB:,.1f}"))
    table(("stream", "what", "messages", "bytes each", "MB"), rows, numbers=("messages", "bytes each", "MB"))
    invocation.data(f"A server's memory: {memory / _MB:,.0f} MB. Slots that are busy: {slots:,.1f}.")
