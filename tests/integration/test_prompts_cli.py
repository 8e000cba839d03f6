"""`sidecar prompts` against a real server."""

import asyncio
import json
from pathlib import Path

import pytest

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.streams.provision import ensure
from sidecar.cli.main import main
from tests.support.bus_world import bus_settings
from tests.support.nats_server import Access, no_environment

pytestmark = pytest.mark.nats

TEMPLATE = {
    "description": "says hello",
    "messages": [{"role": "user", "content": "hello {{name}}"}],
    "variables": {"name": {"max_length": 20}},
}


async def make_streams(access: Access) -> None:
    connection = Connection(access.settings(), environment=no_environment)
    await connection.start()
    mux = Mux(connection, timeout_s=20.0)
    await mux.start()
    await ensure(mux, bus_settings())
    await mux.close()
    await connection.close()


def test_templates_are_stored_listed_shown_and_taken_away(
    nats_access: Access, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(make_streams(nats_access))
    file = tmp_path / "hello.json"
    file.write_text(json.dumps(TEMPLATE))

    def prompts(*arguments: str) -> tuple[int, str, str]:
        code = main(["--server", nats_access.url, "--tenant", "dora", "--json", "prompts", *arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    code, out, err = prompts("put", "hello", str(file), "--shared")
    assert code == 0, err
    assert json.loads(out) == {"scope": "shared", "name": "hello", "version": "1", "variables": {"name": "string"}}
    assert json.loads(prompts("put", "hello", str(file))[1])["scope"] == "dora"
    assert json.loads(prompts("put", "hello", str(file), "--shared")[1])["version"] == "2"
    code, _, err = prompts("put", "hello", str(file), "--shared", "--version", "2")
    assert code != 0
    assert "never changes" in err
    for name, version in (("he.llo", "3"), ("hello", "latest")):
        code, _, err = prompts("put", name, str(file), "--version", version)
        assert code == 2, err
    broken = tmp_path / "broken.json"
    broken.write_text('{"messages": [{"role": "user", "content": "{{nme}}"}]}')
    code, _, err = prompts("put", "hello", str(broken))
    assert code == 2
    assert "messages[0].content" in err
    rows = [json.loads(line) for line in prompts("ls")[1].splitlines()]
    assert [(r["scope"], r["version"]) for r in rows] == [("dora", "1"), ("shared", "1"), ("shared", "2")]
    assert json.loads(prompts("show", "hello", "--shared")[1]) == TEMPLATE
    assert prompts("rm", "hello", "--shared", "--version", "1")[0] == 0
    assert prompts("show", "hello", "--shared", "--version", "1")[0] != 0
    assert prompts("rm", "hello")[0] == 0
    assert [json.loads(line)["scope"] for line in prompts("ls", "--all")[1].splitlines()] == ["shared"]
