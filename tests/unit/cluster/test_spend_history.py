"""Sums of what jobs took: exact whoever dies at which step, over gaps from documents, else marked."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import pytest

from sidecar.cluster.spend_book import opening
from sidecar.cluster.spend_history import EVERY_S
from sidecar.models.codec import decode
from sidecar.models.result import Result
from sidecar.models.spend import NANO_USD, JobBill, SpendCursor, SpendPage, SpendRow, sums_of
from sidecar.ports.cluster import JobsStream
from tests.support.jetstream.faults import NO_FAULT, Fault, Operation, no_faults
from tests.support.replica import MODEL, Bench, bench
from tests.support.scripted_model import ScriptedModel, calls_tools, says
from tests.support.tool_jobs import call
from tests.support.virtual_time import VirtualClock

MOST_STEPS = 30
STEPS_OF_TWO_ROUNDS = 20
OTHER = "nova-lite"
ROUND_S = 2 * EVERY_S + 1


async def rows(b: Bench, tenant: str | None = "acme", **asked: Any) -> list[SpendRow]:
    """The rows that `spend` answers, all parts together."""
    client = await b.client()
    subject = b.bus.subjects.endpoint(*(("admin", "spend") if tenant is None else ("spend", tenant)))

    async def read() -> list[SpendRow]:
        found: list[SpendRow] = []
        async for reply in client.request_many(subject, msgspec.json.encode(asked)):
            if reply.headers.get("Llm-End"):
                break
            found += decode(reply.payload, SpendPage).rows
        return found

    return await b.clock.run(read())


def took(results: list[Result]) -> Counter[str]:
    """What jobs took by their own results."""
    sums: Counter[str] = Counter()
    for result in results:
        own = (result.cost_usd or 0.0) - sum(child.cost_usd or 0.0 for child in result.children)
        sums["calls"] += len(result.attempts)
        sums["input_tokens"] += result.usage.input_tokens - sum(c.usage.input_tokens for c in result.children)
        sums["output_tokens"] += result.usage.output_tokens - sum(c.usage.output_tokens for c in result.children)
        sums["nano_usd"] += round(own * NANO_USD)
    return sums


def told(found: list[SpendRow]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for row in found:
        sums["calls"] += row.calls
        sums["input_tokens"] += row.input_tokens
        sums["output_tokens"] += row.output_tokens
        sums["nano_usd"] += round(row.cost_usd * NANO_USD)
    return sums


async def run_jobs(b: Bench, *names: str, **more: Any) -> list[Result]:
    for name in names:
        await b.submit(job=name, **more)
    found = [await b.result(name, tenant=more.get("tenant", "acme")) for name in names]
    assert all(result.cost_usd for result in found)
    return found


async def test_rows_tell_days_tenants_models_and_classes_apart() -> None:
    async with bench() as b:
        await b.replica()
        batch = await run_jobs(b, "a", "b", job_class="batch")
        other = await run_jobs(b, "c", request=_asks(OTHER))
        beta = await run_jobs(b, "d", tenant="beta")
        await b.clock.advance(ROUND_S)
        found = {(row.tenant, row.model, row.job_class): row for row in await rows(b, None)}
        assert set(found) == {("acme", MODEL, "batch"), ("acme", OTHER, "standard"), ("beta", MODEL, "standard")}
        assert told([found["acme", MODEL, "batch"]]) == took(batch)
        assert told([found["acme", OTHER, "standard"]]) == took(other)
        assert told(await rows(b, "beta")) == took(beta)
        (whole,) = await rows(b, by=["tenant"])
        assert (whole.model, whole.day, whole.incomplete) == (msgspec.UNSET, msgspec.UNSET, False)
        assert told([whole]) == took(batch + other)
        assert await rows(b, **{"from": "2001-01-01", "to": "2001-12-31"}) == []


def _asks(model: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello"}], "model": model}


async def test_children_count_for_themselves_and_not_again_in_their_parent() -> None:
    clock = VirtualClock()
    script = [calls_tools(call("llm.job", task="add")), says("2"), says("the sum is 2")]
    async with bench(ScriptedModel(clock, script)) as b:
        await b.replica(job_tools={"llm.job": {"model": MODEL}})
        await b.submit(job="parent", tools=["llm.job"])
        parent = await b.result("parent")
        assert len(parent.children) == 1
        await b.clock.advance(ROUND_S)
        child = await b.result(parent.children[0].job)
        assert told(await rows(b)) == took([parent, child])
        assert round(sum(row.cost_usd for row in await rows(b)), 9) == round(parent.cost_usd or 0.0, 9)


async def test_what_was_spent_today_is_true_after_a_restart() -> None:
    """Also of tenants without a budget, whose money nobody else counts."""
    async with bench() as b:
        first = await b.replica("first")
        done = await run_jobs(b, "a", "b")
        await b.stop(first)
        second = await b.replica("second")
        await b.clock.advance(2 * ROUND_S)
        assert second.scheduler.meter is not None
        before = second.scheduler.meter.spent_usd["acme"]
        assert before == pytest.approx(sum(result.cost_usd or 0.0 for result in done))
        done += await run_jobs(b, "c")
        await b.clock.advance(ROUND_S)
        after = second.scheduler.meter.spent_usd["acme"]
        assert after == pytest.approx(sum(result.cost_usd or 0.0 for result in done))


async def test_an_idle_scheduler_writes_nothing_and_a_busy_one_no_message_a_job() -> None:
    async with bench() as b:
        await b.replica()
        await b.clock.advance(ROUND_S)
        before = len(_writes(b))
        await b.clock.advance(60)
        assert len(_writes(b)) == before
        await run_jobs(b, *(f"j{n}" for n in range(40)))
        await b.clock.advance(ROUND_S)
        assert len(_writes(b)) - before < 12


def _writes(b: Bench) -> list[Operation]:
    return [op for op in b.bus.operations if op.name in ("spend_days.put", "spend_days.claim")]


class NthStep:
    """Lets the n-th thing go wrong that the summing of one replica asks of the bus."""

    NAMES = ("spend_days.put", "spend_days.claim", "spend_days.day", "events.replay", "jobs.list")

    def __init__(self, n: int, on_nth: Callable[[], Fault]) -> None:
        self.n = n
        self.seen = 0
        self._on_nth = on_nth

    def __call__(self, operation: Operation) -> Fault:
        if operation.replica != "one" or operation.name not in self.NAMES:
            return NO_FAULT
        self.seen += 1
        return self._on_nth() if self.seen == self.n else NO_FAULT


@pytest.mark.parametrize("lose", ["request", "ack", "late"])
async def test_whatever_is_lost_at_any_step_sums_are_exact(lose: Literal["request", "ack", "late"]) -> None:
    for n in range(1, STEPS_OF_TWO_ROUNDS):
        async with bench() as b:
            await b.replica("one")
            plan = NthStep(n, lambda: Fault(lose=lose, late_s=6.0))
            b.bus.faults = plan
            done = await run_jobs(b, "a", "b")
            await b.clock.advance(ROUND_S)
            done += await run_jobs(b, "c")
            await b.clock.advance(3 * ROUND_S)
            b.bus.faults = no_faults
            assert told(await rows(b)) == took(done), n
            assert plan.seen >= n


@pytest.mark.parametrize(("has_happened", "servers"), [(False, 1), (True, 1), (True, 3)])
async def test_whoever_dies_at_any_step_sums_are_exact(has_happened: bool, servers: int) -> None:
    for n in range(1, MOST_STEPS):
        async with bench(servers=servers) as b:
            await b.fleet("one")

            def die(b: Bench = b) -> Fault:
                b.bus.partition("one")
                return NO_FAULT if has_happened else Fault(lose="request")

            plan = NthStep(n, die)
            b.bus.faults = plan
            done = await run_jobs(b, "a", "b")
            await b.clock.advance(ROUND_S)
            is_over = plan.seen < n
            await b.replica("two")
            await b.submit(job="c")
            await b.clock.advance(ROUND_S)
            b.bus.heal("one")
            done.append(await b.result("c"))
            await b.clock.advance(2 * ROUND_S)
            assert told(await rows(b)) == took(done), n
            assert not any(row.incomplete for row in await rows(b))
            if is_over:
                return
    pytest.fail("summing up takes more steps than this test knows of")


async def test_results_that_went_unread_are_summed_up_from_documents() -> None:
    """All replicas are gone before the sums are written, for longer than events are kept."""
    retention = {"events_s": 40, "state_s": 800}
    async with bench() as b:
        one = await b.replica("one", retention=retention)
        done = await run_jobs(b, "a")
        await b.clock.advance(ROUND_S)
        done += await run_jobs(b, "b", "c")
        b.kill(one)
        await b.clock.advance(90)
        assert await b.events("b") == []
        two = await b.replica("two", retention=retention)
        await b.clock.advance(8 + ROUND_S)
        done += await run_jobs(b, "d")
        await b.clock.advance(ROUND_S)
        assert told(await rows(b)) == took(done)
        assert two.spend_history.counts["recovered"] == 2
        assert not any(row.incomplete for row in await rows(b))


async def test_a_result_that_is_said_after_the_gap_is_counted_once() -> None:
    """Its owner died between its commit and its result, everybody else too."""
    retention = {"events_s": 40, "state_s": 800}
    async with bench() as b:
        await b.replica("one", retention=retention)
        done = await run_jobs(b, "a")
        await b.clock.advance(ROUND_S)

        def faults(operation: Operation) -> Fault:
            if operation.replica == "one" and operation.subject.endswith(".b.result"):
                b.bus.partition("one")
            return NO_FAULT

        b.bus.faults = faults
        await b.submit(job="b")
        await b.clock.advance(3)
        b.kill(b.replicas[0])
        await b.clock.advance(90)
        await b.replica("two", retention=retention)
        await b.clock.advance(8)
        done.append(await b.result("b"))
        await b.clock.advance(ROUND_S)
        assert told(await rows(b)) == took(done)


NOW = 1_800_000_000.0
DAY_S = 86_400.0


def test_days_of_which_results_are_lost_are_marked() -> None:
    def begin(cursor: SpendCursor | None, **jobs: Any) -> tuple[SpendCursor, bool]:
        stream = JobsStream(**{"last_seq": 500, "created": 1.0, **jobs})
        found = opening(cursor, stream, now=NOW, events_s=3_600, state_s=DAY_S)
        return found.cursor, found.needs_documents

    at = {"seq": 400, "generation": 1}
    assert begin(None, last_seq=0)[0].incomplete == ()
    first = begin(None)[0]
    assert (first.seq, first.incomplete) == (0, (("2027-01-15", "2027-01-15"),))
    soon = SpendCursor(time=NOW - 60, **at)
    assert begin(soon) == (soon, False)
    hours = SpendCursor(time=NOW - 7_200, **at)
    assert begin(hours) == (hours, True)
    assert begin(hours, last_seq=400) == (hours, False)
    days = SpendCursor(time=NOW - 3 * DAY_S, **at)
    assert begin(days)[0].incomplete == (("2027-01-12", "2027-01-14"),)
    assert begin(begin(days)[0])[0].incomplete == (("2027-01-12", "2027-01-14"),)
    made_anew = begin(soon, created=NOW - 30)[0]
    assert (made_anew.seq, made_anew.generation, len(made_anew.incomplete)) == (400, 1, 1)
    counts_anew = begin(soon, last_seq=3)[0]
    assert (counts_anew.seq, counts_anew.generation, len(counts_anew.incomplete)) == (0, 2, 1)


def test_a_bill_is_told_by_its_calls_and_what_no_call_carries_is_the_last_models() -> None:
    usage = {"input_tokens": 100, "output_tokens": 10}
    plain = {"model": "sonnet", "model_id": "s-1", "usage": usage, "cost_usd": 0.5}
    old = msgspec.convert({**plain, "attempts": [{"model_id": "s-1"}, {"model_id": "h-1"}]}, JobBill)
    found = {held.model: held for held in sums_of(old, job_class="batch", alias_of={"h-1": "haiku"}.get)}
    assert (found["sonnet"].calls, found["sonnet"].cost_nano_usd) == (1, 500_000_000)
    assert (found["haiku"].calls, found["haiku"].cost_nano_usd) == (1, 0)
    calls = [
        {"model_id": "h-1", "usage": {"input_tokens": 60}, "cost_usd": 0.2, "usage_basis": "estimated"},
        {"model_id": "h-1", "may_be_billed": False},
        {"model_id": "s-1", "usage": {"input_tokens": 40, "output_tokens": 10}, "cost_usd": None},
    ]
    new = msgspec.convert({**plain, "cost_usd": None, "attempts": calls}, JobBill)
    found = {held.model: held for held in sums_of(new, job_class="batch", alias_of={"h-1": "haiku"}.get)}
    assert (found["haiku"].calls, found["haiku"].estimated_nano_usd) == (1, 200_000_000)
    assert (found["sonnet"].unpriced_calls, found["sonnet"].output_tokens) == (1, 10)
    assert sums_of(JobBill(), job_class="batch", alias_of={}.get) == []
