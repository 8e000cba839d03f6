"""What every `DeadLetters` promises."""

import pytest

from sidecar.errors import BusRefused, InvalidRequest
from sidecar.ports.bus import Lane, StoredRequest
from tests.support.bus_world import BRIEF_S, FAILED_BYTES, World

HISTORY = ({"attempt": 1, "owner": "r1", "at": "2026-11-22T10:00:00.000Z"}, {"attempt": 2, "owner": "r2\nx é"})


def request(seq: int = 7, tenant: str = "acme", payload: bytes = b'{"a": 1}') -> StoredRequest:
    headers = {"Llm-Job-Id": "j1", "traceparent": "00-ab"}
    return StoredRequest(seq, Lane(tenant, "batch"), payload, headers, 1_795_000_000.125)


async def test_a_dead_letter_is_kept_whole(world: World) -> None:
    seq = await world.first.dead.put("j1", request(), reason="crashed\n3 times", history=HISTORY)
    found = await world.second.dead.get("acme", "j1")
    assert found is not None
    assert (found.seq, found.job, found.reason) == (seq, "j1", "crashed\n3 times")
    assert found.request == request()
    assert list(found.history) == list(HISTORY)
    assert found.buried_at > 1_700_000_000


async def test_putting_again_changes_nothing(world: World) -> None:
    first = await world.first.dead.put("j1", request(), reason="one")
    assert await world.second.dead.put("j1", request(), reason="two") == first
    assert [letter.reason for letter in await world.first.dead.list()] == ["one"]


async def test_a_job_that_dies_again_by_another_request_is_kept_anew(world: World) -> None:
    await world.first.dead.put("j1", request(7), reason="one")
    await world.first.dead.put("j1", request(8), reason="two")
    found = await world.first.dead.get("acme", "j1")
    assert found is not None
    assert (found.reason, found.request.seq) == ("two", 8)


async def test_dead_letters_are_listed_oldest_first_by_tenant_or_all(world: World) -> None:
    dead = world.first.dead
    for i, tenant in enumerate(("acme", "other", "acme", "acme")):
        await dead.put(f"j{i}", request(i + 1, tenant), reason="crashed")
    assert [letter.job for letter in await dead.list()] == ["j0", "j1", "j2", "j3"]
    mine = await dead.list("acme", limit=2)
    assert [letter.job for letter in mine] == ["j0", "j2"]
    assert [letter.job for letter in await dead.list("acme", after_seq=mine[-1].seq)] == ["j3"]
    assert list(await dead.list("nobody")) == []


async def test_purging_forgets_one_job_and_may_be_repeated(world: World) -> None:
    dead = world.first.dead
    await dead.put("j1", request(1), reason="crashed")
    await dead.put("j2", request(2), reason="crashed")
    await dead.purge("acme", "j1")
    await dead.purge("acme", "j1")
    assert await dead.get("acme", "j1") is None
    assert [letter.job for letter in await dead.list()] == ["j2"]


async def test_a_long_history_keeps_its_last_entries(world: World) -> None:
    history = [{"attempt": i, "text": "x" * 500} for i in range(400)]
    await world.first.dead.put("j1", request(), reason="crashed", history=history)
    found = await world.first.dead.get("acme", "j1")
    assert found is not None
    assert 10 < len(found.history) < 100
    assert found.history[-1]["attempt"] == 399


async def test_a_request_that_fills_a_message_is_kept_without_its_history(world: World) -> None:
    payload = b"x" * (1024 * 1024 - 1_000)
    await world.first.dead.put("j1", request(payload=payload), reason="crashed", history=[{"text": "y" * 5_000}])
    found = await world.first.dead.get("acme", "j1")
    assert found is not None
    assert (found.request.payload, found.reason, list(found.history)) == (payload, "crashed", [])
    with pytest.raises(BusRefused) as refused:
        await world.first.dead.put("j2", request(payload=b"x" * (1024 * 1024)), reason="crashed")
    assert refused.value.code == "payload_too_large"


@pytest.mark.parametrize(("tenant", "job"), [("*", "j"), ("a", ">"), ("a.b", "c"), ("", "")])
async def test_only_names_name_dead_letters(world: World, tenant: str, job: str) -> None:
    with pytest.raises(InvalidRequest):
        await world.first.dead.put(job, request(tenant=tenant), reason="crashed")
    with pytest.raises(InvalidRequest):
        await world.first.dead.purge(tenant, job)


async def test_requests_of_other_failures_go_by_themselves_and_leave_room_for_crash_loops(world: World) -> None:
    dead = world.first.dead
    await dead.put("j1", request(1), reason="no answer", error="model_error", keep_s=BRIEF_S)
    found = await world.second.dead.get("acme", "j1")
    assert found is not None
    assert (found.error, found.request) == ("model_error", request(1))
    await dead.put("j2", request(2), reason="crashed")
    await world.elapse(BRIEF_S + 1.5)
    assert [(letter.job, letter.error) for letter in await dead.list()] == [("j2", "crash_loop")]
    await dead.put("j3", request(3, payload=b"x" * FAILED_BYTES), reason="crashed")
    with pytest.raises(BusRefused, match="dead_failed_bytes") as refused:
        await world.second.dead.put("j4", request(4), reason="no answer", error="model_error", keep_s=60)
    assert refused.value.code == "queue_full"
    third = await dead.get("acme", "j3")
    assert third is not None
    for _ in range(2):
        await dead.retried(third, job="j3-r3")
    again = await world.second.dead.get("acme", "j3")
    assert again is not None
    assert (again.retried_as, again.request.payload) == ("j3-r3", b"")
    assert [letter.job for letter in await dead.list()] == ["j2"]
