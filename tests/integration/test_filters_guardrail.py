"""Guardrails over HTTP: ApplyGuardrail by both transports, and the filter that asks it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from sidecar.adapters.bedrock.manager import BedrockManager
from sidecar.config.filters import GuardrailOptions
from sidecar.config.settings import BedrockSettings
from sidecar.emulator import Emulator
from sidecar.errors import AccessDenied, Throttled
from sidecar.models.filtering import FilterContext, GuardrailVerdict
from sidecar.models.request import Guardrail
from sidecar.response_formatter.filters.guardrail import GuardrailFilter
from sidecar.response_formatter.formatter import guardrail_reports
from tests.support.bedrock_calls import TRANSPORTS, call, manager, profile

CONTEXT = FilterContext(tenant="acme", job="job1", job_class="standard")


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator() as opened:
        yield opened


@pytest.fixture(params=TRANSPORTS)
async def client(request: pytest.FixtureRequest, emulator: Emulator) -> AsyncIterator[BedrockManager]:
    async with manager(emulator.url, request.param) as opened:
        yield opened


async def judged(client: BedrockManager, text: str) -> GuardrailVerdict:
    return await client.apply_guardrail(
        "arn:aws:bedrock:us-east-1:123456789012:guardrail/gr1",
        version="1",
        text=text,
        source="OUTPUT",
        region="us-east-1",
        timeout_s=30.0,
    )


async def test_a_guardrail_passes_masks_and_blocks(client: BedrockManager) -> None:
    passed = await judged(client, "nothing to see")
    assert (passed.intervened, passed.text, passed.kinds) == (False, "nothing to see", {})
    masked = await judged(client, "I am [[guardrail=mask]]")
    assert (masked.intervened, masked.is_blocked, masked.text) == (True, False, "I am {NAME}")
    assert masked.kinds == {"name": 1}
    blocked = await judged(client, "[[guardrail=block]]")
    assert (blocked.intervened, blocked.is_blocked, blocked.kinds) == (True, True, {"deny": 1})


async def test_refusals_are_errors_and_nothing_passes_unjudged(client: BedrockManager, emulator: Emulator) -> None:
    emulator.add_rule(operation="apply", behave="fault=access_denied")
    with pytest.raises(AccessDenied):
        await judged(client, "anything")


class Busy:
    """A transport that is throttled `times` times."""

    def __init__(self, times: int) -> None:
        self.left = times

    async def apply_guardrail(self, *_: Any) -> bytes:
        self.left -= 1
        if self.left >= 0:
            raise Throttled("too many", retry_after=0.001)
        return b'{"action": "NONE"}'

    async def close(self) -> None: ...


async def test_short_trouble_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    client = BedrockManager(BedrockSettings())
    monkeypatch.setattr(client, "_transport", Busy(2))
    assert (await judged(client, "anything")).intervened is False
    monkeypatch.setattr(client, "_transport", Busy(3))
    with pytest.raises(Throttled):
        await judged(client, "anything")


async def test_the_filter_shows_what_the_guardrail_masked(client: BedrockManager) -> None:
    guardrail = GuardrailFilter(GuardrailOptions(id="gr1"), models=client, region="us-east-1")
    answer = await guardrail.apply("I am [[guardrail=mask]]", CONTEXT)
    assert (answer.text, answer.kinds) == ("I am {NAME}", {"name": 1})
    assert (await guardrail.apply("  \n", CONTEXT)).kinds == {}


async def test_the_trace_of_a_guardrail_inside_a_call_becomes_reports(client: BedrockManager) -> None:
    of = profile(model_id="amazon.nova-lite-v1:0", family="nova")
    reply = await client.converse(
        call('[[guardrail=mask text="Ann is here"]]', of=of, guardrail=Guardrail(id="gr1", version="1"))
    )
    (report,) = guardrail_reports(reply.guardrail_trace)
    assert (report.name, report.action, report.on, report.kinds) == (
        "guardrail:gr1",
        "redact",
        "output",
        {"name": 1},
    )
    assert guardrail_reports(None) == guardrail_reports({}) == guardrail_reports({"guardrail": None}) == ()
