"""Replicas that die, fall silent or are cut off, in virtual time: nothing is lost, nobody speaks for another."""

import msgspec
import pytest

from sidecar.models.job import JobState
from sidecar.replica import Replica
from tests.support.fleet import check_all_ended, slow, submit
from tests.support.jetstream.faults import Fault, Operation
from tests.support.replica import Bench, bench


async def states_of(b: Bench, jobs: list[str]) -> list[JobState]:
    return [stored.state for job in jobs if (stored := await b.stored(job))]


async def test_a_dead_workers_jobs_run_again_within_ten_seconds() -> None:
    async with bench(slow(20.0)) as b:
        await b.fleet("one", "two", "three")
        jobs = await submit(b, 6)
        await b.clock.advance(1)
        b.kill(b.followers[0])
        took = await b.until(lambda: sum(r.requests.running for r in b.replicas) == 6, limit_s=30)
        assert took <= 10
        await check_all_ended(b, jobs)
        states = await states_of(b, jobs)
        assert sorted(state.attempt for state in states) == [1, 1, 1, 1, 2, 2]
        assert sorted(state.crashes for state in states) == [0, 0, 0, 0, 1, 1]
        assert len(b.model.calls) == 8


async def test_dispatch_resumes_within_eight_seconds_of_the_schedulers_death() -> None:
    async with bench(slow(30.0)) as b:
        await b.fleet("one", "two", "three")
        jobs = await submit(b, 6)
        await b.clock.advance(1)
        b.kill(b.leader)
        late = await b.submit(params={"max_tokens": 10})
        took = await b.until(lambda: len(b.model.calls) >= 7, limit_s=30)
        assert took <= 8
        took += await b.until(lambda: sum(r.requests.running for r in b.replicas) == 7, limit_s=30)
        assert took <= 10
        await check_all_ended(b, [*jobs, late])
        assert len(b.model.calls) == 9, "what ran elsewhere was not run again"


async def test_the_last_of_three_replicas_does_all_the_work() -> None:
    async with bench(slow(8.0)) as b:
        await b.fleet("one", "two", "three")
        jobs = await submit(b, 6)
        await b.clock.advance(1)
        b.kill(b.leader)
        await b.clock.advance(3)
        b.kill(b.replicas[0])
        await check_all_ended(b, jobs)


async def test_after_all_have_died_the_next_process_finishes_everything() -> None:
    async with bench(slow(8.0)) as b:
        for replica in await b.fleet("one", "two"):
            if replica is b.replicas[0]:
                jobs = await submit(b, 6)
                await b.clock.advance(1)
        for replica in list(b.replicas):
            b.kill(replica)
        await b.clock.advance(1)
        await b.fleet("three")
        await check_all_ended(b, jobs)


async def test_a_worker_that_was_cut_off_cannot_speak_for_its_jobs_any_more() -> None:
    async with bench(slow(20.0)) as b:
        await b.fleet("one", "two")
        jobs = await submit(b, 4, stream=True)
        await b.clock.advance(1)
        cut_off = b.followers[0]
        b.bus.partition(cut_off.name)
        await b.clock.advance(8)
        assert b.leader.requests.running == 4
        b.bus.heal(cut_off.name)
        await b.until(lambda: cut_off.requests.running == 0, limit_s=5)
        await check_all_ended(b, jobs)
        assert b.model.open_calls == 0
        assert b.model.broken_off == 2, "the calls of the old owner were closed"


async def test_a_short_partition_of_a_worker_changes_nothing() -> None:
    async with bench(slow(20.0)) as b:
        await b.fleet("one", "two")
        jobs = await submit(b, 4)
        await b.clock.advance(1)
        cut_off = b.followers[0]
        b.bus.partition(cut_off.name)
        await b.clock.advance(3)
        b.bus.heal(cut_off.name)
        await check_all_ended(b, jobs)
        assert len(b.model.calls) == 4
        assert {state.attempt for state in await states_of(b, jobs)} == {1}


async def test_a_scheduler_that_is_cut_off_stops_granting_before_another_begins() -> None:
    async with bench(slow(20.0)) as b:
        await b.fleet("one", "two", "three")
        jobs = await submit(b, 6)
        await b.clock.advance(1)
        old = b.leader
        b.bus.partition(old.name)
        others = [r for r in b.replicas if r is not old]

        def somebody_else() -> bool:
            assert not (old.cluster.term and any(r.cluster.term for r in others))
            return any(r.cluster.term for r in others)

        took = await b.until(somebody_else, limit_s=30)
        assert took < 8
        b.bus.heal(old.name)
        late = await submit(b, 3)
        await check_all_ended(b, jobs + late)


async def test_a_worker_that_was_cut_off_before_it_could_claim_lets_the_job_go() -> None:
    async with bench(slow(5.0)) as b:
        await b.fleet("one", "two")
        b.bus.faults = lambda op: (
            Fault(lose="request") if op.replica == b.followers[0].name and op.name == "jobs.create" else Fault()
        )
        jobs = await submit(b, 4)
        await b.clock.advance(2)
        b.kill(b.followers[0])
        b.bus.faults = lambda op: Fault()
        await check_all_ended(b, jobs)
        assert {state.crashes for state in await states_of(b, jobs)} == {0}


@pytest.mark.parametrize("lost", ["request", "ack"])
async def test_a_grant_without_an_answer_is_given_again(lost: str) -> None:
    async with bench(slow(5.0)) as b:
        await b.fleet("one", "two")
        count = 0

        def faults(op: Operation) -> Fault:
            nonlocal count
            if ".sys.offer." in op.subject:
                count += 1
                if count <= 2:
                    return Fault(lose=lost)  # type: ignore[arg-type]
            return Fault()

        b.bus.faults = faults
        jobs = await submit(b, 4)
        await check_all_ended(b, jobs)
        assert len(b.model.calls) == 4
        assert {(state.attempt, state.crashes) for state in await states_of(b, jobs)} == {(1, 0)}


async def test_operations_that_get_lost_leak_no_slot() -> None:
    async with bench(slow(2.0)) as b:
        await b.fleet("one", "two")
        b.bus.faults = lambda op: Fault(lose="request") if ".sys.ops." in op.subject else Fault()
        jobs = await submit(b, 8)
        await check_all_ended(b, jobs)


async def test_hints_that_come_twice_or_late_or_never_change_nothing() -> None:
    async with bench(slow(2.0)) as b:
        await b.fleet("one", "two", "three")
        delays = [(0.0, 0.0), (0.7,), (), (0.0, 1.5)]
        count = 0

        def deliveries(_: object) -> tuple[float, ...]:
            nonlocal count
            count += 1
            return delays[count % 4]

        b.bus.deliveries = deliveries
        jobs = await submit(b, 20)
        await check_all_ended(b, jobs)
        assert {state.crashes for state in await states_of(b, jobs)} == {0}


async def kill_runners(b: Bench, job: str, times: int) -> None:
    """Kill whoever runs the job, again and again; replace each by a new process."""
    for i in range(times):

        def runs(replica: Replica) -> bool:
            return replica.jobs.attempt_of("acme", job) == i + 1  # noqa: B023 - called within this round

        await b.until(lambda: any(map(runs, b.replicas)), limit_s=30)
        b.kill(next(r for r in b.replicas if runs(r)))
        await b.fleet(f"new{i}")


async def test_a_job_that_takes_its_owners_down_ends_as_crash_loop_and_is_kept() -> None:
    async with bench(slow(100.0)) as b:
        await b.fleet("one", "two")
        job = await b.submit(job="poison", params={"max_tokens": 10})
        await kill_runners(b, job, 3)
        result = await b.result(job, limit_s=60)
        assert result.state == "failed"
        assert result.error is not None
        assert result.error.code == "crash_loop"
        await b.clock.advance(1)
        assert b.requests() == 0
        letter = await (await b.outside()).dead.get("acme", job)
        assert letter is not None
        assert msgspec.json.decode(letter.request.payload)["params"] == {"max_tokens": 10}
        assert [entry["attempt"] for entry in letter.history] == [1, 2, 3, 4]
        assert len({entry["owner"] for entry in letter.history}) == 4


async def test_a_successor_goes_on_from_the_checkpoint() -> None:
    async with bench(slow(1.0)) as b:
        await b.fleet("one", "two")
        for _ in range(3):
            await check_all_ended(b, await submit(b, 4, tenant="acme"))
        saved = await (await b.outside()).checkpoints.load("scheduler")
        assert saved is not None
        before = b.leader.scheduler.share.v
        assert before > 0
        await b.stop(b.leader)
        await b.until(lambda: b.replicas[0].cluster.term > 0, limit_s=5)
        assert b.leader.scheduler.share.v == pytest.approx(before)


async def test_a_checkpoint_that_is_none_does_not_keep_anybody_from_scheduling() -> None:
    async with bench(slow(1.0)) as b:
        await (await b.outside()).checkpoints.save("scheduler", b'{"version": 99}')
        await b.fleet("one")
        await check_all_ended(b, await submit(b, 2))


async def test_a_lease_that_a_stranger_holds_is_waited_for() -> None:
    async with bench(slow(1.0)) as b:
        revision = await (await b.outside()).leases.acquire("scheduler", "stranger", ttl_s=5)
        assert revision is not None
        replica = await b.replica("one")
        await b.clock.advance(4)
        assert replica.cluster.term == 0
        assert await b.until(lambda: replica.cluster.term > 0, limit_s=5) < 2


async def test_an_expired_lease_whose_renewal_is_answered_late_is_not_believed() -> None:
    async with bench(slow(1.0)) as b:
        await b.fleet("one", "two")
        old = b.leader
        b.bus.faults = lambda op: (
            Fault(lose="ack") if op.replica == old.name and op.name.startswith("leases.") else Fault()
        )
        await b.clock.advance(4.6)
        assert old.cluster.term == 0
        jobs = await submit(b, 4)
        b.bus.faults = lambda op: Fault()
        await check_all_ended(b, jobs)


STEPS = [
    ("jobs.create", 1, 2),
    ("events.publish", 1, 2),
    ("jobs.update", 1, 2),
    ("events.publish", 2, 1),
    ("intake.delete", 1, 1),
]


@pytest.mark.parametrize(("name", "occurrence", "most_calls"), STEPS)
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
async def test_a_crash_before_or_after_any_step_is_made_good(
    name: str, occurrence: int, most_calls: int, is_done: bool
) -> None:
    """The steps of a unary job: claim, first event, commit, result event, deletion of the request."""
    async with bench(slow(0.5)) as b:
        await b.fleet("one")
        count = 0

        def faults(op: Operation) -> Fault:
            nonlocal count
            count += op.name == name
            if op.name == name and count == occurrence and op.replica == "one":
                # What follows never arrives either: the process is gone.
                b.clock.call_later(0.0, lambda: b.kill(b.replicas[0]))
                return Fault(lose="ack" if is_done else "request")
            return Fault()

        b.bus.faults = faults
        job = await b.submit(job="job1", params={"max_tokens": 10})
        await b.clock.advance(3)
        assert not b.replicas, "the step was met"
        b.bus.faults = lambda op: Fault()
        await b.fleet("two")
        await check_all_ended(b, [job])
        is_committed = (name, is_done) == ("jobs.update", True) or name == "intake.delete" or occurrence == 2
        assert len(b.model.calls) <= (1 if is_committed else most_calls)
        events = await b.events(job)
        result = events[-1].data
        assert (await b.stored(job)).state.result == result  # type: ignore[union-attr]
