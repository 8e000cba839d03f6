"""Several replicas on one bus, in virtual time: who schedules, who works, and what an orderly end is."""

import os
from typing import Any

import msgspec
import pytest

from sidecar.config.settings import Settings
from sidecar.errors import Throttled
from sidecar.models.call import ModelCall
from sidecar.models.event import Status
from sidecar.replica import Replica
from sidecar.runtime.grace import Grace
from tests.support.fleet import check_all_ended, slow, submit
from tests.support.garbage import ACKNOWLEDGEMENTS, GARBAGE
from tests.support.process import ended_pid
from tests.support.replica import MODEL, PLENTY, Bench, bench
from tests.support.scripted_model import ScriptedModel, fails, says
from tests.support.virtual_time import VirtualClock


async def test_jobs_are_spread_over_all_replicas() -> None:
    async with bench(slow()) as b:
        replicas = await b.fleet("one", "two", "three", slots=2)
        assert [r.cluster.members for r in replicas] == [3, 3, 3]
        jobs = await submit(b, 6)
        await b.clock.advance(1)
        assert [r.requests.running for r in replicas] == [2, 2, 2]
        assert [r.cluster.term > 0 for r in replicas] == [True, False, False]
        await check_all_ended(b, jobs)
        assert b.leader.scheduler.ledger.slots == 6
        assert {(await b.stored(job)).state.attempt for job in jobs} == {1}  # type: ignore[union-attr]


async def test_one_replica_alone_sends_no_grant_over_the_bus() -> None:
    async with bench(slow()) as b:
        await b.fleet("one")
        await check_all_ended(b, await submit(b, 6))
        assert not [operation for operation in b.bus.operations if ".sys.offer." in operation.subject]
        assert not [operation for operation in b.bus.operations if ".sys.ops." in operation.subject]


async def test_one_replica_alone_schedules_at_once() -> None:
    async with bench(slow()) as b:
        replica = await b.replica("one", models=PLENTY)
        await b.until(lambda: replica.cluster.term > 0, limit_s=1)
        assert b.clock.monotonic() < 0.1


async def test_when_the_scheduler_leaves_in_order_another_goes_on_within_a_second() -> None:
    async with bench(slow(20.0)) as b:
        await b.fleet("one", "two", "three")
        jobs = await submit(b, 6)
        await b.clock.advance(1)
        leader = b.leader
        began = b.clock.monotonic()
        await b.stop(leader)
        late = await b.submit(params={"max_tokens": 10})
        await b.until(lambda: len(b.model.calls) >= 9, limit_s=5)
        assert b.clock.monotonic() - began < 1.0
        await check_all_ended(b, [*jobs, late])
        states = [stored.state for job in jobs if (stored := await b.stored(job))]
        assert {state.crashes for state in states} == {0}
        assert sorted(state.attempt for state in states) == [1, 1, 1, 1, 2, 2]


async def test_a_job_that_is_handed_back_runs_elsewhere_at_once() -> None:
    async with bench(slow(20.0)) as b:
        await b.fleet("one", "two", slots=4)
        jobs = await submit(b, 4)
        await b.clock.advance(1)
        follower = b.followers[0]
        assert follower.requests.running == 2
        await b.stop(follower)
        took = await b.until(lambda: b.leader.requests.running == 4, limit_s=5)
        assert took < 0.5
        await check_all_ended(b, jobs)
        assert b.model.open_calls == 0


async def test_a_draining_worker_finishes_what_ends_within_its_grace() -> None:
    async with bench(slow(5.0)) as b:
        await b.fleet("one", "two", slots=4)
        jobs = await submit(b, 4)
        await b.clock.advance(1)
        follower = b.followers[0]
        await b.stop(follower, grace_s=30)
        await check_all_ended(b, jobs)
        assert {(await b.stored(job)).state.attempt for job in jobs} == {1}  # type: ignore[union-attr]
        assert len(b.model.calls) == 4


async def test_who_steps_back_leaves_the_lease_and_new_jobs_to_others_and_goes_on_serving() -> None:
    async with bench(slow(5.0)) as b:
        await b.fleet("one", "two", slots=4)
        first = await submit(b, 4)
        await b.clock.advance(0.5)
        old, new = b.leader, b.followers[0]
        assert old.requests.running == 2
        await b.clock.run(old.step_back())
        await b.clock.run(old.step_back())
        await b.until(lambda: new.cluster.term > 0, limit_s=8)
        later = await submit(b, 2)
        await b.until(lambda: new.requests.running == 4, limit_s=5)
        assert old.requests.running == 2
        b.bus.partition(new.name)
        reply = await b.ask("get", "acme", first[0])
        assert b"running" in reply.payload
        b.bus.heal(new.name)
        await check_all_ended(b, first + later)
        states = [stored.state for job in first if (stored := await b.stored(job))]
        assert {state.attempt for state in states} == {1}


async def test_who_is_stopped_before_it_has_started_ends_all_the_same() -> None:
    async with bench() as b:
        ports = (await b.replica("one"))._ports
        crashes: list[BaseException] = []
        early = Replica(Settings(), ports, name="early", on_crash=crashes.append)
        await b.clock.run(early.drain(Grace(b.clock, 30)))
        assert not crashes


async def test_a_draining_worker_takes_no_grants() -> None:
    async with bench(slow(5.0)) as b:
        await b.fleet("one", "two", slots=4)
        first = await submit(b, 2)
        await b.clock.advance(0.5)
        follower = b.followers[0]
        await follower.cluster.leave()
        follower.requests.drain()
        await b.clock.advance(0.1)
        assert b.leader.scheduler.ledger.slots == 4 + follower.requests.running
        jobs = await submit(b, 6)
        await b.clock.advance(0.5)
        assert follower.requests.running <= 1
        await check_all_ended(b, first + jobs)


async def test_rolling_restart_loses_nothing_and_counts_no_crash() -> None:
    async with bench(slow(3.0)) as b:
        await b.fleet("a1", "b1", "c1", slots=3)
        jobs: list[str] = []
        for generation in (2, 3):
            for name in ("a", "b", "c"):
                jobs += await submit(b, 6)
                await b.clock.advance(1)
                old = next(r for r in b.replicas if r.name.startswith(name))
                await b.stop(old, grace_s=1)
                await b.replica(
                    f"{name}{generation}", models=PLENTY, scheduler={"slots": 3, "interactive_reserve": 0.0}
                )
        await check_all_ended(b, jobs)
        states = [stored.state for job in jobs if (stored := await b.stored(job))]
        assert {state.crashes for state in states} == {0}
        assert not list(b.bus.dead.find(">"))


async def test_a_drain_while_the_bus_is_away_ends_all_the_same() -> None:
    async with bench(slow(100.0)) as b:
        await b.fleet("one", "two")
        jobs = await submit(b, 4)
        await b.clock.advance(1)
        follower = b.followers[0]
        began = b.clock.monotonic()
        b.bus.partition(follower.name)
        await b.stop(follower)
        assert b.clock.monotonic() - began < 20
        await check_all_ended(b, jobs)


async def test_a_job_on_another_replica_moves_to_another_pool() -> None:
    clock = VirtualClock()

    def turn(call: ModelCall) -> Any:
        if call.candidate.profile.alias == MODEL:
            return fails(Throttled("too many"), first_s=0.5)
        return says("from the second", first_s=1.0)

    policy = {**PLENTY, "nova-lite": {"tokens_per_minute": 10**9, "requests_per_minute": 10**8}}
    async with bench(ScriptedModel(clock, turn)) as b:
        await b.fleet("one", "two", models=policy)
        jobs = await submit(b, 4, model=[MODEL, "nova-lite"])
        await b.clock.advance(0.3)
        assert b.followers[0].requests.running == 2
        await check_all_ended(b, jobs)
        for job in jobs:
            assert (await b.result(job)).output.text == "from the second"


async def test_a_job_that_waits_for_its_next_call_goes_on_under_a_new_scheduler() -> None:
    clock = VirtualClock()
    script = iter([fails(Throttled("too many", retry_after=3.0), first_s=0.1)] * 2)
    model = ScriptedModel(clock, lambda call: next(script, says("ok", first_s=1.0)))
    async with bench(model) as b:
        await b.fleet("one", "two", "three")
        jobs = await submit(b, 2, model=[MODEL])
        await b.clock.advance(1.0)
        await b.stop(b.leader, grace_s=20)
        await check_all_ended(b, jobs)


async def test_cancellation_reaches_the_owner_on_another_replica() -> None:
    async with bench(slow(100.0)) as b:
        await b.fleet("one", "two", slots=2)
        jobs = await submit(b, 4)
        await b.clock.advance(1)
        assert [r.requests.running for r in b.replicas] == [2, 2]
        for job in jobs:
            await b.ask("cancel", "acme", job)
        await check_all_ended(b, jobs, state="cancelled")
        assert b.model.open_calls == 0


async def test_a_job_deep_in_the_backlog_is_cancelled_when_it_is_read() -> None:
    async with bench(slow(2.0)) as b:
        await b.fleet("one", "two", slots=1)
        jobs = await submit(b, 60)
        await b.ask("cancel", "acme", jobs[50])
        assert (await b.result(jobs[50], limit_s=300)).state == "cancelled"
        others = [job for job in jobs if job != jobs[50]]
        for job in others:
            assert (await b.result(job, limit_s=300)).state == "succeeded"
        assert len(b.model.calls) == 59
        states = [e.data.state for e in await b.events(jobs[50]) if isinstance(e.data, Status)]
        assert "running" not in states


async def test_fields_of_a_newer_version_are_passed_over() -> None:
    async with bench(slow()) as b:
        await b.fleet("one")
        newer = (await b.outside()).bus
        beat = {
            "member": "new-1",
            "name": "new",
            "n": 1,
            "slots": 5,
            "protocol": 2,
            "oldest": 1,
            "mood": {"good": True},
            "jobs": [],
        }
        newer.publish("heartbeat", msgspec.json.encode(beat))
        newer.publish("heartbeat", b"\xff not a heartbeat")
        await b.clock.advance(0.1)
        assert b.leader.cluster.members == 2
        assert b.leader.scheduler.ledger.slots == 9


async def test_a_replica_two_versions_away_gets_no_jobs() -> None:
    async with bench(slow(1.0)) as b:
        await b.fleet("one")
        newer = (await b.outside()).bus
        beat = {"member": "new-1", "name": "new", "n": 1, "slots": 50, "protocol": 3, "oldest": 2}
        newer.publish("heartbeat", msgspec.json.encode(beat))
        await b.clock.advance(0.1)
        assert b.leader.scheduler.ledger.slots == 4
        await check_all_ended(b, await submit(b, 6))


async def test_a_worker_that_refuses_a_grant_costs_the_job_nothing() -> None:
    async with bench(slow(1.0)) as b:
        await b.fleet("one")
        ghost = (await b.outside()).bus
        for n in range(3):
            beat = {"member": "ghost-1", "name": "ghost", "n": n + 1, "slots": 50}
            ghost.publish("heartbeat", msgspec.json.encode(beat))
            jobs = await submit(b, 4)
            await b.clock.advance(1)
        await check_all_ended(b, jobs)
        assert {(await b.stored(job)).state.attempt for job in jobs} == {1}  # type: ignore[union-attr]


async def test_what_was_selected_for_jobs_of_other_replicas_is_not_kept() -> None:
    async with bench(slow(1.0)) as b:
        await b.fleet("one", "two", "three")
        await check_all_ended(b, await submit(b, 30))
        for replica in b.replicas:
            leader: Any = replica.requests.leader
            assert leader is None or not leader.reader._opened, "a request in memory holds its plan"


async def test_waits_of_tenants_that_are_gone_are_forgotten() -> None:
    async with bench(slow(1.0)) as b:
        await b.fleet("one")
        for i in range(5):
            await b.submit(tenant=f"t{i}", params={"max_tokens": 10})
        await b.until(lambda: b.requests() == 0)
        meter = b.leader.scheduler.meter
        assert meter is not None
        assert len(meter._waits) == 5
        await b.clock.advance(90)
        assert not meter._waits


@pytest.mark.parametrize(("names", "slots"), [(("one",), 8), (("one", "two"), 4), (("one", "two", "three"), 1)])
async def test_long_calls_of_other_classes_leave_a_slot_to_interactive(names: tuple[str, ...], slots: int) -> None:
    takes_s = [60.0]
    async with bench(ScriptedModel(VirtualClock(), lambda call: says("ok", first_s=takes_s[0]))) as b:
        await b.fleet(*names, scheduler={"slots": slots})
        long = [await b.submit(job_class="batch") for _ in range(20)]
        await b.clock.advance(5.0)
        takes_s[0] = 0.5
        began = b.clock.monotonic()
        job = await b.submit(tenant="other", job_class="interactive")
        assert (await b.result(job, tenant="other")).state == "succeeded"
        assert b.clock.monotonic() - began < 2.0
        assert {(await b.result(job)).state for job in long} == {"succeeded"}


def write_over_the_lease(b: Bench, payload: bytes = ACKNOWLEDGEMENTS["acknowledgement"]) -> None:
    b.bus.publish("$KV.LLM_CTL.lease.scheduler", payload)


async def test_whoever_writes_over_the_lease_the_same_replica_goes_on_scheduling() -> None:
    async with bench() as b:
        await b.fleet("one", "two", "three")
        leader, term = b.leader, b.leader.cluster.term
        for payload in ACKNOWLEDGEMENTS.values():
            for _ in range(5):
                write_over_the_lease(b, payload)
                await b.clock.advance(0.3)
                assert (b.leader, leader.cluster.term) == (leader, term)
            began = b.clock.monotonic()
            assert (await b.result(await b.submit())).state == "succeeded"
            assert b.clock.monotonic() - began < 3.0
        assert b.muxes[leader.name].foreign_writes.counts["LLM_CTL"]


async def test_a_scheduler_that_dies_is_followed_though_strangers_go_on_writing_over_its_lease() -> None:
    async with bench() as b:
        await b.fleet("one", "two")
        b.kill(b.leader)
        (heir,) = b.replicas
        for _ in range(40):
            write_over_the_lease(b)
            await b.clock.advance(0.3)
        assert heir.cluster.term


@pytest.mark.parametrize("payload", GARBAGE.values(), ids=GARBAGE)
async def test_who_starts_with_a_foreign_value_in_the_leases_place_waits_for_nobody(payload: bytes) -> None:
    async with bench() as b:
        write_over_the_lease(b, payload)
        await b.clock.advance(10)
        replica = await b.replica("one", models=PLENTY)
        await b.until(lambda: replica.cluster.term > 0, limit_s=1)


async def test_a_lone_replica_that_was_killed_dispatches_within_two_seconds_of_its_restart() -> None:
    async with bench() as b:
        (first,) = await b.fleet("one")
        job = await b.submit()
        b.kill(first)
        await b.clock.advance(0.5)
        again = await b.replica("one", models=PLENTY)
        await b.until(lambda: again.cluster.term > 0, limit_s=2)
        assert (await b.result(job, limit_s=2)).state == "succeeded"


async def test_so_does_one_whose_name_is_made_of_its_process_id_where_that_process_has_ended() -> None:
    async with bench() as b:
        (first,) = await b.fleet(f"box-{ended_pid()}")
        b.kill(first)
        again = await b.replica(f"box-{os.getpid()}", models=PLENTY)
        await b.until(lambda: again.cluster.term > 0, limit_s=2)


async def test_with_others_alive_or_under_another_name_the_lease_runs_out_first() -> None:
    async with bench() as b:
        (first,) = await b.fleet("one")
        b.kill(first)
        other = await b.replica("two", models=PLENTY)
        assert await b.until(lambda: other.cluster.term > 0, limit_s=10) > 3
