"""`sidecar prompts` as a process, on a real server, with a job made of what it stored."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import World
from tests.support.process import ROOT, clean_environment

pytestmark = pytest.mark.nats

TEMPLATE = {
    "description": "says hello",
    "messages": [{"role": "user", "content": '[[text="hello {{name}}"]] {{name}}'}],
    "variables": {"name": {"max_length": 20}},
}


def sidecar(world: World, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidecar", "--server", world.nats_url, "--tenant", "dora", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment(),
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def test_templates_are_stored_listed_used_and_taken_away(world: World, tmp_path: Path) -> None:
    document = json.dumps(TEMPLATE)
    first = sidecar(world, "prompts", "put", "hello", "-", "--shared", given=document)
    assert (first.returncode, first.stdout.strip()) == (0, "1"), first.stderr
    again = sidecar(world, "prompts", "put", "hello", "-", "--shared", "--version", "1", given=document)
    assert again.returncode == 1
    assert "never changes" in again.stderr
    broken = sidecar(world, "prompts", "put", "hello", "-", given='{"messages": []}')
    assert broken.returncode == 2
    request = {"prompt": {"name": "hello", "variables": {"name": "Ada"}}, "model": "claude-sonnet-4-5"}
    file = tmp_path / "job.json"
    file.write_text(json.dumps(request))
    done = sidecar(world, "--json", "submit", str(file), "--watch")
    assert done.returncode == 0, done.stderr
    assert "hello Ada" in done.stdout
    second = sidecar(world, "prompts", "put", "hello", "-", "--shared", given=document)
    assert second.stdout.strip() == "2"
    listed = sidecar(world, "--json", "prompts", "ls")
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(row["scope"], row["version"], row["variables"]) for row in rows] == [
        ("shared", "1", "name: string"),
        ("shared", "2", "name: string"),
    ]
    shown = sidecar(world, "prompts", "show", "hello", "--shared")
    assert json.loads(shown.stdout) == TEMPLATE
    assert sidecar(world, "prompts", "rm", "hello", "--shared").returncode == 0
    gone = sidecar(world, "prompts", "show", "hello", "--shared")
    assert gone.returncode == 1
    assert "no template" in gone.stderr
