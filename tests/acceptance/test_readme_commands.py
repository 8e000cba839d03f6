"""The commands that the README shows, run as they stand there against a live demo."""

import re
import shutil
import subprocess
import time
from contextlib import ExitStack

import pytest

from tests.support.demo import PATIENCE_S, ROOT, Demo, environment
from tests.support.readme import Block, blocks

pytestmark = pytest.mark.nats

README = ROOT / "README.md"
BLOCKS = blocks(README.read_text("utf-8"))
_STARTED_S = 1.0


def test_only_commands_of_the_reader_are_run() -> None:
    for block in BLOCKS:
        for command in block.commands:
            assert re.match(r"(nats|sidecar|python|cat|echo|printf) ", command), command


@pytest.mark.skipif(not BLOCKS, reason="the README marks no block to be run")
def test_the_commands_of_the_readme_work(demo: Demo) -> None:
    """In the order of the page: later blocks may look at what earlier ones did."""
    has_nats = shutil.which("nats") is not None
    with ExitStack() as stack:
        background = []
        for block in BLOCKS:
            for command in block.commands:
                if "nats " in command and not has_nats:
                    continue
                if block.is_background:
                    background.append((command, stack.enter_context(_started(command, demo))))
                else:
                    _run(command, block, demo)
        for command, process in background:
            process.terminate()
            output, errors = process.communicate(timeout=PATIENCE_S)
            assert output.strip(), f"{command} printed nothing: {errors}"


def _run(command: str, block: Block, demo: Demo) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=environment(NATS_URL=demo.nats, SIDECAR_BEDROCK__ENDPOINT_URL=demo.bedrock),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    what = f"README.md, block at line {block.line}: {command}\n{done.stdout}{done.stderr}"
    assert done.returncode == block.exit_code, what
    assert done.stdout.strip() or done.stderr.strip(), what


def _started(command: str, demo: Demo) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        env=environment(NATS_URL=demo.nats),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(_STARTED_S)
    return process
