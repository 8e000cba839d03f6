"""A pod with a NATS leaf node of its own: the configuration that the chart makes, on real servers."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml

from sidecar.adapters.nats.embedded import HOST, find_binary, free_port
from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import make_server, running
from tests.support.process import Process, spawn_sidecar, wait_until
from tests.support.stranger import asks, check_story, stranger

RENDERED = Path(__file__).parents[2] / "deploy/rendered/leaf.yaml"
pytestmark = pytest.mark.nats


def configuration(*, port: int, monitor: int, remote: str) -> str:
    """The chart's, with this machine's ports, without credentials: the test's server asks for none."""
    maps = [d for d in yaml.safe_load_all(RENDERED.read_text("utf-8")) if d and d["kind"] == "ConfigMap"]
    text: str = next(d["data"]["leaf.conf"] for d in maps if "leaf.conf" in d["data"])
    text = re.sub(r"\n *credentials:.*", "", text)
    for old, new in (("127.0.0.1:4222", f"{HOST}:{port}"), ("0.0.0.0:8222", f"{HOST}:{monitor}")):
        assert old in text
        text = text.replace(old, new)
    assert "tls://nats.example:7422" in text
    return text.replace("tls://nats.example:7422", remote)


def is_connected(monitor: int) -> bool:
    """What the chart's startup probe looks for."""
    pod = next(d for d in yaml.safe_load_all(RENDERED.read_text("utf-8")) if d and d["kind"] == "Deployment")
    (container,) = pod["spec"]["template"]["spec"]["initContainers"]
    command = container["startupProbe"]["exec"]["command"][-1]
    pattern = re.search(r"grep -q '(.*)'", command)
    assert pattern is not None
    try:
        with urlopen(f"http://{HOST}:{monitor}/leafz", timeout=10) as response:
            return re.search(pattern[1], response.read().decode()) is not None
    except OSError:
        return False


@contextmanager
def leaf(path: Path, remote: str) -> Iterator[str]:
    port, monitor = free_port(), free_port()
    path.write_text(configuration(port=port, monitor=monitor, remote=remote), "utf-8")
    binary = find_binary()
    checked = subprocess.run([binary, "-t", "-c", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    with Process(str(binary), "-c", str(path)):
        wait_until(lambda: is_connected(monitor), what="connected to the servers behind it")
        yield f"nats://{HOST}:{port}"


async def test_a_job_runs_through_the_pods_leaf_node(bedrock: EmulatorProcess, tmp_path: Path) -> None:
    hub_port = free_port()
    hub_config = (
        f'jetstream {{ store_dir: "{tmp_path}/store", domain: hub }}\nleafnodes {{ listen: "{HOST}:{hub_port}" }}'
    )
    with (
        running(make_server(config=hub_config)) as hub,
        leaf(tmp_path / "leaf.conf", f"nats://{HOST}:{hub_port}") as url,
        spawn_sidecar(url, bedrock.url),
    ):
        async with stranger(url, "acme") as beside, stranger(hub.url, "acme") as elsewhere:
            result = await beside.run(asks("[[tokens=3]] through the leaf", stream=True), job="one")
            assert result["state"] == "succeeded"
            assert check_story(await elsewhere.replay("one"))["state"] == "succeeded"
            assert (await elsewhere.run(asks("[[tokens=3]] from outside"), job="two"))["state"] == "succeeded"
