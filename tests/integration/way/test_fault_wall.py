"""The fault wall, through the whole way of a job: whatever goes wrong ends in exactly one typed result.

What the adapter makes of each fault of the same table alone is in `tests/integration/faults`. Here a job names two
candidates, the first of which is broken: every temporary fault before text has to end in the answer of the second,
one after text in a new attempt or in `stream_interrupted`, and nothing cut may be called complete. What no
candidate is spared (the account's trouble, an endpoint out of reach) holds the job.
"""

import asyncio
from typing import Any

import pytest

from sidecar.emulator import Emulator
from sidecar.models.result import Result
from tests.support.answer_faults import (
    BROKEN_STREAMS,
    BROKEN_WHOLE,
    EXCEPTION_FRAMES,
    GOOD,
    WHOLE_ALL_THE_SAME,
    Fault,
    Oddity,
)
from tests.support.raw_bedrock import (
    METADATA,
    START,
    STOP,
    RawBedrock,
    Script,
    answer,
    event,
    raw_bedrock,
    response,
    sends,
    streams,
    text,
    then_hangs,
    tool,
)
from tests.support.way import FIRST, FIRST_ID, SECOND, SECOND_ID, Way, statuses, texts, way

CHAIN = [FIRST, SECOND]
SECOND_ANSWER = "the second's answer"
IMPATIENT: dict[str, Any] = {"first_token_timeout_s": 0.6, "idle_timeout_s": 0.4}


async def check_failover(on: Way, job: str, *, code: str, said: str = SECOND_ANSWER) -> Result:
    """The second candidate's answer is the whole result; output began anew if the first had streamed text."""
    result = await on.result(job)
    assert result.state == "succeeded", result.error
    assert result.model == SECOND
    assert result.output.text == said
    assert result.partial is False
    assert result.error is None
    failed = [a for a in result.attempts if a.outcome == "error"]
    assert failed
    assert {a.model_id for a in failed} == {FIRST_ID}
    assert {a.error.code for a in failed if a.error} == {code}
    assert [a.model_id for a in result.attempts if a.outcome == "ok"] == [SECOND_ID]
    events = await on.events(job)
    last = max(e.attempt for e in events)
    assert events[-1].attempt == last
    assert texts(events, attempt=last) in ("", said)
    return result


async def check_final(on: Way, job: str, *, code: str) -> Result:
    result = await on.result(job)
    assert result.state == "failed"
    assert result.error is not None
    assert result.error.code == code
    assert result.model == FIRST
    return result


async def check_held(on: Way, job: str) -> Result:
    """The job waited for what stood in the way of all calls, and said so when it was held long enough."""
    result = await on.result(job)
    assert (result.state, result.error and result.error.code) == ("failed", "model_unavailable")
    assert result.error is not None
    assert result.error.retryable
    assert result.error.details["limit"] == "max_hold_s"
    assert ("waiting", "model") in [(s.state, s.waiting_for) for s in statuses(await on.events(job))]
    return result


TEMPORARY = {
    "throttling": "throttled",
    "throttling_requests": "throttled",
    "daily_tokens": "throttled",
    "service_quota": "throttled",
    "model_not_ready": "model_unavailable",
    "internal": "model_unavailable",
    "unavailable": "model_unavailable",
    "model_timeout": "model_error",
    "model_error": "model_error",
}
ELSEWHERE = {
    "access_denied": "access_denied",
    "not_found": "unknown_model",
    "overflow": "context_overflow",
}
# No candidate can be called: the other one is not asked either.
OF_THE_ACCOUNT = ["expired_token", "unrecognized_client", "invalid_signature", "missing_token"]
HELD_BRIEFLY: dict[str, Any] = {"standard": {"weight": 20, "max_hold_s": 0.5}}
IN_STREAM = {
    "throttling": "throttled",
    "internal": "model_unavailable",
    "unavailable": "model_unavailable",
    "model_stream_error": "model_error",
}


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("fault", "code"), [*TEMPORARY.items(), *ELSEWHERE.items()])
async def test_refusal_before_the_answer_moves_the_job_on(fault: str, code: str, is_stream: bool) -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        emulator.add_rule(model="*claude*", behave=f"fault={fault}")
        job = await on.submit(f'[[text="{SECOND_ANSWER}"]]', model=CHAIN, stream=is_stream)
        await check_failover(on, job, code=code)


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", OF_THE_ACCOUNT)
async def test_refusal_of_the_account_holds_the_job(fault: str, is_stream: bool) -> None:
    async with Emulator() as emulator, way(emulator.url, classes=HELD_BRIEFLY) as on:
        emulator.add_rule(model="*claude*", behave=f"fault={fault}")
        result = await check_held(on, await on.submit(model=CHAIN, stream=is_stream))
        assert {a.model_id for a in result.attempts} == {FIRST_ID}


@pytest.mark.parametrize("place", ["at=0", "at=1", "mid", "stop", "end"])
@pytest.mark.parametrize(("fault", "code"), IN_STREAM.items())
async def test_exception_inside_the_stream_moves_the_job_on(fault: str, code: str, place: str) -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        at = place if "=" in place else f"at={place}"
        emulator.add_rule(model="*claude*", behave=f"fault={fault} {at} chunk_tokens=1")
        job = await on.submit(f'[[text="{SECOND_ANSWER}"]]', model=CHAIN, stream=True)
        await check_failover(on, job, code=code)


@pytest.mark.parametrize("place", ["", "at=0", "at=mid"])
async def test_validation_error_is_final_and_said_once(place: str) -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        emulator.add_rule(model="*claude*", behave=f"fault=validation {place}")
        job = await on.submit("hello", model=CHAIN, stream=True)
        await check_final(on, job, code="invalid_request")
        assert len(emulator.calls) == 1


# One frame of each kind in the middle; the emulator's say the rest.
BROKEN = [*BROKEN_STREAMS, *(f for f in EXCEPTION_FRAMES if "middle" in f.name and f.code != "invalid_request")]


def by_model(raw: RawBedrock, first: Script) -> Script:
    """`first` for the first candidate, a good answer for any other."""

    async def script(writer: asyncio.StreamWriter) -> None:
        path = raw.requests[-1].split(b" ", 2)[1]
        if b"claude" in path:
            return await first(writer)
        if path.endswith(b"converse"):
            return await sends(response(answer([{"text": SECOND_ANSWER}]), connection="close"))(writer)
        return await streams(START, text(SECOND_ANSWER), GOOD[3], STOP, METADATA)(writer)

    return script


@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: fault.name)
async def test_broken_stream_moves_the_job_on(fault: Fault) -> None:
    async with raw_bedrock() as raw, way(raw.url) as on:
        raw.script = by_model(raw, fault.script)
        job = await on.submit(model=CHAIN, stream=True, **(IMPATIENT if fault.limit else {}))
        result = await check_failover(on, job, code=fault.code)
        attempts = {e.attempt for e in await on.events(job)}
        assert (len(attempts) > 1) is fault.is_after_text
        assert result.usage_basis == ("estimated" if fault.is_billed else "observed")


@pytest.mark.parametrize("fault", [f for f in BROKEN if f.is_after_text], ids=lambda fault: fault.name)
async def test_answer_that_broke_off_is_never_called_complete(fault: Fault) -> None:
    async with raw_bedrock() as raw, way(raw.url) as on:
        raw.script = by_model(raw, fault.script)
        job = await on.submit(model=CHAIN, stream=True, on_interrupt="fail", **(IMPATIENT if fault.limit else {}))
        result = await check_final(on, job, code="stream_interrupted")
        assert result.partial is True
        assert result.output.text in ("Hi", "Hel", "Hello", "Hello world")
        assert result.stop_reason is None
        assert len(raw.requests) == 1


@pytest.mark.parametrize("fault", BROKEN_WHOLE, ids=lambda fault: fault.name)
async def test_broken_whole_answer_moves_the_job_on(fault: Fault) -> None:
    async with raw_bedrock() as raw, way(raw.url) as on:
        raw.script = by_model(raw, fault.script)
        await check_failover(on, await on.submit(model=CHAIN), code=fault.code)


@pytest.mark.parametrize("limits", [IMPATIENT, {}], ids=["asked for", "of the operator"])
async def test_whole_answer_that_stalls_moves_the_job_on(limits: dict[str, Any]) -> None:
    async with raw_bedrock() as raw, way(raw.url, jobs={"first_token_timeout_s": 0.6}) as on:
        raw.script = by_model(raw, then_hangs(sends()))
        job = await on.submit(model=CHAIN, params={"max_tokens": 1}, **limits)
        await check_failover(on, job, code="timeout")


HUGE = Oddity(
    "huge delta",
    streams(START, text("Hello"), text(" world"), GOOD[3], event("padding", x="y" * 300_000), *GOOD[4:]),
)


@pytest.mark.parametrize("odd", [*WHOLE_ALL_THE_SAME, HUGE], ids=lambda odd: odd.name)
async def test_oddity_beside_a_whole_answer_does_not_lose_it(odd: Oddity) -> None:
    async with raw_bedrock() as raw, way(raw.url) as on:
        raw.script = by_model(raw, odd.script)
        # Short limits only where it is they that end the call: a busy machine takes its time.
        job = await on.submit(model=CHAIN, stream=True, **(IMPATIENT if odd.stalls else {}))
        result = await on.result(job)
        assert (result.state, result.stop_reason, result.output.text) == ("succeeded", "end_turn", "Hello world")
        assert result.model == FIRST
        assert result.usage_basis == ("observed" if odd.is_counted else "estimated")


async def test_tool_calls_under_one_id_are_told_apart() -> None:
    calls = tool("t1", "one", '{"a":1}') + tool("t1", "two", "{}", 1)
    asked = [{"name": name, "input_schema": {"type": "object"}} for name in ("one", "two")]
    async with raw_bedrock() as raw, way(raw.url) as on:
        raw.script = streams(START, calls, event("messageStop", stopReason="tool_use"), METADATA)
        result = await on.ask(model=CHAIN, stream=True, tools=asked)
        blocks = [b for b in result.output.content if b["type"] == "tool_use"]
        assert (result.state, result.stop_reason) == ("succeeded", "tool_use")
        assert [b["name"] for b in blocks] == ["one", "two"]
        assert len({b["id"] for b in blocks}) == 2


async def test_tool_arguments_that_were_cut_are_no_tool_call() -> None:
    cut = tool("t1", "one", '{"a":')
    asked = [{"name": "one", "input_schema": {"type": "object"}}]
    async with raw_bedrock() as raw, way(raw.url) as on:
        raw.script = streams(START, cut, event("messageStop", stopReason="max_tokens"), METADATA)
        result = await on.ask(model=CHAIN, stream=True, tools=asked)
        assert result.stop_reason == "max_tokens"
        assert not [b for b in result.output.content if b["type"] == "tool_use"]
        assert any("cut" in warning for warning in result.warnings)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "https://127.0.0.1:9"], ids=["refused", "TLS refused"])
async def test_nobody_listens_and_the_job_is_held(url: str) -> None:
    async with way(url, classes=HELD_BRIEFLY) as on:
        await check_held(on, await on.submit(model=CHAIN))


async def test_plain_text_where_tls_was_expected_holds_the_job() -> None:
    async def on_connect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(on_connect, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, way(url, classes=HELD_BRIEFLY) as on:
        await check_held(on, await on.submit(model=CHAIN))


async def test_tls_handshake_that_hangs_holds_the_job() -> None:
    bedrock = {"connect_timeout_s": 0.3}
    async with raw_bedrock() as raw:
        url = raw.url.replace("http:", "https:")
        async with way(url, bedrock=bedrock, classes=HELD_BRIEFLY) as on:
            await check_held(on, await on.submit(model=CHAIN))
