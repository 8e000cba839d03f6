"""What a tool says while it works is shown in events of its job, two a second at most."""

from collections.abc import AsyncIterator, Mapping

import msgspec

from sidecar.models.call import ModelCall
from sidecar.models.event import ToolActivity
from sidecar.ports.bus import Reply
from tests.support.replica import bench
from tests.support.scripted_model import ScriptedModel, Turn, calls_tools, says
from tests.support.tool_jobs import ANY, call
from tests.support.virtual_time import VirtualClock

BEAT = {"Llm-Tool-Progress": "in_progress"}


def turn(asked: ModelCall) -> Turn:
    return says("done") if len(asked.messages) > 1 else calls_tools(call("t", "u1"))


async def test_progress_of_a_tool_is_told() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, turn)) as b:
        await b.fleet("one")
        registration = {"name": "t", "version": "1.0.0", "description": "t", "input_schema": ANY, "ttl_s": 3600}
        reply = await b.ask("tools", "acme", "register", payload=msgspec.json.encode(registration))

        async def provide(payload: bytes, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
            for percent in range(0, 100, 10):
                yield Reply(b'{"percent":%d}' % percent, BEAT)
                await clock.sleep(0.2)
            for nothing in (b"", b"no JSON", b'"' + b"x" * 5_000 + b'"'):
                yield Reply(nothing, BEAT)
                await clock.sleep(1.0)
            yield Reply(b'"found"')

        await b.provide(msgspec.json.decode(reply.payload)["subject"], provide)
        job = await b.submit(tools=["t"])
        assert (await b.result(job)).state == "succeeded"
        told = [event.data for event in await b.events(job) if isinstance(event.data, ToolActivity)]
        assert [activity.phase for activity in told] == ["called", *["progress"] * 4, "returned"]
        assert [activity.output for activity in told[1:5]] == [{"percent": p} for p in (0, 30, 60, 90)]
        assert told[1].tool_use_id == "u1"
