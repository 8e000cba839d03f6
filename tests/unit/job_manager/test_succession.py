"""What a lost owner leaves: whether its end counts against the job, and what its calls took."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cluster.restarts import KEPT_S, MOST_KEPT, Start, with_start
from sidecar.job_manager.claiming import SILENT_FACTOR, counts_against, crash_loop, is_last_chance
from sidecar.job_manager.succession import CallPrice, LastCall, inherited, last_call, with_lost
from sidecar.models.base import rfc3339
from sidecar.models.call import ModelCall
from sidecar.models.event import Delta, Event, EventData, Status
from sidecar.models.job import Carried, JobState
from sidecar.models.result import Attempt, Result, Usage
from sidecar.replica import Replica
from tests.support.bus_world import job_state
from tests.support.fleet import check_all_ended, slow, submit
from tests.support.jetstream.faults import Fault, no_faults
from tests.support.replica import Bench, bench
from tests.support.scripted_model import Turn, says

STATE = job_state(state="running", attempt=2, owner="a", started="2027-01-15T08:00:00.000Z")
LONG = says("x" * 400, pieces=10, first_s=0.1, delta_s=1.0)
RUNNING = Status(state="running", model="m", model_id="m-1", region="us-east-1")


def state(*, silent: int = 0, crashes: int = 0) -> JobState:
    return msgspec.structs.replace(STATE, silent=silent, crashes=crashes)


def event(data: EventData, n: int, *, attempt: int = 2, at: int = 0) -> Event:
    return Event(
        job="j1",
        tenant="acme",
        type="delta" if isinstance(data, Delta) else "status",
        attempt=attempt,
        n=n,
        time=f"2027-01-15T08:00:{at:02d}.000Z",
        metadata={},
        data=data,
    )


def text(said: str) -> Delta:
    return Delta(index=0, text=said)


@given(st.integers(1, 20))
def test_a_job_alone_with_its_crashes_is_blamed_for_each(owners: int) -> None:
    """Whether what it kills is started again or not."""
    for restarts_each in (0, 1):
        now = state()
        for lost in range(owners):
            counts = counts_against(now, restarts=restarts_each * (lost + 1))
            now = state(silent=now.silent + 1, crashes=now.crashes + counts)
        assert now.crashes == owners


@given(st.lists(st.integers(2, 5), min_size=1, max_size=20))
def test_in_a_storm_of_restarts_nobody_is_blamed(restarts_each: list[int]) -> None:
    now, restarts = state(), 0
    for more in restarts_each:
        restarts += more
        now = state(silent=now.silent + 1, crashes=now.crashes + counts_against(now, restarts=restarts))
    assert now.crashes == 0


def test_one_foreign_restart_excuses_one_crash_and_no_more() -> None:
    now = state()
    for restarts in (2, 3, 4, 5):
        now = state(silent=now.silent + 1, crashes=now.crashes + counts_against(now, restarts=restarts))
    assert (now.silent, now.crashes) == (4, 3)


def test_a_job_may_not_lose_owners_for_ever() -> None:
    assert crash_loop(state(silent=3 * SILENT_FACTOR - 1), max_attempts=3) is None
    error = crash_loop(state(silent=3 * SILENT_FACTOR), max_attempts=3)
    assert error is not None
    assert error.code == "crash_loop"


def test_the_last_chance_is_the_one_before_the_end() -> None:
    assert [is_last_chance(state(crashes=n), max_attempts=3) for n in range(4)] == [False, False, True, False]
    assert not is_last_chance(state(crashes=0), max_attempts=1), "a first chance is not the last, though it be one"


def test_the_call_that_was_under_way_is_told_by_the_events() -> None:
    events = [
        event(Status(state="queued"), 1, attempt=0),
        event(RUNNING, 1, attempt=1),
        event(text("of another attempt"), 2, attempt=1),
        event(RUNNING, 1, at=1),
        event(text("four"), 2, at=2),
        event(text("four"), 2, at=2),
        event(text("eighteen letters.."), 3, at=4),
    ]
    assert last_call(events, attempt=2) == LastCall(2, "m-1", "us-east-1", 22, 3000)


@pytest.mark.parametrize("later", [Status(state="retrying"), Status(state="waiting", waiting_for="model")])
def test_an_owner_lost_between_two_calls_had_none_under_way(later: Status) -> None:
    assert last_call([event(RUNNING, 1), event(text("x"), 2), event(later, 3)], attempt=2) is None


def test_an_owner_lost_before_its_call_had_begun_none() -> None:
    assert last_call([], attempt=2) is None
    assert last_call([event(RUNNING, 1, attempt=1)], attempt=2) is None


def test_what_is_carried_goes_into_a_result_that_is_no_run() -> None:
    lost = LastCall(1, "m-1", "us-east-1", 40, 1500)
    carried = with_lost(Carried(), lost, CallPrice(Usage(input_tokens=7, output_tokens=10), 0.25))
    result = inherited(Result(state="cancelled", cost_usd=0.0), carried)
    assert (result.usage, result.usage_basis, result.cost_usd) == (
        Usage(input_tokens=7, output_tokens=10),
        "estimated",
        0.25,
    )
    (attempt,) = result.attempts
    assert (attempt.outcome, attempt.attempt, attempt.elapsed_ms) == ("crashed", 1, 1500)
    assert "attempt 1" in result.warnings[0]
    assert inherited(result, None) is result


def test_an_unknown_price_makes_the_whole_cost_unknown() -> None:
    lost = LastCall(1, "m-1", "us-east-1", 40, 1500)
    assert with_lost(Carried(), lost, CallPrice(Usage(), None)).cost_usd is None
    assert with_lost(Carried(cost_usd=None), lost, CallPrice(Usage(), 1.0)).cost_usd is None


def test_an_ordinary_attempt_says_nothing_of_crashes() -> None:
    said = msgspec.to_builtins(Attempt(model_id="m", region="r", outcome="ok"))
    assert set(said) == {"model_id", "region", "outcome", "error", "elapsed_ms"}


def test_the_list_of_starts_is_bounded_in_number_and_age() -> None:
    starts: tuple[Start, ...] = ()
    for i in range(MOST_KEPT + 50):
        starts = with_start(starts, Start(float(i), f"r{i}"))
    assert len(starts) == MOST_KEPT
    assert starts[-1].member == f"r{MOST_KEPT + 49}"
    assert with_start(starts, Start(2 * KEPT_S, "late")) == (Start(2 * KEPT_S, "late"),)


async def test_replicas_that_start_together_are_all_in_the_list() -> None:
    async with bench() as b:
        began = b.clock.now()
        await b.fleet("one", "two", "three")
        await b.clock.advance(3)
        assert await b.clock.run(b.leader.cluster.starts_since(began)) == 3
        assert await b.clock.run(b.leader.cluster.starts_since(b.clock.now())) == 0


def owner_of(b: Bench, job: str, attempt: int) -> Replica | None:
    """Who has begun a call of this attempt."""
    return next((r for r in b.replicas if r.jobs.attempt_of("acme", job) == attempt), None)


async def kill_owner(b: Bench, job: str, attempt: int) -> None:
    await b.until(lambda: owner_of(b, job, attempt) is not None, limit_s=60)
    await b.clock.advance(0.3)
    owner = owner_of(b, job, attempt)
    assert owner is not None
    b.kill(owner)


async def test_a_restart_storm_sends_no_job_to_the_dead_letters() -> None:
    """The job loses five owners, and each time another replica that never had it is restarted as well."""
    async with bench(slow(10.0)) as b:
        await b.fleet("one", "two", "three")
        job = await b.submit(job="luckless", params={"max_tokens": 10})
        for i in range(5):
            await kill_owner(b, job, i + 1)
            b.kill(b.replicas[0])
            await b.fleet(f"a{i}", f"b{i}")
        result = await b.result(job, limit_s=200)
        assert result.state == "succeeded"
        assert [a.outcome for a in result.attempts] == ["crashed"] * 5 + ["ok"]
        stored = await b.stored(job)
        assert stored is not None
        assert (stored.state.silent, stored.state.crashes, stored.state.carried) == (5, 0, None)


async def test_an_owner_that_died_before_its_call_is_not_held_against_the_job() -> None:
    async with bench(slow(3.0)) as b:
        await b.fleet("one", "two")
        mute = {"one", "two", "n0", "n1", "n2"}
        b.bus.faults = lambda op: (
            Fault(lose="request") if op.name == "events.publish" and op.replica in mute else Fault()
        )
        job = await b.submit(job="j1", params={"max_tokens": 10})
        for i in range(4):
            await b.until(lambda i=i: owner_of(b, job, i + 1) is not None, limit_s=60)  # type: ignore[misc]
            owner = owner_of(b, job, i + 1)
            assert owner is not None
            b.kill(owner)
            await b.fleet(f"n{i}")
        b.bus.faults = no_faults
        result = await b.result(job, limit_s=200)
        assert (result.state, [a.outcome for a in result.attempts]) == ("succeeded", ["ok"])
        stored = await b.stored(job)
        assert stored is not None
        assert (stored.state.silent, stored.state.crashes) == (4, 0)


async def test_those_who_go_down_with_a_poisonous_job_are_not_given_up_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One process after the other, each of which has all jobs, dies with the call of one of them."""
    async with bench() as b:
        poisoned = 0

        def turn(call: ModelCall) -> Turn:
            nonlocal poisoned
            poisoned += call.params.max_tokens == 13
            return says("ok", first_s=4.0)

        b.model._choose = turn
        await b.fleet("first", slots=8)
        innocent = await submit(b, 3)
        await b.submit(job="poison", params={"max_tokens": 13})
        innocent += await submit(b, 3)
        for i in range(3):
            await b.until(lambda i=i: poisoned == i + 1, limit_s=100)  # type: ignore[misc]
            await b.clock.advance(0.3)
            b.kill(b.replicas[0])
            await b.fleet(f"new{i}", slots=8)
        poison = await b.result("poison", limit_s=200)
        assert poison.error is not None
        assert poison.error.code == "crash_loop"
        assert [a.attempt for a in poison.attempts if a.outcome == "crashed"] == [1, 2, 3]
        await check_all_ended(b, innocent)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_crashed_attempts_call_is_in_the_result_and_said_to_be_estimated() -> None:
    async with bench() as b:
        b.model._default = LONG
        await b.fleet("one", "two")
        job = await b.submit(job="j1", stream=True)
        await b.until(lambda: owner_of(b, job, 1) is not None, limit_s=60)
        await b.clock.advance(5.5)
        owner = owner_of(b, job, 1)
        assert owner is not None
        b.kill(owner)
        result = await b.result(job, limit_s=200)
        assert result.state == "succeeded"
        lost, made = result.attempts
        assert (lost.outcome, lost.attempt, made.outcome) == ("crashed", 1, "ok")
        assert lost.model_id == made.model_id
        assert isinstance(lost.usage, Usage)
        assert 40 <= lost.usage.output_tokens <= 70, "what it had said, at four characters a token"
        assert lost.usage.input_tokens > 0
        assert result.usage.output_tokens > lost.usage.output_tokens
        assert result.usage_basis == "estimated"
        assert isinstance(lost.cost_usd, float)
        assert result.cost_usd is not None
        assert result.cost_usd > lost.cost_usd > 0
        assert any("attempt 1" in warning for warning in result.warnings)


async def test_what_a_handed_back_job_has_cost_is_in_its_result() -> None:
    async with bench() as b:
        b.model._default = LONG
        await b.fleet("one", "two")
        job = await b.submit(job="j1", stream=True)
        await b.until(lambda: owner_of(b, job, 1) is not None, limit_s=60)
        await b.clock.advance(5.5)
        owner = owner_of(b, job, 1)
        assert owner is not None
        await b.stop(owner)
        back = await b.stored(job)
        assert back is not None
        assert back.state.carried is not None
        first = back.state.carried.usage
        assert first.output_tokens > 0
        result = await b.result(job, limit_s=200)
        assert [a.outcome for a in result.attempts] == ["cancelled", "ok"]
        assert result.usage.output_tokens > first.output_tokens
        assert result.usage_basis == "estimated"
        stored = await b.stored(job)
        assert stored is not None
        assert (stored.state.silent, stored.state.crashes, stored.state.carried) == (0, 0, None)


async def test_a_job_that_ends_without_running_again_still_says_what_it_took() -> None:
    async with bench() as b:
        b.model._default = LONG
        await b.fleet("one")
        job = await b.submit(job="j1", stream=True, deadline=rfc3339(b.clock.now() + 9))
        await b.clock.advance(5)
        b.kill(b.replicas[0])
        await b.clock.advance(10)
        await b.fleet("two")
        result = await b.result(job, limit_s=200)
        assert (result.state, result.usage_basis) == ("expired", "estimated")
        assert [a.outcome for a in result.attempts] == ["crashed"]
        assert result.usage.output_tokens > 0


async def test_a_cancelled_job_whose_owner_died_says_what_it_took(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        b.model._default = LONG
        await b.fleet("one", "two")
        job = await b.submit(job="j1", stream=True)
        await kill_owner(b, job, 1)
        await (await b.outside()).store.mark_cancelled("acme", job)
        result = await b.result(job, limit_s=200)
        assert (result.state, [a.outcome for a in result.attempts]) == ("cancelled", ["crashed"])
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
