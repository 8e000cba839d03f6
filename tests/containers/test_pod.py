"""The image in containers as a pod has them: one network namespace, started and stopped in a pod's order.

Opt-in, `./dev test-containers`: it builds the image, which takes minutes and a registry. Where base images have to
come from elsewhere, SIDECAR_TEST_PYTHON_IMAGE and SIDECAR_TEST_NATS_IMAGE name them.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.engine import LIMIT_S, Engine, find_engine, socket_of

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/nats-llm-sidecar:test"
NATS_IMAGE = os.environ.get("SIDECAR_TEST_NATS_IMAGE", "docker.io/library/nats:2.15-alpine")
AS_IN_THE_CHART = (
    "--read-only",
    "--user=65532:65532",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--tmpfs=/tmp:size=64m",
)
EMULATOR = "http://127.0.0.1:4599"
APPLICATION = """
import asyncio, json, signal
from sidecar import SidecarClient

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with await SidecarClient.connect("nats://127.0.0.1:4222", tenant="acme") as client:
        result = await client.ask("[[tokens=3]] from inside the pod", wait_s=60)
        print(json.dumps({"first": result.state}), flush=True)
        await stop.wait()
        # preStop has drained the sidecar: it takes nothing new, and still answers.
        jobs = [job.state async for job in client.jobs()]
        print(json.dumps({"last": jobs}), flush=True)

asyncio.run(main())
"""
GET = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=10).read().decode())"

pytestmark = pytest.mark.containers


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if not os.environ.get("SIDECAR_TEST_CONTAINERS"):
        pytest.skip("opt-in: ./dev test-containers")
    name = find_engine()
    if name is None:
        pytest.skip("no container engine: neither podman nor docker answers")
    found = Engine(name)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def image(engine: Engine) -> str:
    base = os.environ.get("SIDECAR_TEST_PYTHON_IMAGE")
    engine.build(ROOT, tag=IMAGE, arguments={"PYTHON_IMAGE": base} if base else {})
    return IMAGE


@pytest.fixture
def namespace(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """NATS, in whose network namespace the others run: as with a leaf node in the pod."""
    with socket_of(engine.name) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        from testcontainers.core.container import DockerContainer

        # Its state in memory: the namespace must be able to do without a writable root.
        with DockerContainer(NATS_IMAGE).with_command("--jetstream --store_dir /tmp/js") as nats:
            yield str(nats.get_wrapped_container().id)
            # Those who share its namespace go before it.
            engine.close()


def until(is_true: Callable[[], bool], *, what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not is_true():
        assert time.monotonic() < deadline, f"not {what}"
        time.sleep(0.1)


def test_a_job_runs_in_a_pods_order_of_start_and_stop(engine: Engine, image: str, namespace: str) -> None:
    network = f"--network=container:{namespace}"
    engine.run(network, *AS_IN_THE_CHART, image, "emulator", "--host", "127.0.0.1", "--port", "4599")
    settings = {
        "NATS_URL": "nats://127.0.0.1:4222",
        "SIDECAR_BEDROCK__ENDPOINT_URL": EMULATOR,
        "SIDECAR_JOBS__LINGER_S": "86400",
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "example-secret",
        "AWS_REGION": "us-east-1",
    }
    flags = [f"--env={name}={value}" for name, value in settings.items()]
    sidecar = engine.run(network, *AS_IN_THE_CHART, *flags, image)

    def page(path: str) -> str:
        return engine.command(
            "exec", sidecar, "python", "-c", GET, f"http://127.0.0.1:8081{path}", is_checked=False
        )

    # Its startup probe lets the application start.
    until(lambda: "running" in page("/startupz"), what=f"started: {engine.log(sidecar)}")
    application = engine.run(network, *AS_IN_THE_CHART, "--entrypoint=python", image, "-u", "-c", APPLICATION)
    until(lambda: "first" in engine.log(application), what="answered from inside the pod")
    # The pod ends: preStop of all, SIGTERM to the application, and to the sidecar once that has gone.
    assert json.loads(engine.command("exec", sidecar, "sidecar", "drain", "--json"))["status"] == "draining"
    engine.command("kill", "--signal=TERM", application)
    assert engine.exit_code(application) == 0, engine.log(application)
    said = [json.loads(line) for line in engine.log(application).splitlines() if line.startswith("{")]
    assert said == [{"first": "succeeded"}, {"last": ["succeeded"]}]
    assert "draining" in page("/startupz")
    engine.command("kill", "--signal=TERM", sidecar)
    assert engine.exit_code(sidecar) == 0, engine.log(sidecar)


def test_sigterm_reaches_process_1_during_its_start(engine: Engine, image: str) -> None:
    started = engine.run(*AS_IN_THE_CHART, "--network=none", image)
    engine.command("kill", "--signal=TERM", started)
    assert engine.exit_code(started) == 0, engine.log(started)
