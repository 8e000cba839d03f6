"""Time limits on real processes: each ends a job with its own code, and keeps what was streamed."""

from datetime import UTC, datetime, timedelta

from tests.support.stranger import Stranger, asks


def in_seconds(seconds: float) -> str:
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


async def test_the_total_timeout_ends_a_stream_and_keeps_its_text(client: Stranger) -> None:
    request = asks("[[tokens=4000 tps=100]] go on", stream=True, timeout_s=1.5)
    feed = await client.submit(request, job="job1")
    result = (await feed.result())["data"]
    assert result["state"] == "failed"
    assert (result["error"]["code"], result["error"]["details"]["limit"]) == ("timeout", "total")
    assert result["partial"] is True
    assert feed.text == result["output"]["text"] != ""


async def test_silence_before_the_first_token_is_a_timeout(client: Stranger) -> None:
    request = asks("[[ttft_ms=60000]] hm", stream=True, first_token_timeout_s=0.3, timeout_s=4)
    result = await client.run(request, job="job1")
    assert result["state"] == "failed"
    assert result["error"]["code"] in ("timeout", "model_unavailable")
    assert result["attempts"][0]["error"]["details"]["limit"] == "first_token"
    assert result["output"]["text"] == ""


async def test_silence_within_the_answer_is_a_timeout(client: Stranger) -> None:
    request = asks("[[tokens=40 fault=stall at=mid]] hm", stream=True, idle_timeout_s=0.3, on_interrupt="fail")
    feed = await client.submit(request, job="job1")
    result = (await feed.result())["data"]
    assert result["state"] == "failed"
    assert result["error"]["code"] in ("timeout", "stream_interrupted")
    assert result["attempts"][0]["error"]["code"] in ("timeout", "stream_interrupted")
    assert result["partial"] is True
    assert feed.text == result["output"]["text"] != ""


async def test_a_deadline_ends_a_running_job_as_expired(client: Stranger) -> None:
    request = asks("[[tokens=4000 tps=100]] go on", stream=True, deadline=in_seconds(1.5))
    feed = await client.submit(request, job="job1")
    result = (await feed.result())["data"]
    assert (result["state"], result["error"]["code"]) == ("expired", "deadline_exceeded")
    assert feed.text == result["output"]["text"] != ""


async def test_a_deadline_that_has_passed_expires_without_a_call(client: Stranger) -> None:
    result = await client.run(asks("[[tokens=2]] late", deadline=in_seconds(-5)), job="job1")
    assert result["state"] in ("expired", "rejected")
    assert result["error"]["code"] == "deadline_exceeded"
    assert result["attempts"] == []
