"""`sidecar doctor`: is everything there that a sidecar needs, and what to do where not."""

import asyncio
import logging
from pathlib import Path

import click

from sidecar.cli.findings import Finding, exit_code
from sidecar.cli.invocation import Invocation, connection_options
from sidecar.cli.settings_options import load_settings, settings_options

_MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


@click.command("doctor")
@click.option("--call", "models", multiple=True, metavar="MODEL", help="Call this model once, in each region.")
@click.option("--no-aws", is_flag=True, help="Leave AWS out.")
@settings_options
@connection_options
@click.pass_obj
def command(
    invocation: Invocation,
    models: tuple[str, ...],
    no_aws: bool,
    config: Path | None,
    assignments: tuple[str, ...],
) -> int:
    """Check configuration, NATS, JetStream, streams, AWS credentials, Bedrock's endpoints and model access.

    Changes nothing. Exit 0 without a failure, 3 when NATS cannot be reached, else 1.
    """
    settings = load_settings(config, assignments, invocation)
    # Its own findings say what went wrong; the adapters' logs would say it again.
    logging.getLogger("sidecar").setLevel(logging.CRITICAL)

    async def examine() -> int:
        from sidecar.cli import doctor_bedrock, doctor_nats

        found = []
        _show(invocation, Finding("configuration", "ok", str(config) if config else "no file"))
        async for finding in doctor_nats.findings(settings):
            found.append(finding)
            _show(invocation, finding)
        if not no_aws:
            async for finding in doctor_bedrock.findings(settings, models):
                found.append(finding)
                _show(invocation, finding)
        return exit_code(found)

    return asyncio.run(examine())


def _show(invocation: Invocation, finding: Finding) -> None:
    if invocation.is_json:
        invocation.json(finding._asdict())
        return
    mark, colour = _MARKS[finding.level]
    click.secho(mark, fg=colour, nl=False)
    invocation.data(f"  {finding.check}: {finding.text}")
    if finding.remedy:
        invocation.data(f"      → {finding.remedy}")
