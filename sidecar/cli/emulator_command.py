"""`sidecar emulator`: a local Bedrock."""

import asyncio
import signal
from pathlib import Path

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, printing_options
from sidecar.errors import StartupError


@click.command("emulator")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=4599, show_default=True, help="0: any free one.")
@click.option(
    "--scenario", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="TOML or JSON file."
)
@printing_options
@click.pass_obj
def command(invocation: Invocation, host: str, port: int, scenario: Path | None) -> int:
    """Serve Converse and ConverseStream as Bedrock does; how answers are scripted: see docs/emulator.md."""
    try:
        asyncio.run(_serve(invocation, host, port, scenario))
    except (OSError, ValueError) as e:
        raise StartupError(f"the emulator cannot start: {e}") from e
    return exits.OK


async def _serve(invocation: Invocation, host: str, port: int, scenario: Path | None) -> None:
    from sidecar.emulator import serve

    def announce(url: str) -> None:
        if invocation.is_json:
            invocation.json({"url": url})
        else:
            invocation.data(url)
            invocation.note(f"use it by SIDECAR_BEDROCK__ENDPOINT_URL={url}, or as boto3's endpoint_url")

    serving = asyncio.ensure_future(serve(host=host, port=port, scenario_path=scenario, on_ready=announce))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    await asyncio.wait([serving])
    if not serving.cancelled():
        serving.result()
