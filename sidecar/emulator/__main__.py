"""`python -m sidecar.emulator`: one JSON line with the url on stdout, then serve until SIGINT or SIGTERM."""

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

import uvloop

from sidecar.emulator.server import serve


def main() -> int:
    """Exit code 0 after a signal, 2 for a bad scenario or an address in use."""
    parser = argparse.ArgumentParser(prog="python -m sidecar.emulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--scenario", type=Path, help="TOML or JSON file")
    arguments = parser.parse_args()
    try:
        uvloop.run(_run(arguments.host, arguments.port, arguments.scenario))
    except (OSError, ValueError) as e:
        sys.stderr.write(f"emulator: {e}\n")
        return 2
    return 0


async def _run(host: str, port: int, scenario_path: Path | None) -> None:
    serving = asyncio.ensure_future(serve(host=host, port=port, scenario_path=scenario_path, on_ready=_announce))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, serving.cancel)
    await asyncio.wait([serving])
    if not serving.cancelled():
        serving.result()


def _announce(url: str) -> None:
    sys.stdout.write(json.dumps({"url": url}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
