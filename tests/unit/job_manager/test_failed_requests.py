"""What is kept of jobs that failed: which requests, for how long, and that no end waits for it."""

import logging
from typing import Any

import pytest

from sidecar.errors import Permanent, SidecarError
from sidecar.models.result import Result
from tests.support.jetstream.faults import NO_FAULT, Fault, Operation
from tests.support.replica import Bench, bench
from tests.support.scripted_model import ScriptedModel, fails
from tests.support.virtual_time import VirtualClock

DENIED = Permanent("no access to the model", code="access_denied")


def model(error: SidecarError = DENIED) -> ScriptedModel:
    clock = VirtualClock()
    return ScriptedModel(clock, default=fails(error))


async def letters(b: Bench, tenant: str = "acme") -> list[tuple[str, str]]:
    dead = (await b.outside()).dead
    return [(letter.job, letter.error) for letter in await b.clock.run(dead.list(tenant))]


async def failed(b: Bench, job: str, **more: Any) -> Result:
    await b.submit(job=job, **more)
    result = await b.result(job, tenant=more.get("tenant", "acme"))
    await b.until(lambda: b.requests() == 0)
    return result


async def test_the_request_of_a_failed_job_is_kept_for_its_time() -> None:
    async with bench(model()) as b:
        await b.replica(retention={"dead_s": 60})
        assert (await failed(b, "j1", metadata={"ticket": "42"})).state == "failed"
        (letter,) = await b.clock.run((await b.outside()).dead.list("acme"))
        assert (letter.job, letter.error, letter.request.lane) == ("j1", "access_denied", ("acme", "standard"))
        assert b'"ticket"' in letter.request.payload
        assert letter.reason
        await b.clock.advance(62)
        assert await letters(b) == []


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"retention": {"dead_s": 0}}, DENIED),
        ({"tenants": {"acme": {"keep_failed": False}}}, DENIED),
        ({}, Permanent("the guardrail stopped it", code="guardrail_blocked")),
        ({"retention": {"dead_failed_bytes": 10}}, DENIED),
    ],
    ids=["none are kept", "not this tenant's", "never what a guardrail stopped", "it does not fit"],
)
async def test_what_is_not_kept_ends_all_the_same(settings: dict[str, Any], error: SidecarError) -> None:
    async with bench(model(error)) as b:
        replica = await b.replica(**settings)
        assert (await failed(b, "j1")).state == "failed"
        assert await letters(b) == []
        assert replica.jobs.keeper.counts["not_kept"] == ("dead_failed_bytes" in str(settings))


async def test_jobs_that_end_otherwise_leave_nothing() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock)) as b:
        await b.replica()
        assert (await failed(b, "fine")).state == "succeeded"
        assert (await failed(b, "late", deadline="2020-01-01T00:00:00Z")).state in ("expired", "rejected")
        assert await letters(b) == []


async def test_no_end_waits_long_for_a_request_that_cannot_be_kept(caplog: pytest.LogCaptureFixture) -> None:
    """The first one waits for a moment, and none after it for a while."""

    def faults(operation: Operation) -> Fault:
        return Fault(lose="ack") if operation.name.startswith("dead.") else NO_FAULT

    async with bench(model()) as b:
        replica = await b.replica()
        b.bus.faults = faults
        began = b.clock.monotonic()
        with caplog.at_level(logging.WARNING):
            for number in range(20):
                assert (await failed(b, f"j{number}")).state == "failed"
        assert b.clock.monotonic() - began < 4.0
        assert "is not kept" in caplog.text
        assert replica.jobs.keeper.counts["not_kept"] == 20


async def test_a_bus_that_refuses_a_request_is_asked_again_for_the_next() -> None:
    refusing = True

    def faults(operation: Operation) -> Fault:
        if refusing and operation.name == "dead.put":
            return Fault(refusal=(400, 10166, "per-message TTL is disabled"))
        return NO_FAULT

    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=fails(DENIED))) as b:
        await b.replica()
        b.bus.faults = faults
        await failed(b, "j1")
        refusing = False
        await failed(b, "j2")
        assert await letters(b) == [("j2", "access_denied")]
