"""A process that dies at a named step of a job's way: the job, and those beside it, still end exactly once."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.audit import Findings
from tests.support.chaos import fault_environment, fleet, keep_up
from tests.support.emulator import EmulatorProcess
from tests.support.fault_points import STEPS
from tests.support.load import Load, load
from tests.support.nats_server import AccountPool

# Fleets side by side, each of which goes through some of the steps: a step takes as long as a lease lives.
LINES = 3
# Jobs beside the one whose step it is; in the step of the queued record they fill all slots.
BESIDE = 3
BESIDE_QUEUED = 8
SLOTS = 2
# The model had not been asked before these, and the answer was safe before those.
BEFORE_THE_CALL = ("read", "admitted", "queued", "claimed")
PAID = ("committed", "result", "deleted")


class Outcome(NamedTuple):
    findings: Findings
    was_hit: bool
    calls: int


@pytest.fixture(scope="module")
def outcomes(
    nats_server: AccountPool, bedrock: EmulatorProcess, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    """Each step, gone through once."""

    async def go_through() -> dict[str, Outcome]:
        lines = [
            line(nats_server.take().url, bedrock, STEPS[i::LINES], tmp_path_factory.mktemp("latches"))
            for i in range(LINES)
        ]
        return {step: outcome for found in await asyncio.gather(*lines) for step, outcome in found.items()}

    return asyncio.run(go_through())


async def line(url: str, bedrock: EmulatorProcess, steps: Sequence[str], latches: Path) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    settings = {"scheduler": {"slots": SLOTS, "interactive_reserve": 0}, "module": "tests.support.fault_points"}
    async with fleet(url, bedrock, size=2, environment=fault_environment(latches), **settings) as replicas:
        keeping = asyncio.create_task(keep_up(replicas))
        try:
            for step in steps:
                async with load(url, bedrock, tenant=f"at-{step}") as jobs:
                    findings = await die(jobs, step)
                    found[step] = Outcome(findings, (latches / step).exists(), jobs.calls[f"at-{step}"])
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})
    return found


async def die(jobs: Load, step: str) -> Findings:
    for i in range(BESIDE_QUEUED if step == "queued" else BESIDE):
        await jobs.submit(f"{step}-beside-{i}", behave="tokens=20 tps=20")
    await jobs.submit(f"at-{step}", behave="tokens=40 tps=40")
    await jobs.until_ended()
    return await jobs.settle()


@pytest.mark.parametrize("step", STEPS)
def test_a_death_at_this_step_loses_nothing(outcomes: dict[str, Outcome], step: str) -> None:
    findings, was_hit, calls = outcomes[step]
    assert was_hit, "the step was never reached"
    assert not findings.problems, str(findings)
    assert findings.states == {"succeeded": findings.jobs}
    if step in BEFORE_THE_CALL or step in PAID:
        assert calls == 1
    if step in ("called", "mid-stream", "answered"):
        assert calls == 2


async def test_a_job_that_kills_its_owners_is_given_up_and_kept(
    nats_server: AccountPool, bedrock: EmulatorProcess, tmp_path: Path
) -> None:
    """After `max_attempts` deaths it ends as `crash_loop`, its request is in LLM_DEAD, and others go on."""
    url = nats_server.take().url
    settings = {"jobs": {"max_attempts": 2}, "module": "tests.support.fault_points"}
    async with (
        fleet(url, bedrock, size=2, environment=fault_environment(tmp_path), **settings) as replicas,
        load(url, bedrock, tenant="poison") as jobs,
    ):
        keeping = asyncio.create_task(keep_up(replicas))
        try:
            await jobs.submit("always-running", behave="tokens=2")
            await jobs.until_ended()
            await jobs.submit("later", behave="tokens=2")
            await jobs.until_ended()
            found = await jobs.settle()
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})
    assert not found.problems, str(found)
    assert found.states == {"failed": 1, "succeeded": 1}
    assert found.dead == 1
