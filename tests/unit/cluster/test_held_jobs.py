"""Jobs while nothing can be called through no fault of theirs: held, not failed, and begun again when one can.

In virtual time, over the bus in memory; the account refuses, an endpoint is away, or models answer 503.
"""

import re
from collections import Counter
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from sidecar.cli.top_view import screen
from sidecar.errors import AccountRefused, ModelUnavailable, SidecarError, Unreachable
from sidecar.models.call import ModelCall
from sidecar.models.content import ToolUseBlock
from sidecar.models.event import Status
from sidecar.telemetry.hold_metrics import HoldFigures
from sidecar.telemetry.metrics import Scrape, render
from tests.support.replica import MODEL, PLENTY, Bench, bench
from tests.support.scripted_model import ScriptedModel, Turn, calls_tools, fails, says
from tests.support.tool_jobs import Providers
from tests.support.virtual_time import VirtualClock

OTHER = "nova-lite"
MODELS = {**PLENTY, OTHER: PLENTY[MODEL]}


def expired() -> SidecarError:
    return AccountRefused("expired", cause="credentials_expired")


def away() -> SidecarError:
    return Unreachable("no connection")


def busy() -> SidecarError:
    return ModelUnavailable("busy", details={"http_status": 503})


class Outage:
    """A model that fails by `error` while `is_on`, those called `names` or all; `failed` counts such calls."""

    def __init__(self, error: Any, *names: str) -> None:
        self.error = error
        self.names = names
        self.is_on = True
        self.failed: list[float] = []
        self.clock = VirtualClock()
        self.model = ScriptedModel(self.clock, self.turn)

    def turn(self, call: ModelCall) -> Turn:
        if self.is_on and (not self.names or call.candidate.profile.alias in self.names):
            self.failed.append(self.clock.monotonic())
            return fails(self.error())
        return says("ok", first_s=0.1)


async def states(b: Bench, jobs: dict[str, str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for job, tenant in jobs.items():
        stored = await b.stored(job, tenant=tenant)
        found[stored.state.state if stored is not None else "unread"] += 1
    return found


async def ended(b: Bench, jobs: dict[str, str], *, limit_s: float) -> Counter[str]:
    """How they have ended, after as long as that takes."""
    results = [await b.result(job, tenant=tenant, limit_s=limit_s) for job, tenant in jobs.items()]
    return Counter(result.state for result in results)


@pytest.mark.parametrize("replicas", [("one",), ("one", "two", "three")])
@pytest.mark.parametrize("error", [expired, away, busy])
async def test_an_outage_longer_than_any_timeout_fails_no_job_and_asks_seldom(
    error: Any, replicas: tuple[str, ...]
) -> None:
    outage = Outage(error)
    async with bench(outage.model) as b:
        await b.fleet(*replicas, slots=12 // len(replicas), models=MODELS)
        jobs = {f"j{n}": f"t{n % 5}" for n in range(40)}
        for job, tenant in jobs.items():
            await b.submit(tenant=tenant, job=job, job_class="batch", timeout_s=20)
        await b.clock.advance(400)
        assert set(await states(b, jobs)) <= {"queued", "unread"}
        began = outage.failed[0]
        late = Counter(
            call.candidate.profile.alias
            for call, at in zip(b.model.calls, outage.failed, strict=True)
            if at > began + 60
        )
        assert max(late.values()) <= 13, "each cause is asked for once in thirty seconds, whoever asks"
        assert all(replica.outage() for replica in b.replicas)
        outage.is_on, back_at = False, b.clock.monotonic()
        assert await ended(b, jobs, limit_s=60) == {"succeeded": 40}
        assert b.clock.monotonic() - back_at <= 40
        await b.clock.advance(130)
        assert [replica.outage() for replica in b.replicas] == [None] * len(replicas)


async def test_a_look_without_a_call_ends_the_hold_within_two_seconds() -> None:
    outage = Outage(away)
    outage.model.is_mended = lambda cause: not outage.is_on
    async with bench(outage.model) as b:
        await b.fleet("one", models=MODELS)
        job = await b.submit(timeout_s=20)
        await b.clock.advance(300)
        stored = await b.stored(job)
        assert stored is not None
        assert (stored.state.state, stored.state.attempt) != ("queued", 0)
        outage.is_on, back_at = False, b.clock.monotonic()
        result = await b.result(job)
        assert b.clock.monotonic() - back_at <= 2.2
        assert result.state == "succeeded"
        said = [e.data for e in await b.events(job) if isinstance(e.data, Status)]
        waits = [status for status in said if status.state == "waiting"]
        assert {(status.waiting_for, status.reason) for status in waits} == {
            ("model", "Bedrock cannot be reached")
        }


async def test_an_interactive_job_is_held_for_thirty_seconds_and_then_told_why() -> None:
    outage = Outage(expired)
    async with bench(outage.model) as b:
        await b.fleet("one", models=MODELS)
        # More than a window takes.
        jobs = [await b.submit(job_class="interactive") for _ in range(60)]
        results = [await b.result(job, limit_s=40) for job in jobs]
        for result in results:
            assert result.state == "failed"
            assert result.error is not None
            assert (result.error.code, result.error.retryable) == ("model_unavailable", True)
            assert result.error.details["limit"] == "max_hold_s"
            assert "have expired" in result.error.message
        assert 29 <= b.clock.monotonic() - outage.failed[0] <= 33


async def test_jobs_for_other_models_pass_a_thousand_held_ones_of_their_lane() -> None:
    outage = Outage(busy, MODEL)
    async with bench(outage.model) as b:
        await b.fleet("one", models=MODELS)
        for n in range(3):
            await b.submit(job=f"first{n}", model=[MODEL])
        await b.clock.advance(5)
        for n in range(1000):
            await b.submit(job=f"held{n}", model=[MODEL])
        await b.clock.advance(5)
        began = b.clock.monotonic()
        result = await b.result(await b.submit(model=OTHER))
        assert result.state == "succeeded"
        assert b.clock.monotonic() - began <= 2
        outage.is_on = False
        assert (await b.result("held999", limit_s=120)).state == "succeeded"


async def test_a_job_with_tools_goes_on_from_its_journal_and_holds_no_slot() -> None:
    """The account is refused between its turns: the tool is not called again, and its clock stands."""
    clock = VirtualClock()
    is_away = [False]

    def turn(call: ModelCall) -> Turn:
        if is_away[0]:
            return fails(expired())
        is_first = len(call.messages) == 1
        is_away[0] = is_first
        return calls_tools(ToolUseBlock(id="u1", name="quick", input={})) if is_first else says("done")

    async with bench(ScriptedModel(clock, turn)) as b:
        (replica,) = await b.fleet("one", models=MODELS)
        providers = Providers(b)
        await providers.add("quick")
        job = await b.submit(tools=["quick"], timeout_s=30)
        await clock.advance(200)
        stored = await b.stored(job)
        assert stored is not None
        assert stored.state.state == "queued"
        assert replica.scheduler.ledger.slots_used == 0
        is_away[0] = False
        result = await b.result(job, limit_s=60)
        assert (result.state, result.output.text) == ("succeeded", "done")
        first_turns = [call for call in b.model.calls if len(call.messages) == 1]
        assert len(first_turns) == 1


async def test_a_cause_of_one_replica_takes_it_out_and_its_jobs_are_handed_on() -> None:
    """Two of three can call: nobody's job notices but by a new attempt."""
    outage = Outage(expired)
    outage.is_on = False
    async with bench(outage.model) as b:
        replicas = await b.fleet("one", "two", "three", slots=4, models=MODELS)
        sick = b.followers[0]
        real, caller = sick._ports.models, sick.requests._work._turns._caller  # type: ignore[attr-defined]

        class Refused:
            look = real.look

            async def converse(self, call: ModelCall) -> Any:
                raise expired()

        caller._models = Refused()
        jobs = {f"j{n}": "acme" for n in range(30)}
        for job in jobs:
            await b.submit(job=job, timeout_s=20)
        assert await ended(b, jobs, limit_s=20) == {"succeeded": 30}
        assert [replica.name for replica in replicas if replica.outage()] == [sick.name]
        assert sick.troubles.began == {"credentials_expired": 1}


async def test_what_is_held_for_longer_than_documents_are_kept_is_never_forgotten() -> None:
    """Documents are kept for 60 s, the hold takes 300: states, journals and marks are there all the time."""
    clock = VirtualClock()
    is_away = [False]

    def turn(call: ModelCall) -> Turn:
        if is_away[0]:
            return fails(expired())
        is_first = bool(call.tools) and len(call.messages) == 1
        is_away[0] = is_first
        return calls_tools(ToolUseBlock(id="u1", name="quick", input={})) if is_first else says("done")

    async with bench(ScriptedModel(clock, turn)) as b:
        await b.fleet("one", models=MODELS, retention={"state_s": 60, "events_s": 60}, jobs={"timeout_s": 50})
        await Providers(b).add("quick")
        begun = await b.submit(tools=["quick"], timeout_s=30)
        await clock.advance(2)
        waiting = [await b.submit(job=f"w{n}") for n in range(5)]
        for _ in range(60):
            await clock.advance(5)
            for job in (begun, *waiting):
                stored = await b.stored(job)
                assert stored is not None
                assert stored.state.state in ("queued", "running")
        is_away[0] = False
        result = await b.result(begun, limit_s=60)
        assert (result.state, result.output.text) == ("succeeded", "done")
        assert len([call for call in b.model.calls if call.tools and len(call.messages) == 1]) == 1


async def test_a_hold_is_told_by_health_metrics_statistics_and_one_line_each_at_its_start_and_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = Outage(expired)
    async with bench(outage.model) as b:
        (replica,) = await b.fleet("one", models=MODELS)
        jobs = [await b.submit() for _ in range(5)]
        await b.clock.advance(90)

        def page() -> bytes:
            figures = HoldFigures(*replica.troubles.figures)
            return render(Scrape(replica.stats(), replica.tally, 0.0, True, True, holds=figures))

        age = re.search(rb'sidecar_hold_age_seconds{cause="credentials_expired"} ([0-9.]+)', page())
        assert age is not None
        assert float(age[1]) > 60, "the alert SidecarCallsHeld fires"
        assert b'sidecar_hold_age_seconds{cause="unreachable"} 0.0' in page()
        assert b'sidecar_holds_total{cause="credentials_expired"} 1.0' in page()
        assert "aws sso login" in (replica.outage() or "")
        (hold,) = replica.stats().holds
        assert hold.cause == "credentials_expired"
        with Console(width=300, record=True, file=StringIO()) as console:
            console.print(screen({"one": replica.stats()}, most=5))
        assert "HELD: the sidecar's AWS credentials have expired" in console.export_text()
        outage.is_on = False
        for job in jobs:
            assert (await b.result(job, limit_s=60)).state == "succeeded"
        assert b'sidecar_hold_age_seconds{cause="credentials_expired"} 0.0' in page(), "it ends"
        assert (replica.outage(), replica.stats().holds) == (None, ())
        told = [(r.levelname, r.message) for r in caplog.records if r.name == "sidecar.conversation.troubles"]
        assert told == [
            ("ERROR", "no calls can be made: jobs are held"),
            ("WARNING", "calls can be made again: held jobs go on"),
        ]
