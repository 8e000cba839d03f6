"""What every `Intake` promises."""

import asyncio

import pytest

from sidecar.errors import BusRefused
from sidecar.ports.bus import Doorbell, Lane
from tests.support.bus_world import MAX_QUEUE, World

LANE = Lane("acme", "batch")


async def test_a_request_is_read_as_it_was_submitted(world: World) -> None:
    intake = world.first.intake
    seq = await intake.submit(LANE, b'{"a": 1}', {"Llm-Job-Id": "j1", "traceparent": "00-ab"})
    for found in (await intake.get(seq), (await intake.read(LANE, after_seq=0, limit=9))[0]):
        assert found is not None
        assert (found.seq, found.lane, found.payload) == (seq, LANE, b'{"a": 1}')
        assert dict(found.headers) == {"Llm-Job-Id": "j1", "traceparent": "00-ab"}
        assert abs(found.stored_at - world.now()) < 600


async def test_a_request_without_headers_and_without_payload_is_read(world: World) -> None:
    seq = await world.first.intake.submit(LANE, b"", {})
    found = await world.second.intake.get(seq)
    assert found is not None
    assert (found.payload, dict(found.headers)) == (b"", {})


async def test_every_replica_hears_a_doorbell_with_place_size_and_job(world: World) -> None:
    heard: tuple[list[Doorbell], list[Doorbell]] = ([], [])
    await world.first.intake.listen(heard[0].append)
    await world.second.intake.listen(heard[1].append)
    first = await world.first.intake.submit(LANE, b"12345", {"Llm-Job-Id": "j1"})
    second = await world.second.intake.submit(Lane("other", "standard"), b"", {})
    expected = [Doorbell(first, LANE, 5, "j1"), Doorbell(second, Lane("other", "standard"), 0, None)]
    await world.until(lambda: all(len(bells) == 2 for bells in heard))
    assert sorted(heard[0]) == sorted(heard[1]) == expected


async def test_the_backlog_counts_lanes_and_knows_the_last_sequence(world: World) -> None:
    intake = world.first.intake
    assert (await intake.backlog()).counts == {}
    seqs = [await intake.submit(Lane(f"t{i % 3}", "batch"), b"{}", {}) for i in range(7)]
    backlog = await intake.backlog()
    assert backlog.counts == {Lane("t0", "batch"): 3, Lane("t1", "batch"): 2, Lane("t2", "batch"): 2}
    assert backlog.last_seq == seqs[-1] == await intake.last_seq()


async def test_the_last_sequence_outlives_deletion(world: World) -> None:
    seq = await world.first.intake.submit(LANE, b"{}", {})
    await world.first.intake.delete(seq)
    assert await world.first.intake.last_seq() == seq
    assert (await world.first.intake.backlog()).counts == {}


async def test_a_lane_is_read_oldest_first_from_a_place_up_to_a_limit(world: World) -> None:
    intake = world.first.intake
    seqs = []
    for i in range(10):
        seqs.append(await intake.submit(LANE, b"%d" % i, {}))
        await intake.submit(Lane("acme", "standard"), b"other", {})
    await intake.delete(seqs[4])
    found = await intake.read(LANE, after_seq=seqs[2], limit=3)
    assert [request.payload for request in found] == [b"3", b"5", b"6"]
    assert await intake.read(LANE, after_seq=seqs[-1], limit=3) == []
    assert await intake.read(Lane("nobody", "batch"), after_seq=0, limit=3) == []


async def test_large_requests_are_read_in_several_goes(world: World) -> None:
    intake = world.first.intake
    for i in range(12):
        await intake.submit(LANE, b"%02d" % i + b"x" * 900_000, {})
    found: list[bytes] = []
    after = 0
    while part := await intake.read(LANE, after_seq=after, limit=16):
        found += [request.payload[:2] for request in part]
        after = part[-1].seq
    assert found == [b"%02d" % i for i in range(12)]


async def test_deleting_is_final_and_may_be_repeated(world: World) -> None:
    intake = world.first.intake
    seq = await intake.submit(LANE, b"{}", {})
    await intake.delete(seq)
    await world.second.intake.delete(seq)
    await intake.delete(10_000)
    assert await intake.get(seq) is None
    assert await intake.get(10_000) is None
    assert await intake.get(0) is None


async def test_a_full_lane_refuses_until_a_request_has_gone(world: World) -> None:
    intake = world.first.intake
    seqs = [await intake.submit(LANE, b"{}", {}) for _ in range(MAX_QUEUE)]
    with pytest.raises(BusRefused) as refused:
        await intake.submit(LANE, b"{}", {})
    assert refused.value.code == "queue_full"
    await intake.submit(Lane("other", "batch"), b"{}", {})
    await intake.delete(seqs[0])
    await intake.submit(LANE, b"{}", {})


async def test_a_repeated_message_id_is_stored_once_and_rings_once(world: World) -> None:
    intake = world.first.intake
    heard: list[Doorbell] = []
    await intake.listen(heard.append)
    headers = {"Nats-Msg-Id": "acme:j1", "Llm-Job-Id": "j1"}
    seqs = await asyncio.gather(*(intake.submit(LANE, b"{}", headers) for _ in range(5)))
    assert len(set(seqs)) == 1
    await intake.delete(seqs[0])
    assert await intake.submit(LANE, b"{}", headers) == seqs[0]
    last = await intake.submit(LANE, b"{}", {})
    assert last == seqs[0] + 1
    await world.until(lambda: len(heard) == 2)
    assert [bell.seq for bell in heard] == [seqs[0], last]


async def test_a_message_beyond_the_limit_is_refused(world: World) -> None:
    with pytest.raises(BusRefused) as refused:
        await world.first.intake.submit(LANE, b"x" * 1_100_000, {})
    assert refused.value.code == "payload_too_large"


@pytest.mark.parametrize("header", [("Nats-TTL", "5"), ("Nats-Rollup", "sub")])
async def test_headers_by_which_a_client_could_harm_others_are_refused(
    world: World, header: tuple[str, str]
) -> None:
    with pytest.raises(BusRefused) as refused:
        await world.first.intake.submit(LANE, b"{}", dict([header]))
    assert refused.value.code == "invalid_request"
    assert (await world.first.intake.backlog()).counts == {}


@pytest.mark.parametrize(
    "lane", [Lane("*", "batch"), Lane("a.b", "batch"), Lane("a", ">"), Lane("", "x"), Lane("a b", "x")]
)
async def test_nothing_is_submitted_to_what_is_no_lane(world: World, lane: Lane) -> None:
    with pytest.raises(BusRefused):
        await world.first.intake.submit(lane, b"{}", {})


@pytest.mark.parametrize(
    ("tokens", "lane"),
    [
        (b"*.batch", Lane("*", "batch")),
        (b"acme.>", Lane("acme", ">")),
        (b"acme.*", Lane("acme", "*")),
        ("é\u2028.b\x01tch".encode(), Lane("é\u2028", "b\x01tch")),
        (b"ac\xff\xfeme.batch", Lane("ac\ufffd\ufffdme", "batch")),
        (b"$%&/.'\"{}", Lane("$%&/", "'\"{}")),
        (b"a" * 300 + b".batch", Lane("a" * 300, "batch")),
    ],
)
async def test_requests_on_odd_subjects_are_seen_read_and_deleted_like_others(
    world: World, tokens: bytes, lane: Lane
) -> None:
    intake = world.first.intake
    heard: list[Doorbell] = []
    await intake.listen(heard.append)
    for i in range(3):
        await intake.submit(LANE, b"%d" % i, {})
    seq = await world.store_request(b"llm.v1.request." + tokens, b"odd", {"Llm-Job-Id": "odd"})
    await intake.submit(LANE, b"3", {})
    assert (await intake.backlog()).counts == {LANE: 4, lane: 1}
    found = await intake.read(lane, after_seq=0, limit=16)
    assert [(request.seq, request.lane, request.payload) for request in found] == [(seq, lane, b"odd")]
    assert await intake.read(lane, after_seq=seq, limit=16) == []
    alone = await intake.get(seq)
    assert alone is not None
    assert alone.lane == lane
    # Hints: the server rings for no subject with a wildcard in it.
    await world.until(lambda: {bell.seq for bell in heard} >= set(range(1, 6)) - {seq})
    assert all(bell == Doorbell(seq, lane, 3, "odd") for bell in heard if bell.seq == seq)
    await intake.delete(seq)
    assert (await intake.backlog()).counts == {LANE: 4}


async def test_a_client_cannot_forge_what_the_server_says_of_its_request(world: World) -> None:
    heard: list[Doorbell] = []
    await world.first.intake.listen(heard.append)
    forged = {
        "Nats-Stream": "LLM_REQ",
        "Nats-Subject": "llm.v1.request.victim.interactive",
        "Nats-Sequence": "999",
        "Nats-Time-Stamp": "2001-01-01T00:00:00Z",
        "Nats-Msg-Size": "1",
        "Llm-Job-Id": "j1",
    }
    seq = await world.store_request(b"llm.v1.request.acme.batch", b"payload", forged)
    found = (await world.first.intake.read(LANE, after_seq=0, limit=1))[0]
    assert (found.seq, found.lane) == (seq, LANE)
    assert found.stored_at > 1_700_000_000
    await world.until(lambda: len(heard) == 1)
    assert heard == [Doorbell(seq, LANE, 7, "j1")]
