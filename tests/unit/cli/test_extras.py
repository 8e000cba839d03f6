"""Installed small: client commands run on the base dependencies alone, the others say which extra they need."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sidecar.adapters.nats.embedded import free_port
from sidecar.cli.main import COMMANDS, EXTRAS
from tests.support.process import clean_environment

ROOT = Path(__file__).parents[3]
# Import names that differ from the distribution's.
IMPORTED_AS = {"google-re2": "re2", "phonenumberslite": "phonenumbers", "python-stdnum": "stdnum"}
# The command line as it is where the extras are not installed.
BARE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {extras!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from sidecar.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
CLIENT = {
    "ask": ("hello",),
    "watch": ("job1",),
    "cancel": ("job1",),
    "get": ("job1",),
    "explain": ("job1",),
    "pause": ("--where", "tenant=acme"),
    "resume": ("--where", "tenant=acme"),
    "retry": ("job1",),
    "jobs": (),
    "models": (),
    "spend": (),
    "prompts": ("ls",),
    "tools": ("ls",),
    "top": ("--once",),
}
SERVER = {"run": "server", "doctor": "server", "config": "server", "emulator": "server", "demo": "demo"}
BY_THEMSELVES = {"submit", "schema", "drain", "dashboard", "nats-config", "sizing"}


def bare(*arguments: str) -> "subprocess.CompletedProcess[str]":
    code = BARE.format(extras=set(EXTRAS))
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_command_is_in_one_of_the_lists() -> None:
    assert set(CLIENT) | set(SERVER) | BY_THEMSELVES == set(COMMANDS)


@pytest.mark.parametrize("command", CLIENT)
def test_a_client_command_needs_no_extra(command: str) -> None:
    nowhere = f"nats://127.0.0.1:{free_port()}"
    done = bare(command, *CLIENT[command], "--server", nowhere, "--connect-timeout", "1")
    assert done.returncode == 3, done.stderr
    assert "pip install" not in done.stderr


@pytest.mark.parametrize("command", sorted(BY_THEMSELVES))
def test_what_connects_to_nothing_needs_no_extra_for_its_help(command: str) -> None:
    assert bare(command, "--help").returncode == 0


@pytest.mark.parametrize("command", SERVER)
def test_a_command_of_the_server_says_what_to_install(command: str) -> None:
    done = bare(command)
    assert done.returncode != 0
    assert f"pip install 'nats-llm-sidecar[{SERVER[command]}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_each_library_of_an_extra_is_known_to_the_message() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for extra, requirements in extras.items():
        for requirement in requirements:
            name = requirement.partition(">")[0]
            # uvloop is used where it is there; the SDK's packages share their first name.
            if name.startswith(("nats-llm-sidecar", "uvloop")):
                continue
            module = "opentelemetry" if name.startswith("opentelemetry") else IMPORTED_AS.get(name, name)
            assert module.replace("-", "_") in EXTRAS, f"{name} of extra {extra}"
