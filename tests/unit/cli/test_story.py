"""`sidecar explain`: the story of a job that had to try again, and of one that runs still."""

import msgspec

from sidecar.cli.story import account, lines
from sidecar.errors import ModelFailed, ModelUnavailable
from sidecar.models.job import JobState
from tests.support.replica import MODEL, bench
from tests.support.scripted_model import ScriptedModel, fails, says
from tests.support.virtual_time import VirtualClock


async def story_of(model: ScriptedModel, *, wait_s: float) -> tuple[dict[str, object], str]:
    async with bench(model) as b:
        await b.fleet("one", slots=1)
        first = await b.submit(job="first")
        job = await b.submit(job="told", model=[MODEL])
        await b.clock.advance(wait_s)
        stored = await b.stored(job)
        assert stored is not None
        events = await b.events(job)
        await b.result(first)
    state: JobState = stored.state
    told = msgspec.to_builtins(account(state, events))
    return told, "\n".join(lines(state, events))


async def test_a_job_that_tried_again_tells_its_waits_its_calls_and_its_money() -> None:
    script = [says("slow", first_s=3.0), fails(ModelUnavailable("away", details={"http_status": 503}))]
    script += [fails(ModelFailed("broke"))] * 3
    told, text = await story_of(ScriptedModel(VirtualClock(), script), wait_s=60.0)
    assert (told["state"], told["billed_calls"]) == ("failed", 3)
    assert [call["outcome"] for call in told["calls"]] == ["error"] * 4  # type: ignore[attr-defined]
    assert told["waits"][0]["seconds"] >= 1.5  # type: ignore[index]
    assert "model_unavailable, away; costs nothing" in text
    assert "(the same model again)" in text
    assert "(estimated) for 3 of 4 calls" in text
    assert "because the model failed three times in the same way" in text


async def test_a_job_that_has_not_ended_tells_what_is_known() -> None:
    script = [says("slow", first_s=0.1), fails(ModelFailed("broke")), says("later", first_s=500.0)]
    told, text = await story_of(ScriptedModel(VirtualClock(), script), wait_s=5.0)
    assert told["state"] == "running"
    assert [call["error"]["message"] for call in told["calls"]] == ["broke"]  # type: ignore[attr-defined]
    assert "retrying" in text
    assert "1 call" in text
