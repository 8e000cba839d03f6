"""What the storage adapters make of what a server, or anybody, may send them."""

import json
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StreamReader, split_headers
from sidecar.adapters.nats.intake import NatsIntake
from sidecar.adapters.nats.job_store import NatsJobStore
from sidecar.adapters.nats.publisher import NatsPublisher
from sidecar.errors import BusUnavailable, SidecarError
from sidecar.models.subjects import Subjects
from sidecar.ports.bus import Doorbell, Lane, StoredEvent
from tests.support.bus_world import event, job_state
from tests.support.scripted_connection import Answer, ScriptedConnection, Sent

SERVER = b"\r\nNats-Stream: LLM_REQ\r\nNats-Subject: %b\r\nNats-Sequence: %b\r\nNats-Msg-Size: %b\r\n\r\n"
COMPARED = b"\r\nNats-Expected-Last-Subject-Sequence: 1"


class Wire:
    """A mux over a connection that answers what the test says."""

    def __init__(self) -> None:
        self.answers: Sequence[Answer] = ()
        self.connection = ScriptedConnection(lambda _: self.answers)
        self.mux = Mux(self.connection, timeout_s=20)

    @property
    def sent(self) -> list[Sent]:
        return self.connection.sent


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    wire = Wire()
    await wire.mux.start()
    yield wire
    await wire.mux.close()


def intake() -> NatsIntake:
    return NatsIntake(Wire().mux, Subjects())


@given(st.binary(max_size=200), st.binary(max_size=60), st.binary(max_size=200))
def test_no_bytes_on_the_doorbell_subject_raise(headers: bytes, subject: bytes, payload: bytes) -> None:
    bell = intake()._doorbell(BusMessage(payload, headers, subject=subject))
    assert bell is None or bell.seq >= 0


@given(st.text(min_size=1, max_size=40), st.integers(1, 2**63), st.integers(0, 10**9))
def test_a_lane_can_be_made_of_every_subject(tokens: str, seq: int, size: int) -> None:
    subject = b"llm.v1.request." + tokens.encode("utf-8", "replace").replace(b"\r", b"r").replace(b"\n", b"n")
    raw = b"NATS/1.0" + SERVER % (subject, b"%d" % seq, b"%d" % size)
    bell = intake()._doorbell(BusMessage(b"", raw))
    assert bell is not None
    assert (bell.seq, bell.size) == (seq, size)


@given(
    st.lists(st.sampled_from(["Nats-Stream: x", "Nats-Subject: llm.v1.request.v.i", "Nats-Sequence: 9", "A: b"]))
)
def test_only_the_servers_own_headers_count(lines: list[str]) -> None:
    own = "".join(f"\r\n{line}" for line in lines).encode()
    raw = b"NATS/1.0" + own + SERVER % (b"llm.v1.request.acme.batch", b"5", b"7")
    found, server = split_headers(raw)
    assert found.removesuffix(b"\r\n") == b"NATS/1.0" + own
    assert server["Nats-Subject"] == "llm.v1.request.acme.batch"
    assert intake()._doorbell(BusMessage(b"", raw)) == Doorbell(5, Lane("acme", "batch"), 7, None)


async def test_the_backlog_is_read_page_by_page_with_the_first_pages_last_sequence(wire: Wire) -> None:
    pages = [[f"llm.v1.request.t{i}.batch" for i in range(start, start + 3)] for start in (0, 3)]
    pages.append(["llm.v1.request.t6.batch"])

    def script(sent: Sent) -> Sequence[Answer]:
        offset = json.loads(sent.payload)["offset"]
        page = pages[offset // 3]
        state = {"first_seq": 1, "last_seq": 100 + offset, "subjects": dict.fromkeys(page, 2)}
        return [Answer(b"", json.dumps({"total": 7, "offset": offset, "limit": 3, "state": state}).encode())]

    wire.connection._script = script
    backlog = await NatsIntake(wire.mux, Subjects()).backlog()
    assert backlog.counts == {Lane(f"t{i}", "batch"): 2 for i in range(7)}
    assert backlog.last_seq == 100
    assert [json.loads(sent.payload)["offset"] for sent in wire.sent] == [0, 3, 6]


async def test_events_carry_the_fence_and_their_time_to_live(wire: Wire) -> None:
    wire.answers = [Answer(b"", b'{"stream":"KV_LLM_JOB","seq":9}')]
    await NatsPublisher(wire.mux, Subjects(), events_s=3600).publish(event(1), fence=41)
    assert wire.sent[-1].subject == "llm.v1.log.acme.j1.delta"
    assert wire.sent[-1].headers == {
        "Nats-Expected-Last-Subject-Sequence": "41",
        "Nats-Expected-Last-Subject-Sequence-Subject": "$KV.LLM_JOB.acme.j1",
        "Nats-TTL": "3600",
    }


async def test_one_replica_is_read_directly_and_three_by_their_leader(wire: Wire) -> None:
    wire.answers = [Answer(b"NATS/1.0 404 Message Not Found\r\n\r\n", b"")]
    assert not await NatsJobStore(wire.mux).is_cancelled("acme", "j1")
    wire.answers = [Answer(b"", b'{"error":{"code":404,"err_code":10037}}')]
    assert not await NatsJobStore(wire.mux, is_replicated=True).is_cancelled("acme", "j1")
    assert [sent.subject for sent in wire.sent] == [
        "$JS.API.DIRECT.GET.KV_LLM_CANCEL.$KV.LLM_CANCEL.acme.j1",
        "$JS.API.STREAM.MSG.GET.KV_LLM_CANCEL",
    ]


async def test_what_is_no_state_document_is_said_to_be_none(wire: Wire) -> None:
    server = b"\r\nNats-Stream: S\r\nNats-Subject: a\r\nNats-Sequence: 3\r\nNats-Time-Stamp: t\r\n\r\n"
    wire.answers = [Answer(b"NATS/1.0" + COMPARED + server, b"[]")]
    assert await NatsJobStore(wire.mux).get("acme", "j1") is None
    assert (await NatsJobStore(wire.mux).look("acme", "j1")).revision == 3


async def test_a_deleted_key_is_no_document_and_no_mark(wire: Wire) -> None:
    headers = (
        b"NATS/1.0\r\nKV-Operation: DEL\r\nNats-Stream: S\r\nNats-Subject: a\r\nNats-Sequence: 3\r\n"
        b"Nats-Time-Stamp: t\r\n\r\n"
    )
    wire.answers = [Answer(headers, b"")]
    assert await NatsJobStore(wire.mux).get("acme", "j1") is None
    assert not await NatsJobStore(wire.mux).is_cancelled("acme", "j1")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"NATS/1.0 408 Empty Request\r\n\r\n", b""),
        Answer(b"NATS/1.0 413 Too Many Results\r\n\r\n", b""),
        Answer(b"", b"not from JetStream"),
        Answer(b"NATS/1.0\r\nNats-Stream: S\r\n\r\n", b""),
        Answer(b"NATS/1.0 503\r\n\r\n", b""),
    ],
)
async def test_answers_that_are_none_are_errors_of_ours(wire: Wire, answer: Answer) -> None:
    wire.answers = [answer]
    reader = StreamReader(wire.mux, "S", is_replicated=False)
    with pytest.raises(SidecarError):
        await reader.get(1)
    with pytest.raises(SidecarError):
        await reader.batch("a", seq=1, limit=10)


async def test_silence_within_a_batch_is_an_error_not_a_short_answer(wire: Wire) -> None:
    headers = b"NATS/1.0\r\nNats-Stream: S\r\nNats-Subject: a\r\nNats-Sequence: 3\r\nNats-Time-Stamp: t\r\n\r\n"

    def script(_: Sent) -> Sequence[Answer]:
        return [Answer(headers, b"{}")]

    wire.connection._script = script
    reader = StreamReader(wire.mux, "S", is_replicated=False)
    wire.mux._timeout_s = 0.05
    with pytest.raises(BusUnavailable):
        await reader.batch("a", seq=1, limit=10)


async def test_what_is_no_event_is_left_out_of_a_replay(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    def stored(seq: int, payload: bytes) -> Answer:
        head = "Nats-Stream: S\r\nNats-Subject: llm.v1.log.acme.j1.delta\r\nNats-Time-Stamp: t\r\n"
        return Answer(b"NATS/1.0" + COMPARED + f"\r\n{head}Nats-Sequence: {seq}\r\n\r\n".encode(), payload)

    good = b'{"attempt":1,"n":1}'
    wire.answers = [
        stored(1, b"\xff"),
        stored(2, good),
        stored(3, b"[]"),
        stored(4, good),
        Answer(b"NATS/1.0 204 EOB\r\n\r\n", b""),
    ]
    publisher = NatsPublisher(wire.mux, Subjects(), events_s=60)
    assert [item async for item in publisher.replay("acme", "j1")] == [StoredEvent("delta", good)]
    assert caplog.text.count("is no event") == 2


async def test_a_failed_delete_is_only_forgiven_when_the_message_has_gone(wire: Wire) -> None:
    failed = Answer(b"", b'{"error":{"code":500,"err_code":10057,"description":"no space left"}}')

    def script(sent: Sent) -> Sequence[Answer]:
        if "MSG.GET" in sent.subject:
            message = {"subject": "a", "seq": 3, "time": "t"}
            return [Answer(b"", json.dumps({"message": message}).encode())]
        return [failed]

    wire.connection._script = script
    with pytest.raises(BusUnavailable, match="no space left"):
        await NatsIntake(wire.mux, Subjects()).delete(3)


async def test_a_state_with_an_odd_name_is_not_written(wire: Wire) -> None:
    with pytest.raises(SidecarError):
        await NatsJobStore(wire.mux).create(job_state("a.b"))
    assert wire.sent == []
