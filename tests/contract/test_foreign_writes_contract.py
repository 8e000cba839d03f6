"""What strangers wrote is no document, in every store, and nobody waits for it."""

import time

import pytest

from sidecar.errors import Conflict
from sidecar.models.objects import meta_subject
from sidecar.models.subjects import Subjects
from sidecar.ports.bus import Lane, StoredRequest
from sidecar.ports.tools import ToolChange, ToolKey
from tests.support.bus_world import NatsWorld, World, job_state
from tests.support.garbage import ACKNOWLEDGEMENTS, GARBAGE

LEASE = "$KV.LLM_CTL.lease.scheduler"
ACK = b'{"stream":"LLM_REQ","seq":1}'


async def test_what_is_no_lease_is_taken_at_once(world: World) -> None:
    for payload in GARBAGE.values():
        await world.write(LEASE, payload)
        assert await world.first.leases.holder("scheduler") is None
        revision = await world.first.leases.acquire("scheduler", "r1", ttl_s=60)
        assert revision is not None, payload[:40]
        assert await world.second.leases.holder("scheduler") == "r1"
        assert await world.second.leases.acquire("scheduler", "r2", ttl_s=60) is None
    assert world.foreign_writes["LLM_CTL"] == len(GARBAGE)


@pytest.mark.parametrize(
    "headers", [{}, {"Nats-TTL": "31536000"}, {"Nats-TTL": "never"}, {"KV-Operation": "PUT"}, {"X": "Nats-TTL: 5"}]
)
async def test_a_name_without_an_end_is_no_lease(world: World, headers: dict[str, str]) -> None:
    await world.write(LEASE, b"somebody", headers=headers)
    assert await world.first.leases.acquire("scheduler", "r1", ttl_s=60) is not None


async def test_a_holder_keeps_its_lease_whatever_is_written_over_it(world: World) -> None:
    leases = world.first.leases
    revision = await leases.acquire("scheduler", "r1", ttl_s=60)
    for payload in GARBAGE.values():
        assert revision is not None
        await world.write(LEASE, payload)
        assert await world.second.leases.acquire("scheduler", "r2", ttl_s=60, foreign_s=60.0) is None
        revision = await leases.renew("scheduler", "r1", revision=revision, ttl_s=60)
        assert await world.second.leases.acquire("scheduler", "r2", ttl_s=60) is None


async def test_a_lease_that_went_to_a_rival_over_a_foreign_value_is_not_renewed(world: World) -> None:
    first = await world.first.leases.acquire("scheduler", "r1", ttl_s=60)
    assert first is not None
    await world.write(LEASE, ACK)
    assert await world.second.leases.acquire("scheduler", "r2", ttl_s=60) is not None
    with pytest.raises(Conflict):
        await world.first.leases.renew("scheduler", "r1", revision=first, ttl_s=60)
    assert await world.first.leases.holder("scheduler") == "r2"


async def test_an_aimed_acknowledgement_is_no_checkpoint(world: World) -> None:
    subject = "$KV.LLM_CTL.checkpoint.starts"
    for payload in ACKNOWLEDGEMENTS.values():
        await world.write(subject, payload)
        assert await world.first.checkpoints.load("starts") is None
        assert await world.stored(subject) == []
    await world.first.checkpoints.save("starts", b"[]")
    assert await world.second.checkpoints.load("starts") == b"[]"
    assert world.foreign_writes["LLM_CTL"] == len(ACKNOWLEDGEMENTS)


async def test_what_lies_over_a_template_is_taken_away_and_the_template_stands(world: World) -> None:
    prompts, subject = world.first.prompts, "$KV.LLM_PROMPT.shared.greet.1"
    by_hand = await world.write("$KV.LLM_PROMPT.shared.hand.1", b"{}")
    revision = await prompts.create("shared.greet.1", b'{"messages": []}')
    for _ in range(3):
        await world.write(subject, ACK)
        await world.write("$KV.LLM_PROMPT.shared.greet.999", ACK)
        found = await prompts.load()
        assert {(p.key, p.revision) for p in found.prompts} == {
            ("shared.greet.1", revision),
            ("shared.hand.1", by_hand),
        }
        assert list(found.overrun) == ["shared.greet.999"]
    assert await world.stored("$KV.LLM_PROMPT.shared.greet.999") == []
    assert world.foreign_writes["LLM_PROMPT"] == 6


async def test_a_template_is_created_over_what_strangers_wrote(world: World) -> None:
    for _ in range(12):
        await world.write("$KV.LLM_PROMPT.shared.greet.1", ACK)
    await world.first.prompts.create("shared.greet.1", b"{}")
    with pytest.raises(Conflict):
        await world.first.prompts.create("shared.greet.1", b"{}")


async def test_who_listens_for_templates_hears_of_strangers_that_something_changed(world: World) -> None:
    heard: list[tuple[str, bytes | None]] = []
    await world.first.prompts.listen(lambda key, document: heard.append((key, document)))
    await world.write("$KV.LLM_PROMPT.shared.greet.999", ACK)
    await world.until(lambda: heard == [("shared.greet.999", None)])


TOOL = ToolKey("acme", "search", "1.0.0")
TOOL_SUBJECT = "$KV.LLM_TOOL.acme.search.1_0_0"


async def test_what_no_replica_wrote_is_no_tool(world: World) -> None:
    tools, expires = world.first.tools, time.time() + 60
    heard: list[ToolChange] = []
    await tools.listen(heard.append)
    revision = await tools.put(TOOL, b"{}", expires=expires, revision=0, keep_s=60)
    for count, payload in enumerate((ACK, b"{}", b"\xff"), start=1):
        at = await world.write(TOOL_SUBJECT, payload)
        assert await tools.get(TOOL) is None
        snapshot = await tools.snapshot()
        assert snapshot.tools == []
        assert snapshot.foreign == [ToolChange(at, TOOL, None, is_foreign=True)]
        revision = await tools.put(TOOL, b"{}", expires=expires, revision=revision, keep_s=60)
        await world.until(lambda n=count: len(heard) == 1 + 2 * n)  # type: ignore[misc]
        assert heard[-2] == ToolChange(at, TOOL, None, is_foreign=True)
    stored = await world.second.tools.get(TOOL)
    assert stored is not None
    assert (stored.document, stored.revision) == (b"{}", revision)
    assert world.foreign_writes["LLM_TOOL"] >= 3


async def test_what_was_written_by_another_replica_is_not_written_over(world: World) -> None:
    expires = time.time() + 60
    first = await world.first.tools.put(TOOL, b"1", expires=expires, revision=0, keep_s=60)
    await world.second.tools.put(TOOL, b"2", expires=expires, revision=first, keep_s=60)
    with pytest.raises(Conflict):
        await world.first.tools.put(TOOL, b"3", expires=expires, revision=first, keep_s=60)


async def test_a_strangers_tool_can_be_taken_away(world: World) -> None:
    await world.first.tools.discard(await world.write(TOOL_SUBJECT, ACK))
    assert await world.stored(TOOL_SUBJECT) == []


async def test_steps_that_no_owner_wrote_are_none(world: World) -> None:
    journal = world.first.journal
    fence = await world.first.jobs.create(job_state("j1"))
    await journal.append("acme", "j1", b"1", fence=fence, keep_s=60)
    for payload in GARBAGE.values():
        await world.write("$KV.LLM_JOB.acme.j1.journal", payload)
    await journal.append("acme", "j1", b"2", fence=fence, keep_s=60)
    assert list(await journal.read("acme", "j1")) == [b"1", b"2"]
    assert list(await world.second.journal.read("acme", "j1")) == [b"1", b"2"]


async def test_what_lies_over_a_dead_letter_does_not_hide_it(world: World) -> None:
    subject = Subjects().dead("acme", "j1")
    request = StoredRequest(7, Lane("acme", "batch"), b"{}", {}, time.time())
    await world.write(subject, ACK)
    assert await world.first.dead.get("acme", "j1") is None
    seq = await world.first.dead.put("j1", request, reason="crash_loop")
    await world.write(subject, ACK)
    await world.write(Subjects().dead("acme", "j2"), b"\xff")
    assert [letter.seq for letter in await world.first.dead.list("acme")] == [seq]
    letter = await world.first.dead.get("acme", "j1")
    assert letter is not None
    assert letter.seq == seq
    assert await world.first.dead.put("j1", request, reason="crash_loop") == seq


async def test_what_lies_over_an_objects_description_does_not_hide_it(world: World) -> None:
    if not isinstance(world, NatsWorld):
        pytest.skip("objects in memory have no bucket that others could write to")
    blobs, subject = world.first.blobs, meta_subject("acme", "answer")
    await blobs.put("acme", "answer", b"the answer")
    for payload in ACKNOWLEDGEMENTS.values():
        await world.write(subject, payload)
        assert await world.second.blobs.get("acme", "answer", max_bytes=100) == b"the answer"
        assert len(await world.stored(subject)) == 1
    await blobs.delete("acme", "answer")
    await world.write(subject, ACK)
    assert await blobs.info("acme", "answer") is None
