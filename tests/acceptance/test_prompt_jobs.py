"""Jobs made of templates that somebody put into the bucket by hand, on a real server."""

import hashlib
import json
from typing import Any

import nats
import pytest

from tests.acceptance.conftest import World
from tests.support.stranger import Stranger

pytestmark = pytest.mark.nats

MODEL = "claude-sonnet-4-5"


def template(text: str) -> bytes:
    made = {"messages": [{"role": "user", "content": text}], "variables": {"name": {"max_length": 9}}}
    return json.dumps(made).encode()


def asks(name: str, **prompt: Any) -> dict[str, Any]:
    return {"prompt": {"name": "hello", "variables": {"name": name}, **prompt}, "model": MODEL}


async def test_a_template_counts_from_the_moment_it_is_stored(client: Stranger, world: World) -> None:
    operator = await nats.connect(world.nats_url)
    try:
        bucket = await operator.jetstream().key_value("LLM_PROMPT")
        for version in range(1, 6):
            revision = await bucket.put(
                f"{client.tenant}.hello.{version}", template(f'[[text="v{version} {{{{name}}}}"]] x')
            )
            job = f"v{version}"
            result = await client.run(asks("Ada"), job=job)
            assert result["state"] == "succeeded", result["error"]
            assert result["output"]["text"] == f"v{version} Ada"
            state = await client.answer("get", client.tenant, job)
            told = hashlib.sha256(f'[[text="v{version} Ada"]] x'.encode()).hexdigest()
            assert state["prompt"]["sha256"] == told
            assert (state["prompt"]["scope"], state["prompt"]["version"]) == (client.tenant, str(version))
            assert state["prompt"]["revision"] in (0, revision)
        old = await client.run(asks("Ada", version="2"), job="old")
        assert old["output"]["text"] == "v2 Ada"
    finally:
        await operator.close()
    reply = await client.ask("ask", client.tenant, "interactive", payload=asks("Grace"))
    assert json.loads(reply.data)["output"]["text"] == "v5 Grace"
    for job, request, path in (
        ("long", asks("a" * 10), "prompt.variables.name"),
        ("version", asks("Ada", version="9"), "prompt.version"),
        ("name", {"prompt": {"name": "none"}}, "prompt.name"),
    ):
        refused = await client.run(request, job=job)
        assert (refused["state"], refused["error"]["details"]["path"]) == ("rejected", path)
