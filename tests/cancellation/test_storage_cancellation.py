"""The storage adapters, cancelled at each await: nothing stays behind in mux, connection or loop."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from sidecar.adapters.nats.client.mux import Mux
from sidecar.models import codec
from sidecar.ports.bus import Lane, StoredRequest
from sidecar.ports.tools import ToolCall, ToolKey
from tests.support.bus_world import Storage, event, job_state, nats_storage, result
from tests.support.scripted_connection import Answer, ScriptedConnection, Sent, cancel_at_each_step

STATE = "$KV.LLM_JOB.acme.j1"
LANE = Lane("acme", "batch")
REQUEST = StoredRequest(1, LANE, b"{}", {}, 1_800_000_000.0)
TOOL = ToolKey("acme", "search", "1.0.0")
CALL = ToolCall(
    subject="llm.v1.call.acme.search.1_0_0", payload=b"{}", headers={"Idempotency-Key": "acme.j1.1.0"}, timeout_s=5
)
NOT_FOUND = Answer(b"NATS/1.0 404 Message Not Found\r\n\r\n", b"")
CONFLICT = b'{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 1"}}'


FIRST_WRITE = b"Nats-Expected-Last-Subject-Sequence: 0\r\n"


def stored(subject: str, seq: int, payload: bytes, own: bytes = FIRST_WRITE) -> Answer:
    block = (
        b"NATS/1.0\r\n%bNats-Stream: S\r\nNats-Subject: %b\r\nNats-Sequence: %d\r\n"
        b"Nats-Time-Stamp: 2026-11-22T10:00:00Z\r\nNats-Num-Pending: 0\r\n\r\n"
    )
    return Answer(block % (own, subject.encode(), seq), payload)


END = Answer(b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 0\r\n\r\n", b"")
MORE = Answer(b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 1\r\n\r\n", b"")


def script(sent: Sent) -> Sequence[Answer]:
    """A server with one request, one job in two revisions, its events in two batches, and a lease taken."""
    subject = sent.subject.removeprefix("$JS.API.")
    body = json.loads(sent.payload) if sent.payload[:1] == b"{" and subject != sent.subject else {}
    state = codec.encode(job_state())
    if subject.startswith("STREAM.INFO"):
        counts = {"llm.v1.request.acme.batch": 1} if body.get("subjects_filter") else None
        info = {"total": 1, "offset": 0, "state": {"first_seq": 1, "last_seq": 3, "subjects": counts}}
        return [Answer(b"", json.dumps(info).encode())]
    if subject.startswith("STREAM.MSG.GET"):
        if "CANCEL" in subject or "OBJ_" in subject:
            return [Answer(b"", b'{"error":{"code":404,"err_code":10037,"description":"no message found"}}')]
        data = b64encode(b"rival" if "CTL" in subject else state).decode()
        message = {"subject": STATE, "seq": 2, "data": data, "time": "2026-11-22T10:00:00Z"}
        return [Answer(b"", json.dumps({"message": message}).encode())]
    if subject.startswith("STREAM."):
        return [Answer(b"", b'{"success":true}')]
    if "multi_last" in body:
        return [stored(STATE, 2, state), END]
    if "next_by_subj" in body:
        return batch(body["next_by_subj"], body["seq"], state)
    if subject.startswith("DIRECT.GET"):
        return [NOT_FOUND] if "CANCEL" in subject or "OBJ_" in subject else [stored(STATE, 2, state)]
    if subject.startswith("$KV.LLM_CTL.lease"):
        return [Answer(b"", CONFLICT)]
    return [Answer(b"", b'{"stream":"S","seq":3}')]


def batch(pattern: str, seq: int, state: bytes) -> Sequence[Answer]:
    if pattern.startswith("$KV"):
        return [stored(STATE, seq, state, FIRST_WRITE), END] if seq <= 2 else [NOT_FOUND]
    if ".log." in pattern:
        item = stored("llm.v1.log.acme.j1.delta", seq, codec.encode(event(seq)))
        return [item, MORE] if seq == 1 else [item, END]
    return [stored("llm.v1.request.acme.batch", 1, b"{}"), END]


async def replay(storage: Storage) -> None:
    assert len([item async for item in storage.publisher.replay("acme", "j1")]) == 2


async def wait_and_close(storage: Storage) -> None:
    waiter = await storage.publisher.wait_result("acme", "j1")
    await waiter.close()


OPERATIONS: dict[str, Callable[[Storage], Awaitable[object]]] = {
    "backlog": lambda s: s.intake.backlog(),
    "last_seq": lambda s: s.intake.last_seq(),
    "read": lambda s: s.intake.read(LANE, after_seq=0, limit=16),
    "read_odd": lambda s: s.intake.read(Lane("*", "batch"), after_seq=0, limit=16),
    "get_request": lambda s: s.intake.get(1),
    "delete": lambda s: s.intake.delete(1),
    "submit": lambda s: s.intake.submit(LANE, b"{}", {"Llm-Job-Id": "j1"}),
    "get_state": lambda s: s.jobs.get("acme", "j1"),
    "create": lambda s: s.jobs.create(job_state()),
    "update": lambda s: s.jobs.update(job_state(), revision=2),
    "list": lambda s: s.jobs.placed("acme", matches=lambda _: True, limit=9),
    "mark_cancelled": lambda s: s.jobs.mark_cancelled("acme", "j1"),
    "is_cancelled": lambda s: s.jobs.is_cancelled("acme", "j1"),
    "publish": lambda s: s.publisher.publish(event(1), fence=2),
    "publish_result": lambda s: s.publisher.publish_result(event(1, result())),
    "replay": replay,
    "wait_result": wait_and_close,
    "acquire": lambda s: s.leases.acquire("scheduler", "r1", ttl_s=5),
    "release": lambda s: s.leases.release("scheduler", revision=2),
    "holder": lambda s: s.leases.holder("scheduler"),
    "bury": lambda s: s.dead.put("j1", REQUEST, reason="crashed"),
    "purge": lambda s: s.dead.purge("acme", "j1"),
    "save": lambda s: s.checkpoints.save("quota", b"{}"),
    "load": lambda s: s.checkpoints.load("quota"),
    "append_step": lambda s: s.journal.append("acme", "j1", b"{}", fence=2, keep_s=60),
    "read_steps": lambda s: s.journal.read("acme", "j1"),
    "purge_steps": lambda s: s.journal.purge("acme", "j1"),
    "put_tool": lambda s: s.tools.put(TOOL, b"{}", expires=1.0, revision=0, keep_s=60),
    "delete_tool": lambda s: s.tools.delete(TOOL, revision=2),
    "call_tool": lambda s: s.tool_bus.call(CALL),
    "object_info": lambda s: s.blobs.info("acme", "photo"),
}


@pytest.fixture
def connection() -> ScriptedConnection:
    return ScriptedConnection(script)


@pytest.fixture
async def mux(connection: ScriptedConnection) -> AsyncIterator[Mux]:
    mux = Mux(connection, timeout_s=20)
    await mux.start()
    yield mux
    await mux.close()


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("is_replicated", [False, True], ids=["one", "three"])
async def test_nothing_stays_behind_when_an_operation_is_cancelled(
    mux: Mux, connection: ScriptedConnection, name: str, is_replicated: bool
) -> None:
    storage = nats_storage(mux, is_replicated=is_replicated)
    subscribed = set(connection.open)
    tasks = asyncio.all_tasks()
    operation = OPERATIONS[name]

    def check() -> None:
        assert not mux._waiting
        assert not mux._many
        assert connection.open == subscribed
        assert not (asyncio.all_tasks() - tasks)

    async def start() -> object:
        return await operation(storage)

    assert await cancel_at_each_step(start, check) > 1


@pytest.mark.parametrize("name", ["doorbells", "marks"])
async def test_a_cancelled_listen_hears_nothing_later(mux: Mux, connection: ScriptedConnection, name: str) -> None:
    storage = nats_storage(mux, is_replicated=False)
    subscribed = set(connection.open)
    heard: list[object] = []
    task = asyncio.ensure_future(
        storage.intake.listen(heard.append)
        if name == "doorbells"
        else storage.jobs.listen_cancelled(lambda tenant, job: heard.append((tenant, job)))
    )
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert connection.open == subscribed


async def test_a_waiter_that_was_cancelled_is_not_asked_for_after_a_reconnect(
    mux: Mux, connection: ScriptedConnection
) -> None:
    storage = nats_storage(mux, is_replicated=False)
    task = asyncio.ensure_future(storage.publisher.wait_result("acme", "j1"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    before = len(connection.sent)
    for callback in connection.states:
        callback("connected")
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(connection.sent) == before
