"""What every `JobStore` promises."""

import asyncio
from typing import NamedTuple

import msgspec
import pytest

from sidecar.adapters.nats.job_store import NatsJobStore
from sidecar.errors import Conflict, InvalidRequest
from sidecar.models import codec
from sidecar.models.base import rfc3339
from sidecar.models.job import JobState
from sidecar.models.subjects import HEADER_EXPECTED
from sidecar.ports.bus import JobStore
from tests.support.bus_world import World, job_state, result

STATES, MARKS = "$KV.LLM_JOB.", "$KV.LLM_CANCEL."
LIVE_S = 2
ACKNOWLEDGEMENT = b'{"stream":"LLM_REQ","seq":7,"domain":"hub"}'


async def test_a_document_is_read_as_it_was_written(world: World) -> None:
    created = await world.first.jobs.create(job_state())
    running = job_state(state="running", attempt=1, owner="r1", model="nova-lite")
    revision = await world.first.jobs.update(running, revision=created)
    assert revision > created
    found = await world.second.jobs.get("acme", "j1")
    assert found is not None
    assert (found.state, found.revision) == (running, revision)
    ended = job_state(state="succeeded", attempt=1, result=result("the end"), result_n=3)
    last = await world.second.jobs.update(ended, revision=revision)
    found = await world.first.jobs.get("acme", "j1")
    assert found is not None
    assert (found.state, found.revision) == (ended, last)


async def test_an_unknown_job_has_no_document(world: World) -> None:
    await world.first.jobs.create(job_state())
    assert await world.first.jobs.get("acme", "j2") is None
    assert await world.first.jobs.get("other", "j1") is None


async def test_a_job_is_created_once(world: World) -> None:
    revision = await world.first.jobs.create(job_state())
    with pytest.raises(Conflict):
        await world.second.jobs.create(job_state(owner="somebody"))
    found = await world.second.jobs.get("acme", "j1")
    assert found is not None
    assert (found.state.owner, found.revision) == (None, revision)
    await world.first.jobs.create(job_state(tenant="other"))


async def test_a_stale_revision_writes_nothing(world: World) -> None:
    first = await world.first.jobs.create(job_state())
    second = await world.first.jobs.update(job_state(state="running", owner="r1"), revision=first)
    for stale in (first, second + 7, 0):
        with pytest.raises(Conflict):
            await world.second.jobs.update(job_state(state="running", owner="r2"), revision=stale)
    found = await world.first.jobs.get("acme", "j1")
    assert found is not None
    assert (found.state.owner, found.revision) == ("r1", second)


async def test_of_many_claims_at_once_exactly_one_wins(world: World) -> None:
    revision = await world.first.jobs.create(job_state())
    stores = [world.first.jobs, world.second.jobs] * 5

    async def claim(i: int) -> str | None:
        try:
            await stores[i].update(job_state(state="running", owner=f"r{i}"), revision=revision)
        except Conflict:
            return None
        return f"r{i}"

    winners = [name for name in await asyncio.gather(*map(claim, range(10))) if name]
    found = await world.first.jobs.get("acme", "j1")
    assert found is not None
    assert winners == [found.state.owner]


async def test_a_mark_of_cancellation_is_seen_by_all_and_leaves_the_revision(world: World) -> None:
    revision = await world.first.jobs.create(job_state())
    assert not await world.first.jobs.is_cancelled("acme", "j1")
    await world.first.jobs.mark_cancelled("acme", "j1", reason="no longer wanted")
    await world.second.jobs.mark_cancelled("acme", "j1")
    assert await world.first.jobs.is_cancelled("acme", "j1")
    assert await world.second.jobs.is_cancelled("acme", "j1")
    assert not await world.first.jobs.is_cancelled("acme", "j2")
    assert not await world.first.jobs.is_cancelled("other", "j1")
    await world.first.jobs.update(job_state(state="running"), revision=revision)


async def test_a_mark_can_precede_its_job(world: World) -> None:
    await world.first.jobs.mark_cancelled("acme", "later")
    assert await world.second.jobs.is_cancelled("acme", "later")
    await world.second.jobs.create(job_state("later"))


async def test_marks_are_heard_by_every_replica(world: World) -> None:
    heard: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
    await world.first.jobs.listen_cancelled(lambda tenant, job: heard[0].append((tenant, job)))
    await world.second.jobs.listen_cancelled(lambda tenant, job: heard[1].append((tenant, job)))
    await world.first.jobs.mark_cancelled("acme", "j1")
    await world.second.jobs.mark_cancelled("other", "j2")
    await world.until(lambda: all(len(marks) == 2 for marks in heard))
    assert sorted(heard[0]) == sorted(heard[1]) == [("acme", "j1"), ("other", "j2")]


@pytest.mark.parametrize(
    ("tenant", "job"), [("*", "j1"), ("acme", "*"), ("acme", ">"), ("", "j"), ("a.b", "c"), ("a b", "c")]
)
async def test_names_that_would_address_other_jobs_are_refused(world: World, tenant: str, job: str) -> None:
    await world.first.jobs.create(job_state())
    jobs = world.first.jobs
    with pytest.raises(InvalidRequest):
        await jobs.get(tenant, job)
    with pytest.raises(InvalidRequest):
        await jobs.create(job_state(job, tenant))
    with pytest.raises(InvalidRequest):
        await jobs.mark_cancelled(tenant, job)
    with pytest.raises(InvalidRequest):
        await jobs.is_cancelled(tenant, job)


class Page(NamedTuple):
    jobs: list[JobState]
    cursor: int | None


async def page_of(
    jobs: JobStore, tenant: str, *, state: str | None = None, limit: int = 100, cursor: int | None = None
) -> Page:
    found = await jobs.placed(tenant, matches=lambda job: state in (None, job.state), limit=limit, before=cursor)
    return Page([job.state for job in found.jobs], found.before)


async def test_jobs_are_listed_newest_first(world: World) -> None:
    jobs = world.first.jobs
    revisions = [await jobs.create(job_state(f"j{i}")) for i in range(4)]
    await jobs.create(job_state("foreign", "other"))
    ended = job_state("j1", state="succeeded", result=result(), result_n=2)
    await jobs.update(ended, revision=revisions[1])
    page = await world.second.jobs.placed("acme", matches=lambda _: True, limit=9)
    assert [job.state.job for job in page.jobs] == ["j3", "j2", "j1", "j0"]
    assert [job.place for job in page.jobs] == revisions[::-1]
    assert page.jobs[2].state == ended
    assert page.before is None
    assert (await jobs.placed("nobody", matches=lambda _: True, limit=9)).jobs == ()
    of_all = await jobs.placed(None, matches=lambda _: True, limit=9, after=revisions[2])
    assert [job.state.job for job in of_all.jobs] == ["foreign", "j3"]
    last = await jobs.last_of([("acme", "j1"), ("acme", "j2"), ("acme", "none")])
    assert {key: stored.state.state for key, stored in last.items()} == {
        ("acme", "j1"): "succeeded",
        ("acme", "j2"): "queued",
    }


async def test_a_list_can_be_narrowed(world: World) -> None:
    jobs = world.first.jobs
    for i in range(6):
        revision = await jobs.create(job_state(f"j{i}"))
        if i % 2:
            await jobs.update(job_state(f"j{i}", state="running", owner="r1"), revision=revision)
    page = await jobs.placed("acme", matches=lambda job: job.state == "running", limit=2)
    assert [job.state.job for job in page.jobs] == ["j5", "j3"]
    assert page.before is not None
    page = await jobs.placed("acme", matches=lambda job: job.state == "running", limit=2, before=page.before)
    assert [job.state.job for job in page.jobs] == ["j1"]
    assert page.before is None
    assert (await jobs.placed("acme", matches=lambda job: job.state == "failed", limit=2)).jobs == ()


async def test_pages_neither_repeat_nor_skip_while_jobs_move_on(world: World) -> None:
    jobs = world.first.jobs
    revisions = {f"j{i}": await jobs.create(job_state(f"j{i}")) for i in range(10)}
    seen: list[str] = []
    cursor: int | None = None
    for _ in range(10):
        page = await page_of(jobs, "acme", limit=3, cursor=cursor)
        assert len(page.jobs) <= 3
        seen += [state.job for state in page.jobs]
        for job in ("j0", "j5", "j9"):
            moved = job_state(job, state="running", attempt=revisions[job])
            revisions[job] = await jobs.update(moved, revision=revisions[job])
        await jobs.create(job_state(f"new-{len(seen)}"))
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == [f"j{i}" for i in reversed(range(10))]


async def test_a_page_that_ends_with_the_last_job_has_no_cursor(world: World) -> None:
    for i in range(3):
        await world.first.jobs.create(job_state(f"j{i}"))
    assert (await page_of(world.first.jobs, "acme", limit=3)).cursor is None


async def test_a_list_reaches_back_over_what_other_tenants_wrote(world: World) -> None:
    jobs = world.first.jobs
    old: JobState = job_state("old")
    await jobs.create(old)
    for start in range(0, 6_000, 500):
        others = (jobs.create(job_state(f"x{i}", "busy")) for i in range(start, start + 500))
        await asyncio.gather(*others)
    await jobs.create(job_state("new"))
    page = await page_of(jobs, "acme", limit=10)
    assert [state.job for state in page.jobs] == ["new", "old"]
    assert page.cursor is None
    found: list[str] = []
    cursor: int | None = None
    while True:
        page = await page_of(jobs, "busy", limit=1_000, cursor=cursor)
        found += [state.job for state in page.jobs]
        cursor = page.cursor
        if cursor is None:
            break
    assert len(found) == len(set(found)) == 6_000
    assert msgspec.json.encode(page)


async def test_the_history_of_a_job_is_its_documents_in_order(world: World) -> None:
    first = await world.first.jobs.create(job_state())
    second = await world.second.jobs.update(job_state(state="running", attempt=1, owner="r1"), revision=first)
    await world.first.jobs.create(job_state("j2"))
    found = await world.first.jobs.history("acme", "j1")
    assert [stored.revision for stored in found] == [first, second]
    assert [stored.state.state for stored in found] == ["queued", "running"]
    assert await world.first.jobs.history("acme", "j3") == []


BROKEN = [
    codec.encode(job_state(job="another")),
    codec.encode(job_state(tenant="another")),
    codec.encode(job_state(state="succeeded")),
    b"",
    b"no json",
    b"\xff\xfe\x00",
    b"[]",
    b"{}",
    b'{"job": 7}',
    b'"' + b"x" * 300_000 + b'"',
    b"[" * 20_000,
    ACKNOWLEDGEMENT,
]
# A client that compares before it writes does as replicas do.
COMPARED = {HEADER_EXPECTED: "1"}


async def test_a_document_that_is_none_hides_no_other(world: World) -> None:
    jobs = world.first.jobs
    await jobs.create(job_state(job="first"))
    for i, payload in enumerate(BROKEN):
        revision = await jobs.create(job_state(job=f"b{i}"))
        await world.write(f"{STATES}acme.b{i}", payload, {HEADER_EXPECTED: str(revision)})
        await world.write(f"{STATES}acme.never-written-{i}", payload)
    await jobs.create(job_state(job="last"))
    assert [job.job for job in (await page_of(jobs, "acme")).jobs] == ["last", "first"]
    assert [job.job for job in (await page_of(jobs, "acme", state="queued")).jobs] == ["last", "first"]
    page = await page_of(jobs, "acme", limit=1)
    assert [job.job for job in page.jobs] == ["last"]
    page = await page_of(jobs, "acme", limit=1, cursor=page.cursor)
    assert [job.job for job in page.jobs] == ["first"]
    assert [stored.state.state for stored in await jobs.history("acme", "b0")] == ["queued"]


@pytest.mark.parametrize(
    ("payload", "headers"),
    [
        (b"", {"KV-Operation": "DEL"}),
        (b"", {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}),
        *[(payload, COMPARED) for payload in BROKEN[:5]],
    ],
)
async def test_what_is_no_document_counts_as_none_and_can_be_written_over(
    world: World, payload: bytes, headers: dict[str, str]
) -> None:
    revision = await world.first.jobs.create(job_state())
    assert await world.first.jobs.look("acme", "j1") == (job_state(), revision)
    given = headers if HEADER_EXPECTED not in headers else {HEADER_EXPECTED: str(revision)}
    await world.write(f"{STATES}acme.j1", payload, given)
    assert await world.second.jobs.get("acme", "j1") is None
    found = await world.second.jobs.look("acme", "j1")
    assert found.state is None
    assert found.revision > revision
    with pytest.raises(Conflict):
        await world.first.jobs.update(job_state(owner="r1"), revision=revision)
    written = await world.first.jobs.update(job_state(owner="r1"), revision=found.revision)
    assert await world.second.jobs.look("acme", "j1") == (job_state(owner="r1"), written)


async def test_what_no_replica_wrote_is_taken_away_and_the_document_stands(world: World) -> None:
    first = await world.first.jobs.create(job_state())
    last = await world.first.jobs.update(job_state(owner="r1"), revision=first)
    for payload in BROKEN:
        for _ in range(3):
            await world.write(f"{STATES}acme.j1", payload)
        found = await page_of(world.second.jobs, "acme")
        assert [job.owner for job in found.jobs] == ["r1"]
        await world.write(f"{STATES}acme.j1", payload)
        assert await world.second.jobs.look("acme", "j1") == (job_state(owner="r1"), last)
    assert await world.first.jobs.update(job_state(owner="r2"), revision=last) > last


async def test_an_empty_key_has_revision_0(world: World) -> None:
    assert await world.first.jobs.look("acme", "nobody") == (None, 0)
    await world.first.jobs.update(job_state(), revision=0)
    with pytest.raises(Conflict):
        await world.first.jobs.update(job_state(), revision=0)


async def test_an_acknowledgement_is_no_mark_of_cancellation(world: World) -> None:
    heard: list[str] = []
    await world.first.jobs.listen_cancelled(lambda tenant, job: heard.append(job))
    await world.write(f"{MARKS}acme.j1", ACKNOWLEDGEMENT)
    await world.first.jobs.mark_cancelled("acme", "j2", reason='{"stream": "of thought"}')
    await world.until(lambda: heard == ["j2"])
    assert not await world.first.jobs.is_cancelled("acme", "j1")
    assert await world.second.jobs.is_cancelled("acme", "j2")


async def test_how_long_documents_are_kept_is_known(world: World) -> None:
    assert await world.first.jobs.keeps_s() == 86_400


async def test_a_document_that_was_superseded_goes_and_its_job_stays_listed(world: World) -> None:
    """`ended` began and ended; `left` began and is nobody's; nobody has begun `queued`."""
    store = NatsJobStore(world.mux, live_s=LIVE_S, now=world.now)
    created = rfc3339(world.now())
    running = {"state": "running", "attempt": 1, "owner": "r1", "created": created}
    revisions = {job: await store.create(job_state(job, **running)) for job in ("ended", "left")}
    ended = job_state("ended", state="succeeded", result=result(), result_n=2, created=created)
    await store.update(ended, revision=revisions["ended"])
    await store.create(job_state("queued", created=created))
    assert [state.job for state in (await page_of(store, "acme")).jobs] == ["queued", "left", "ended"]
    await world.elapse(LIVE_S)
    async with asyncio.timeout(30):
        while await store.history("acme", "left") or len(await store.history("acme", "ended")) > 1:
            await world.elapse(0.1)
    assert [found.state for found in await store.history("acme", "ended")] == [ended]
    page = await page_of(store, "acme", limit=1)
    assert [state.job for state in page.jobs] == ["queued"]
    page = await page_of(store, "acme", limit=1, cursor=page.cursor)
    assert ([state.job for state in page.jobs], page.cursor) == (["ended"], None)
    assert await store.keeps_s() == LIVE_S
