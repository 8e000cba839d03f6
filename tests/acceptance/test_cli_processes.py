"""`run`, `demo` and `emulator` as processes: how they start, answer signals and end."""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.demo import PATIENCE_S, ROOT, Demo, end, environment, first_line, sidecar, started, wait_for

EXAMPLES = ("minimal", "streaming", "cancel", "fan_out", "plain_nats")


def test_the_demo_runs_its_story_and_exits_0() -> None:
    done = sidecar("demo", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    states = {row["job"]: row["result"]["state"] for row in rows}
    assert states["stream"] == states["tool"] == states["fallback"] == "succeeded"
    assert (states["cancelled"], states["rejected"]) == ("cancelled", "rejected")
    assert {row["tenant"] for row in rows} == {"acme", "globex", "initech"}
    fallback = next(row["result"] for row in rows if row["job"] == "fallback")
    assert [attempt["outcome"] for attempt in fallback["attempts"]][-2:] == ["error", "ok"]
    assert fallback["model"] == "nova-lite"


def test_the_demo_prints_a_table_and_leaves_nothing_behind() -> None:
    with started(["demo"]) as process:
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "JetStream is the persistence layer of NATS." in output
    assert "first token" in output
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_serves_ends_in_order(number: int) -> None:
    with started(["demo", "--serve", "--no-story", "--port", "0", "--json"]) as process:
        up = first_line(process)
        with urllib.request.urlopen(f"{up['admin']}/readyz", timeout=PATIENCE_S) as page:  # noqa: S310
            assert page.status == 200
        assert end(process, number) == 0
    gone = sidecar("jobs", "-s", up["nats"])
    assert gone.returncode == 3


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_run(demo: Demo, example: str) -> None:
    done = subprocess.run(
        [sys.executable, f"examples/{example}.py"],
        env=environment(NATS_URL=demo.nats, PYTHONPATH=str(ROOT)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert done.stderr == ""


def test_every_example_is_run() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} >= set(EXAMPLES)


def test_a_sidecar_runs_jobs_and_drains_at_sigterm(demo: Demo, tmp_path: Path) -> None:
    log = tmp_path / "log"
    settings = ["--set", f"bedrock.endpoint_url={demo.bedrock}", "--set", "admin.port=0"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sidecar", "run", "-s", demo.nats, "--name", "second", *settings],
            env=environment(),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stderr=output,
            stdout=subprocess.DEVNULL,
        )
    try:
        wait_for(log, '"phase":"running"', process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_sigterm_while_nats_is_away_ends_the_start() -> None:
    with started(["run", "-s", "nats://127.0.0.1:9", "--set", "admin.port=0"]) as process:
        assert process.stderr is not None
        assert "starting" in process.stderr.readline()
        assert end(process) == 0


def test_sigterm_during_imports_ends_at_once_with_0() -> None:
    """What process 1 of a container needs: a handler before anything heavy is imported."""
    code = (
        "import os, signal, sys\n"
        "import sidecar.__main__ as entry\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'click':\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "            while True: pass\n"
        "sys.meta_path.insert(0, Slow())\n"
        "sys.argv = ['sidecar', sys.argv[1]]\n"
        "entry.main()\n"
    )
    for command, expected in (("run", 0), ("ask", 128 + signal.SIGTERM)):
        done = subprocess.run(
            [sys.executable, "-c", code, command], cwd=ROOT, env=environment(), timeout=PATIENCE_S, check=False
        )
        assert done.returncode == expected


def test_nothing_heavy_is_imported_before_the_handler_stands() -> None:
    code = "import sys, sidecar.__main__; print(sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    assert not {"click", "asyncio", "nats", "pydantic", "msgspec", "rich", "botocore"} & set(
        done.stdout.translate(str.maketrans("[]',", "    ")).split()
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--config", "/nonexistent.toml"), "/nonexistent.toml"),
        (("run", "--set", "nats.replicas=4"), "nats.replicas"),
        (("run", "--set", "nonsense"), "SECTION.KEY=VALUE"),
        (("config", "--set", "tenants.acme.wait=3"), "tenants.acme.wait"),
        (("emulator", "--port", "70000"), "70000"),
    ],
)
def test_a_wrong_configuration_is_named(arguments: tuple[str, ...], words: str) -> None:
    done = sidecar(*arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_emulator_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    with started(["emulator", "--port", "0", "--json"]) as process:
        url = first_line(process)["url"]
        request = urllib.request.Request(  # noqa: S310
            f"{url}/model/amazon.nova-lite-v1%3A0/converse",
            data=json.dumps({"messages": [{"role": "user", "content": [{"text": "[[echo]] hello"}]}]}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as page:  # noqa: S310
                status = page.status
        except urllib.error.HTTPError as e:
            status = e.code
        assert status in (200, 403)
        assert end(process) == 0
    bad = tmp_path / "bad.toml"
    bad.write_text('default = "tokens=many"')
    refused = sidecar("emulator", "--scenario", str(bad))
    assert refused.returncode == 2
    assert "tokens" in refused.stderr
