"""What every `Blobs` promises."""

import os
from base64 import urlsafe_b64encode

import pytest

from sidecar.adapters.nats.blobs import NatsBlobs
from sidecar.adapters.nats.client.mux import Mux
from sidecar.config.settings import RetentionSettings, Settings
from sidecar.errors import BusRefused, Conflict, InvalidRequest, Permanent
from sidecar.models.objects import hex_digest, meta_subject
from sidecar.ports.bus import Blobs
from sidecar.runtime.lifecycle import SystemClock
from tests.support.bus_world import World

LIMIT = 8 * 1024 * 1024
BIG = os.urandom(3 * 1024 * 1024 + 17)


async def read(blobs: Blobs, name: str, tenant: str = "acme") -> bytes:
    return b"".join([piece async for piece in blobs.read(tenant, name)])


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(128 * 1024), BIG], ids=["empty", "one", "chunk", "big"])
async def test_what_was_put_is_read_by_every_replica(world: World, data: bytes) -> None:
    info = await world.first.blobs.put("acme", "a.bin", data)
    assert (info.bucket, info.name, info.size, info.sha256) == (
        "LLM_BLOB_acme",
        "a.bin",
        len(data),
        hex_digest(data),
    )
    assert await world.second.blobs.info("acme", "a.bin") == info
    assert await world.second.blobs.get("acme", "a.bin", max_bytes=LIMIT) == data
    assert await read(world.second.blobs, "a.bin") == data


async def test_any_name_is_a_name(world: World) -> None:
    for name in ("a b.png", "*.>", "ünïcode/😀", "x" * 1024):
        await world.first.blobs.put("acme", name, name.encode())
        assert await world.second.blobs.get("acme", name, max_bytes=LIMIT) == name.encode()


async def test_tenants_do_not_see_each_others_objects(world: World) -> None:
    await world.first.blobs.put("acme", "a", b"acme's")
    await world.first.blobs.put("globex", "a", b"globex's")
    assert await world.first.blobs.get("globex", "a", max_bytes=LIMIT) == b"globex's"
    await world.first.blobs.delete("globex", "a")
    assert await world.first.blobs.get("acme", "a", max_bytes=LIMIT) == b"acme's"


@pytest.mark.parametrize("tenant", ["", "a.b", "*", ">", "a b", "a\n"])
async def test_a_tenant_that_is_no_name_is_refused(world: World, tenant: str) -> None:
    with pytest.raises(InvalidRequest):
        await world.first.blobs.put(tenant, "a", b"x")
    with pytest.raises(InvalidRequest):
        await world.first.blobs.get(tenant, "a", max_bytes=LIMIT)


async def test_the_newer_object_takes_the_name(world: World) -> None:
    await world.first.blobs.put("acme", "a", b"one" * 100_000)
    await world.second.blobs.put("acme", "a", b"two")
    assert await world.first.blobs.get("acme", "a", max_bytes=LIMIT) == b"two"


async def test_what_is_not_there_is_not_there(world: World) -> None:
    blobs = world.first.blobs
    assert await blobs.get("nobody", "a", max_bytes=LIMIT) is None
    assert await blobs.info("nobody", "a") is None
    await blobs.delete("nobody", "a")
    await blobs.put("acme", "a", b"x")
    await blobs.delete("acme", "a")
    await blobs.delete("acme", "a")
    assert await world.second.blobs.get("acme", "a", max_bytes=LIMIT) is None
    with pytest.raises(Permanent) as caught:
        await read(blobs, "a")
    assert caught.value.code == "not_found"


async def test_more_than_the_reader_takes_is_refused(world: World) -> None:
    await world.first.blobs.put("acme", "a", b"x" * 1001)
    with pytest.raises(Permanent) as caught:
        await world.first.blobs.get("acme", "a", max_bytes=1000)
    assert caught.value.code == "payload_too_large"


async def test_a_full_bucket_says_so_and_keeps_what_it_holds(world: World) -> None:
    await world.first.blobs.put("acme", "a", b"kept")
    await world.first.blobs.put("acme", "b", os.urandom(4 * 1024 * 1024))
    with pytest.raises(BusRefused) as caught:
        await world.first.blobs.put("acme", "c", os.urandom(2 * 1024 * 1024))
    assert caught.value.code == "payload_too_large"
    assert await world.first.blobs.get("acme", "a", max_bytes=LIMIT) == b"kept"


async def test_an_upload_in_pieces_becomes_an_object_at_its_end(world: World) -> None:
    data = os.urandom(300_000)
    pieces = [data[:100_000], data[100_000:200_000], data[200_000:]]
    for part, piece in enumerate(pieces):
        await world.first.blobs.append("acme", "u1", part=part, data=piece)
        await world.second.blobs.append("acme", "u1", part=part, data=piece)
    assert await world.first.blobs.info("acme", "a") is None
    with pytest.raises(Conflict):
        await world.first.blobs.finish("acme", "a", upload="u1", parts=4, size=len(data), sha256=hex_digest(data))
    await world.second.blobs.finish("acme", "a", upload="u1", parts=3, size=len(data), sha256=hex_digest(data))
    assert await world.first.blobs.get("acme", "a", max_bytes=LIMIT) == data


async def test_an_object_that_is_not_what_it_says_is_refused(world: World) -> None:
    await world.first.blobs.append("acme", "u1", part=0, data=b"something")
    await world.first.blobs.finish("acme", "a", upload="u1", parts=1, size=9, sha256=hex_digest(b"something else"))
    with pytest.raises(Permanent) as caught:
        await world.first.blobs.get("acme", "a", max_bytes=LIMIT)
    assert caught.value.code == "invalid_request"
    with pytest.raises(Permanent):
        await read(world.first.blobs, "a")


async def test_a_bucket_that_cannot_be_made_is_a_refusal_and_no_endless_wait(nats_mux: Mux) -> None:
    retention = RetentionSettings(objects_bytes=1 << 55)
    blobs = NatsBlobs(nats_mux, Settings(retention=retention), clock=SystemClock())
    with pytest.raises(BusRefused, match="objects_bytes") as caught:
        await blobs.put("acme", "a", b"x")
    assert caught.value.code == "payload_too_large"
    assert await blobs.get("acme", "a", max_bytes=LIMIT) is None


async def test_a_bucket_that_was_removed_is_made_again(nats_mux: Mux) -> None:
    blobs = NatsBlobs(nats_mux, Settings(retention=RetentionSettings(objects_bytes=1 << 20)), clock=SystemClock())
    await blobs.put("acme", "a", b"x")
    await nats_mux.api("STREAM.DELETE.OBJ_LLM_BLOB_acme")
    await blobs.put("acme", "a", b"y")
    assert await blobs.get("acme", "a", max_bytes=LIMIT) == b"y"
    await nats_mux.api("STREAM.DELETE.OBJ_LLM_BLOB_acme")


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"name":"a","bucket":"LLM_BLOB_acme","nuid":">","size":1}',
        b'{"name":"a","bucket":"LLM_BLOB_acme","nuid":"u","size":-1}',
        b'{"name":"a","bucket":"LLM_BLOB_acme","nuid":"u","size":9,"digest":"SHA-256=AAAA"}',
        b'{"name":"a","bucket":"LLM_BLOB_acme","options":{"link":{"bucket":"LLM_BLOB_globex","name":"a"}}}',
    ],
)
async def test_a_description_by_a_strange_hand_leads_nowhere(nats_mux: Mux, document: bytes) -> None:
    blobs = NatsBlobs(nats_mux, Settings(retention=RetentionSettings(objects_bytes=1 << 20)), clock=SystemClock())
    await blobs.put("acme", "a", b"x")
    await nats_mux.store(meta_subject("acme", "a"), document)
    with pytest.raises(Permanent) as caught:
        await blobs.get("acme", "a", max_bytes=LIMIT)
    assert caught.value.code == "invalid_request"
    await nats_mux.api("STREAM.DELETE.OBJ_LLM_BLOB_acme")


async def test_an_upload_whose_name_would_reach_further_is_refused(world: World) -> None:
    for upload in (">", "a.b", urlsafe_b64encode(b"\xff" * 90).decode()):
        with pytest.raises(InvalidRequest):
            await world.first.blobs.append("acme", upload, part=0, data=b"x")
