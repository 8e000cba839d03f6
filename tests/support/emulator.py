"""The emulator for tests: in this process, or in one of its own for tests and benchmarks that count CPU."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

import boto3
from botocore.config import Config

from sidecar.emulator import Emulator

CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "us.amazon.nova-lite-v1:0"
REGION = "us-east-1"
ACCESS_KEY, SECRET_KEY = "AKIAEXAMPLE", "example-secret"

__all__ = ["CLAUDE", "NOVA", "REGION", "Emulator", "EmulatorProcess", "make_boto3", "spawn_emulator", "user"]


class EmulatorProcess(NamedTuple):
    """A running `python -m sidecar.emulator`."""

    url: str
    pid: int

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """Call the control endpoint; see `sidecar/emulator/control.py`."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/_emulator/{path}", data=data, method=method)  # noqa: S310
        with urlopen(request, timeout=30) as response:  # noqa: S310
            return json.load(response)


@contextmanager
def spawn_emulator(*, scenario: Path | None = None) -> Iterator[EmulatorProcess]:
    """An emulator in a process of its own, stopped by its pid at the end."""
    arguments = ["--scenario", str(scenario)] if scenario else []
    process = subprocess.Popen(
        [sys.executable, "-m", "sidecar.emulator", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the emulator ended with {process.wait()} before it listened"
        yield EmulatorProcess(json.loads(line)["url"], process.pid)
    finally:
        process.terminate()
        process.wait(timeout=30)
        if process.stdout:
            process.stdout.close()


def make_boto3(url: str, *, service: str = "bedrock-runtime", region: str = REGION, **options: Any) -> Any:
    """A real client of boto3, without retries. Blocks: use it in a thread beside an emulator of this process."""
    session = boto3.session.Session(aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY)
    options.setdefault("read_timeout", 30)
    config = Config(retries={"total_max_attempts": 1}, **options)
    return session.client(service, endpoint_url=url, region_name=region, config=config)


def user(text: str) -> list[dict[str, Any]]:
    """A conversation of one user message."""
    return [{"role": "user", "content": [{"text": text}]}]
