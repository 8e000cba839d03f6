"""`sidecar ask`: one question, its answer as it comes."""

import asyncio
import sys
from typing import Any

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options
from sidecar.models.base import JOB_CLASSES

_GOODBYE_S = 2.0


@click.command("ask", epilog="Interrupted, it cancels the job.")
@click.argument("prompt", nargs=-1)
@click.option("-m", "--model", "models", multiple=True, help="Alias or Bedrock id; repeated: the fallback chain.")
@click.option("--system", help="System prompt.")
@click.option("-c", "--class", "job_class", type=click.Choice(JOB_CLASSES), default="interactive")
@click.option("--max-tokens", type=click.IntRange(1))
@click.option("--temperature", type=click.FloatRange(0, 1))
@click.option("--effort", type=click.Choice(["none", "low", "medium", "high"]), help="Of reasoning.")
@click.option("--no-stream", is_flag=True, help="Print the answer when it is whole.")
@click.option("--timeout", "timeout_s", type=float, help="Seconds for the job, from its start.")
@click.option("--job-id", help="Makes the call repeatable: an id that exists is not run again.")
@connection_options
@click.pass_obj
def command(
    invocation: Invocation, /, prompt: tuple[str, ...], job_class: Any, job_id: str | None, **options: Any
) -> int:
    """Ask a model; the words of PROMPT, or stdin without any (or with -)."""
    text = " ".join(prompt)
    if text in ("", "-"):
        text = sys.stdin.read()
    if not text.strip():
        raise click.UsageError("there is no question: give it as argument or on stdin")
    return asyncio.run(_ask(invocation, text, job_class, job_id, _fields(**options)))


def _fields(
    *,
    models: tuple[str, ...],
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    effort: str | None,
    no_stream: bool,
    timeout_s: float | None,
) -> dict[str, Any]:
    params = {"max_tokens": max_tokens, "temperature": temperature}
    fields = {
        "model": models[0] if len(models) == 1 else list(models) or None,
        "system": system,
        "params": {name: value for name, value in params.items() if value is not None} or None,
        "reasoning": {"effort": effort} if effort else None,
        "timeout_s": timeout_s,
        "stream": True if not no_stream else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


async def _ask(
    invocation: Invocation, text: str, job_class: Any, job_id: str | None, fields: dict[str, Any]
) -> int:
    from sidecar.cli.view import follow

    async with await invocation.client() as client:
        job = await client.submit(text, job_class=job_class, job_id=job_id, ack_timeout_s=5.0, **fields)
        invocation.note(f"job {job.id}")
        try:
            if invocation.is_json:
                result = await job.result()
                invocation.json({"job": job.id, "tenant": job.tenant, **_plain(result)})
            else:
                result = await follow(job, invocation)
        except asyncio.CancelledError:
            reply = await job.cancel(reason="interrupted", timeout_s=_GOODBYE_S)
            invocation.note(f"\njob {job.id}: {'to be cancelled' if reply.requested else reply.state}")
            raise
    return exits.of_result(result)


def _plain(result: Any) -> dict[str, Any]:
    return {name: getattr(result, name) for name in result.__struct_fields__}
