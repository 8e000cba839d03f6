"""What the running event says of a choice that the sidecar made: what was inferred, and what cache is warm."""

from typing import Any

from sidecar.models.event import Status
from sidecar.models.result import Usage
from tests.support.replica import Bench, bench
from tests.support.scripted_model import ScriptedModel, says
from tests.support.virtual_time import VirtualClock

LONG = "Prove that it holds. " + "word " * 1_500


async def reason(b: Bench, *texts: str, **fields: Any) -> str:
    turns = [{"role": "user" if n % 2 == 0 else "assistant", "content": t} for n, t in enumerate(texts)]
    job = await b.submit({"messages": turns, **fields})
    assert (await b.result(job)).state == "succeeded"
    running = [e.data for e in await b.events(job) if isinstance(e.data, Status) and e.data.state == "running"]
    assert running[0].reason is not None
    return running[0].reason


async def test_the_running_event_tells_what_was_inferred() -> None:
    async with bench() as b:
        await b.replica()
        told = await reason(b, "Prove that there is no largest prime.")
        assert told.endswith("kind reason, quality balanced; inferred from prove")
        assert "inferred" not in await reason(b, "Prove it.", task={"kind": "chat"})
        assert "inferred" not in await reason(b, "Prove it.", model="nova-lite")


async def test_a_cache_is_warm_for_the_conversation_that_was_cached_and_for_no_other() -> None:
    clock = VirtualClock()
    cached = Usage(input_tokens=10, output_tokens=5, cache_write_tokens=1_500)
    script = [says("ok"), says("ok", usage=cached)]
    async with bench(ScriptedModel(clock, script)) as b:
        await b.replica()
        assert "warm" not in await reason(b, LONG)
        assert "warm" not in await reason(b, LONG), "the first answer counted no cached tokens"
        assert "warm" in await reason(b, LONG, "ok", "and then?")
        assert "warm" not in await reason(b, "other " + LONG)
        assert "warm" not in await reason(b, "hello")
